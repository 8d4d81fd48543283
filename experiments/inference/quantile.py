"""Quantile rewards: what the approximate log Z of QRPO costs.

Source: Matrenok, Moalla and Gulcehre 2025, "Quantile reward policy optimization: alignment with pointwise regression and exact
partition functions", arXiv 2507.08068. The reward is its own quantile under the reference, so uniform on [0, 1], and log Z is
log(beta (e^(1/beta) - 1)); its published loss takes log beta + 1/beta, which is too large by -log(1 - e^(-1/beta)).
Its loss is the squared distance of u = log(pi/pi_ref) from t = r/beta - log Z on answers of the reference. The least-squares
policies are derived here, in `least_squares`.
"""

from typing import NamedTuple

import numpy as np
import scipy


class Fit(NamedTuple):
    """The log-ratios of a least-squares policy, and whether all of them lie on the principal branch."""

    log_ratio: np.ndarray
    regular: bool


def log_z(beta: float) -> float:
    """log E[e^(r/beta)] of a reward that is uniform on [0, 1]."""
    return float(np.log(beta) + 1.0 / beta + np.log1p(-np.exp(-1.0 / beta)))


def approximate_log_z(beta: float) -> float:
    """log beta + 1/beta."""
    return float(np.log(beta) + 1.0 / beta)


def targets(beta: float, reward: np.ndarray) -> np.ndarray:
    """The log-ratios that the regression aims at, with the approximate log Z."""
    return reward / beta - approximate_log_z(beta)


def least_squares(beta: float, reward: np.ndarray, reference: np.ndarray) -> Fit:
    """A local minimum of E_ref[(u - t)^2] over all policies, which satisfy E_ref[e^u] = 1: the one next to the reference.

    (Many equally likely answers have lower ones: what the targets leave over, on one answer alone, costs almost nothing.)
    The targets have E_ref[e^t] = 1 - e^(-1/beta) < 1. With a multiplier m, u - t = m e^u, so u = t - W(-m e^t) with Lambert's
    W: on the principal branch, or, where even the largest m does not raise the sum to 1, with the answer of the largest reward
    on the other branch: at most one answer can be there at a minimum, by the second-order condition.
    """
    target = targets(beta, reward)
    largest = float(np.exp(-1.0 - target.max())) * (1.0 - 1e-12)  # W ends at -1/e
    top = int(np.argmax(target))

    def log_ratio(multiplier: float, other_branch: bool) -> np.ndarray:
        argument = -multiplier * np.exp(target)
        root = scipy.special.lambertw(argument).real
        if other_branch:
            root[top] = scipy.special.lambertw(argument[top], -1).real
        return target - root

    def excess(multiplier: float, other_branch: bool) -> float:
        return float(reference @ np.exp(log_ratio(multiplier, other_branch))) - 1.0

    regular = excess(largest, False) >= 0.0
    low = 0.0 if regular else 1e-9 * largest
    multiplier = scipy.optimize.brentq(excess, low, largest, args=(not regular,), xtol=1e-18, rtol=1e-14)
    return Fit(log_ratio(float(multiplier), not regular), regular)


def regret(beta: float, reward: np.ndarray, reference: np.ndarray, log_ratio: np.ndarray) -> float:
    """J(pi*) - J(pi) = beta KL(pi‖pi*)."""
    log_best = reward / beta - scipy.special.logsumexp(reward / beta, b=reference)
    return beta * float((reference * np.exp(log_ratio)) @ (log_ratio - log_best))


def uniform(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss and Legendre's quadrature on [0, 1], which stand for a reward without ties."""
    x, weight = np.polynomial.legendre.leggauss(nodes)
    return 0.5 * (x + 1.0), 0.5 * weight


def ranked(answers: int) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of so many equally likely answers in order, in the middle of their quantiles, and their probabilities."""
    return (np.arange(answers) + 0.5) / answers, np.full(answers, 1.0 / answers)


def largest_regular_beta() -> float:
    """The beta up to which least squares has a minimum without a single answer of large probability."""
    reward, reference = uniform(100)

    def excess(beta: float) -> float:
        target = targets(beta, reward)
        root = scipy.special.lambertw(-beta * (1.0 - 1e-12) * np.exp(target - 1.0)).real
        return float(reference @ np.exp(target - root)) - 1.0

    return float(scipy.optimize.brentq(excess, 0.5, 1.5))
