"""Many data sets of preferences between the arms of a bandit, and the rewards fitted to them, all at once in NumPy.

Pairs are drawn from the reference and judged once, by Bradley-Terry on the gold reward, as `rlkl.tasks.preferences` does it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit


class Problem(NamedTuple):
    """A bandit: the reference's probability of each arm and the gold reward; the first arm is the best."""

    reference: Float[np.ndarray, " A"]
    gold: Float[np.ndarray, " A"]


BAD = 8  # arms of the lowest reward, of equal reference probability


def best_covered(c: float) -> Problem:
    """The best arm has probability c; the rest is half the second best arm's and half the bad arms'."""
    return Problem(np.array([c, *[0.5 * (1.0 - c)], *[0.5 * (1.0 - c) / BAD] * BAD]), np.array([1.0, 0.5, *[0.0] * BAD]))


def bad_covered(m: float) -> Problem:
    """The best arm has probability .3 and the bad arms m together; the rest is the second best arm's."""
    return Problem(np.array([0.3, 0.7 - m, *[m / BAD] * BAD]), np.array([1.0, 0.5, *[0.0] * BAD]))


def wins(problem: Problem, pairs: int, count: int, generator: np.random.Generator) -> Float[np.ndarray, "M A A"]:
    """How often each arm was preferred to each other one in each of `count` data sets."""
    arms = len(problem.gold)
    first, second = generator.choice(arms, (2, count, pairs), p=problem.reference)
    preferred = generator.random((count, pairs)) < expit(problem.gold[first] - problem.gold[second])
    winner, loser = np.where(preferred, first, second), np.where(preferred, second, first)
    place = (np.arange(count)[:, None] * arms + winner) * arms + loser
    found = np.bincount(place.ravel(), minlength=count * arms * arms).reshape(count, arms, arms).astype(float)
    found[:, np.arange(arms), np.arange(arms)] = 0.0
    return found


def fitted(won: Float[np.ndarray, "M A A"], ridge: float) -> Float[np.ndarray, "M A"]:
    """The Bradley-Terry values of each data set, with a penalty of ridge/2 times their sum of squares, by Newton's method."""
    judged, arms = won + won.transpose(0, 2, 1), np.arange(won.shape[1])
    values = np.zeros(won.shape[:2])
    for _ in range(100):
        p = expit(values[:, :, None] - values[:, None, :])
        slope = (judged * p - won).sum(axis=2) + ridge * values
        weight = judged * p * (1.0 - p)
        curvature = -weight
        curvature[:, arms, arms] = weight.sum(axis=2) + ridge
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        # A step of at most 2 in any value: far from the optimum the plain one may overshoot.
        values = values - step * np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        if np.abs(step).max() < 1e-10:
            return values
    raise ArithmeticError("the fit of some data set has not converged")


def unbeaten(won: Float[np.ndarray, "M A A"], arms: slice) -> Float[np.ndarray, " M"]:
    """Whether each data set has one of these arms that was compared with another one and never lost."""
    return np.any((won.sum(axis=2)[:, arms] > 0.0) & (won.sum(axis=1)[:, arms] == 0.0), axis=1)


def separated(won: Float[np.ndarray, "M A A"]) -> Float[np.ndarray, " M"]:
    """Whether each data set has a compared arm, or set of arms, that never lost to the rest, or never won against it.

    By reachability along wins: the likelihood has a maximum where every compared arm reaches every other one (Ford 1957).
    """
    compared = (won.sum(axis=1) + won.sum(axis=2)) > 0.0
    reach = (won > 0.0) | np.eye(won.shape[1], dtype=bool)
    for _ in range(4):  # 2^4 steps, more than there are arms
        reach = np.einsum("mij,mjk->mik", reach.astype(int), reach.astype(int)) > 0
    needed = compared[:, :, None] & compared[:, None, :]
    return ~np.all(reach | ~needed, axis=(1, 2))
