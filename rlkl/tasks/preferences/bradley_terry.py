"""Bradley-Terry models of pairwise preferences, fitted by maximum likelihood.

P(first preferred) = sigmoid(score(first) - score(second)). The score of an item is the value of its group plus a linear
function of its covariates. n pairs of M items, G groups, K covariates. NumPy on the host.

Source: Bradley and Terry, "Rank analysis of incomplete block designs" (Biometrika 39, 1952). That a finite maximum need not
exist: Ford, "Solution of a ranking problem from binary comparisons" (Am. Math. Monthly 64, 1957).
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

STEPS, TOLERANCE = 200, 1e-11  # Newton's method: largest number of steps; largest final gradient entry, per unit of weight
UNKNOWN = 1e3  # standard error, in units of the score, above which a coefficient counts as unbounded (separated pairs)
COLLINEAR = 1e-9  # smallest to largest eigenvalue of the covariates' second moments at which they count as collinear


class Pairs(NamedTuple):
    """Pairs of items with their outcomes.

    first, second: indices of the items. preferred: 1 where the first was preferred, 0 where the second was, or the probability
    of the first. weight: weight of the pair in the likelihood.
    """

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    preferred: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


class Fit(NamedTuple):
    """A fitted Bradley-Terry model.

    values: value of each group; they sum to 0, and a group in no pair has value 0. coefficients: of the covariates. stderr:
    standard errors of the coefficients, from the observed Fisher information plus the ridge.
    """

    values: Float[np.ndarray, " G"]
    coefficients: Float[np.ndarray, " K"]
    stderr: Float[np.ndarray, " K"]


def fit(
    pairs: Pairs,
    group: Int[np.ndarray, " M"],
    groups: int,
    covariates: Float[np.ndarray, "M K"],
    ridge: float = 0.0,
) -> Fit | None:
    """Fit by maximum likelihood, with a penalty of ridge/2 times the sum of squared values and coefficients.

    group: the group of each item. With a single group there are covariates only. None where no finite maximum exists: the
    pairs are separated, or some difference is not identified. A group in no pair gets value 0, the mean of all groups.
    """
    change = covariates[pairs.first] - covariates[pairs.second]
    compared, place = np.unique(group[np.concatenate([pairs.first, pairs.second])], return_inverse=True)
    compared, first, second = compared if groups > 1 else compared[:0], place[: len(pairs.first)], place[len(pairs.first) :]
    design = _design(first, second, compared.size, change)
    if ridge == 0.0 and not (_connected(pairs, first, second, compared.size) and _apart(pairs, change)):
        return None
    parameters, total = np.zeros(design.shape[1]), pairs.weight.sum()
    squares = design.multiply(design).T.tocsr()

    def loss(point):
        d = design @ point
        return pairs.weight @ (np.logaddexp(0.0, d) - pairs.preferred * d) + 0.5 * ridge * point @ point

    for _ in range(STEPS):
        d = design @ parameters
        gradient = design.T @ (pairs.weight * (scipy.special.expit(d) - pairs.preferred)) + ridge * parameters
        curvature = pairs.weight * scipy.special.expit(d) * scipy.special.expit(-d)
        information = (design.T @ scipy.sparse.diags_array(curvature) @ design).tocsr() + ridge * scipy.sparse.eye_array(
            parameters.size
        )
        scale = scipy.sparse.diags_array(1.0 / np.maximum(squares @ curvature + ridge, np.finfo(float).tiny))
        solve = partial(_solve, information, scale)
        if np.abs(gradient).max(initial=0.0) <= TOLERANCE * total:
            return _if_bounded(_read(parameters, solve, compared, groups), change, ridge)
        step, here, size = solve(gradient), loss(parameters), 1.0
        while size > 1e-9 and loss(parameters - size * step) > here + 1e-12 * abs(here):
            size *= 0.5
        parameters = parameters - size * step
    return None


def _solve(information, preconditioner, vector):
    """The inverse of the information matrix times a vector, by conjugate gradients."""
    return scipy.sparse.linalg.cg(information, vector, rtol=1e-10, M=preconditioner)[0]


def _design(first, second, groups: int, change):
    """The sparse design matrix: one row d(score difference)/d(parameters) for each pair."""
    if not groups:
        return scipy.sparse.csr_array(change)
    count = len(first)
    rows, columns, sign = np.tile(np.arange(count), 2), np.concatenate([first, second]), np.repeat([1.0, -1.0], count)
    return scipy.sparse.hstack(
        [scipy.sparse.coo_array((sign, (rows, columns)), shape=(count, groups)), scipy.sparse.csr_array(change)]
    ).tocsr()


def _connected(pairs: Pairs, first, second, groups: int) -> bool:
    """Whether no set of groups was always preferred to the rest: else its values would have no bound (Ford 1957)."""
    if not groups:
        return True
    won, lost = pairs.preferred > 0.0, pairs.preferred < 1.0
    winner, loser = np.concatenate([first[won], second[lost]]), np.concatenate([second[won], first[lost]])
    wins = scipy.sparse.coo_array((np.ones(len(winner)), (winner, loser)), shape=(groups, groups))
    return scipy.sparse.csgraph.connected_components(wins, connection="strong")[0] == 1


def _apart(pairs: Pairs, change) -> bool:
    """Whether the differences of the covariates are linearly independent."""
    spread = np.linalg.eigvalsh((change * pairs.weight[:, None]).T @ change / pairs.weight.sum())
    return spread.size == 0 or bool(spread[0] > COLLINEAR * spread[-1] > 0.0)


def _if_bounded(fitted: Fit, change, ridge: float) -> Fit | None:
    """The fit, or None where a coefficient is unbounded: its standard error exceeds UNKNOWN."""
    size = fitted.stderr * np.sqrt(np.mean(np.square(change), axis=0))
    return None if ridge == 0.0 and (size > UNKNOWN).any() else fitted


def _read(parameters, solve, compared, groups: int) -> Fit:
    """The fit at these parameters; `solve` applies the inverse information, whose last diagonal entries are the variances."""
    values, count = np.zeros(groups), compared.size
    if count:
        values[compared] = parameters[:count] - parameters[:count].mean()
    unit = np.eye(parameters.size)[count:]
    variance = np.array([solve(row) @ row for row in unit])
    return Fit(values, parameters[count:], np.sqrt(variance))
