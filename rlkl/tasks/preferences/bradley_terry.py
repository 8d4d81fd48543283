"""Bradley-Terry models of pairs, by maximum likelihood: P(first preferred) = sigmoid(score(first) - score(second)).

A score is a value of the item's group plus a linear function of its covariates. NumPy on the host. n pairs of M items, G
groups, K covariates. Source: Bradley and Terry, "Rank analysis of incomplete block designs" (Biometrika 39, 1952); that a
finite optimum need not exist: Ford, "Solution of a ranking problem from binary comparisons" (Am. Math. Monthly 64, 1957).
"""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

STEPS, TOLERANCE = 200, 1e-11  # of Newton's method: the largest part of the gradient left, a pair
UNKNOWN = 1e3  # a coefficient's standard error, in units of the score, at which the pairs are separated
COLLINEAR = 1e-9  # the part of a covariate's variance, a pair, that its like leave to it


class Pairs(NamedTuple):
    """Pairs of items. preferred: 1 where the first was preferred, 0 where the second was, or the probability of the first;
    weight: how often the pair counts."""

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    preferred: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]


class Fit(NamedTuple):
    """values: of the groups (summing to 0), and 0 of those that stand in no pair; coefficients: of the covariates, and their
    standard errors by the observed Fisher information, the ridge included."""

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
    """The most likely values and coefficients, less ridge/2 times their sum of squares; None where no finite ones are most
    likely (the pairs are separated, or say nothing of some difference). One group has no value.

    A group in no pair gets 0, the mean of all: the ridge's choice, and the only one that favours no side.
    """
    change = covariates[pairs.first] - covariates[pairs.second]
    seen, place = np.unique(group[np.concatenate([pairs.first, pairs.second])], return_inverse=True)
    seen, first, second = seen if groups > 1 else seen[:0], place[: len(pairs.first)], place[len(pairs.first) :]
    design = _design(first, second, seen.size, change)
    if ridge == 0.0 and not (_connected(pairs, first, second, seen.size) and _apart(pairs, change)):
        return None
    parameters, total = np.zeros(design.shape[1]), pairs.weight.sum()
    squares = design.multiply(design).T.tocsr()

    def loss(at):
        d = design @ at
        return pairs.weight @ (np.logaddexp(0.0, d) - pairs.preferred * d) + 0.5 * ridge * at @ at

    for _ in range(STEPS):
        d = design @ parameters
        gradient = design.T @ (pairs.weight * (scipy.special.expit(d) - pairs.preferred)) + ridge * parameters
        curvature = pairs.weight * scipy.special.expit(d) * scipy.special.expit(-d)
        information = (design.T @ scipy.sparse.diags_array(curvature) @ design).tocsr() + ridge * scipy.sparse.eye_array(
            parameters.size
        )
        scale = scipy.sparse.diags_array(1.0 / np.maximum(squares @ curvature + ridge, np.finfo(float).tiny))
        solve = lambda of: scipy.sparse.linalg.cg(information, of, rtol=1e-10, M=scale)[0]  # noqa: B023, E731
        if np.abs(gradient).max(initial=0.0) <= TOLERANCE * total:
            return _told(_read(parameters, solve, seen, groups), change, ridge)
        step, here, size = solve(gradient), loss(parameters), 1.0
        while size > 1e-9 and loss(parameters - size * step) > here + 1e-12 * abs(here):
            size *= 0.5
        parameters = parameters - size * step
    return None


def _design(first, second, kinds: int, change):
    """The rows d(score difference)/d(parameters), one a pair: sparse."""
    if not kinds:
        return scipy.sparse.csr_array(change)
    many = len(first)
    rows, places, sign = np.tile(np.arange(many), 2), np.concatenate([first, second]), np.repeat([1.0, -1.0], many)
    return scipy.sparse.hstack(
        [scipy.sparse.coo_array((sign, (rows, places)), shape=(many, kinds)), scipy.sparse.csr_array(change)]
    ).tocsr()


def _connected(pairs: Pairs, first, second, kinds: int) -> bool:
    """Whether no set of groups was preferred to the rest in every pair (Ford 1957): else its values would have no bound."""
    if not kinds:
        return True
    won, lost = pairs.preferred > 0.0, pairs.preferred < 1.0
    winner, loser = np.concatenate([first[won], second[lost]]), np.concatenate([second[won], first[lost]])
    over = scipy.sparse.coo_array((np.ones(len(winner)), (winner, loser)), shape=(kinds, kinds))
    return scipy.sparse.csgraph.connected_components(over, connection="strong")[0] == 1


def _apart(pairs: Pairs, change) -> bool:
    """Whether the pairs' differences in the covariates are not collinear."""
    spread = np.linalg.eigvalsh((change * pairs.weight[:, None]).T @ change / pairs.weight.sum())
    return spread.size == 0 or bool(spread[0] > COLLINEAR * spread[-1] > 0.0)


def _told(found: Fit, change, ridge: float) -> Fit | None:
    """The fit, unless its coefficients have run away to where every answer is certain."""
    size = found.stderr * np.sqrt(np.mean(np.square(change), axis=0))
    return None if ridge == 0.0 and (size > UNKNOWN).any() else found


def _read(parameters, solve, seen, groups: int) -> Fit:
    """The fit, and the standard errors of its coefficients: the last rows and columns of the information's inverse."""
    values, kinds = np.zeros(groups), seen.size
    if kinds:
        values[seen] = parameters[:kinds] - parameters[:kinds].mean()
    unit = np.eye(parameters.size)[kinds:]
    variance = np.array([solve(one) @ one for one in unit])
    return Fit(values, parameters[kinds:], np.sqrt(variance))
