"""Exact optima on arms with a gold reward and an error, by each penalty's closed form, in NumPy.

Along a penalty's path the optimum is parametrised by the constant of its closed form, from which the coefficient follows, so
that nothing has to be solved: chi-square by the reward c below which an arm has probability 0, KL(pi_ref‖pi) by how far its
constant stands above the largest reward.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

from rlkl import tasks
from rlkl.exact import best_of_n


class Arms(NamedTuple):
    """Arms: gold reward, error, and reference probability, Float["A"] each."""

    gold: np.ndarray
    error: np.ndarray
    reference: np.ndarray

    @property
    def proxy(self) -> np.ndarray:
        """The reward that is optimised."""
        return self.gold + self.error


class Point(NamedTuple):
    """A policy: its coefficient beta (or n), E[gold], E[error], KL(pi‖pi_ref), and chi2(pi‖pi_ref) and KL(pi_ref‖pi)."""

    strength: float
    gold: float
    error: float
    kl_pi_ref: float
    pearson: float
    kl_ref_pi: float

    @property
    def proxy(self) -> float:
        """E[gold + error]."""
        return self.gold + self.error


def arms(**options) -> Arms:
    """The arms of `bandit/heavy_tailed` with these options."""
    task = tasks.build("bandit/heavy_tailed", **options).task
    gold = np.asarray(task.gold)[1:]
    return Arms(gold, np.asarray(task.reward)[1:] - gold, np.exp(np.asarray(task.log_reference)[0]))


def mean(p: np.ndarray, values: np.ndarray) -> float:
    """E_p[values], by pairwise summation; a product of vectors of 10^5 would wait for BLAS's threads."""
    return float(np.sum(p * values))


def measure(over: Arms, ratio: np.ndarray, strength: float) -> Point:
    """The values of the policy with these ratios pi/pi_ref; probabilities are normalised against rounding."""
    pi = over.reference * ratio
    ratio, pi = ratio / pi.sum(), pi / pi.sum()
    kl_pi_ref, kl_ref_pi = (float(scipy.special.rel_entr(*pair).sum()) for pair in ((pi, over.reference), (over.reference, pi)))
    pearson = mean(over.reference, (ratio - 1.0) ** 2)
    return Point(strength, mean(pi, over.gold), mean(pi, over.error), kl_pi_ref, pearson, kl_ref_pi)


def under_kl_pi_ref(over: Arms, beta: float, proxy: np.ndarray | None = None) -> Point:
    """The optimum pi_ref e^(r/beta)/Z under KL(pi‖pi_ref). proxy: the reward r, if not the arms' own."""
    reward = over.proxy if proxy is None else proxy
    with np.errstate(under="ignore"):
        tilt = np.exp((reward - reward.max()) / beta)
        return measure(over, tilt / mean(over.reference, tilt), beta)


def under_pearson(over: Arms, lowest: float) -> Point:
    """The optimum pi_ref (r - c)_+/(2 beta) under chi2(pi‖pi_ref), with c = lowest and beta = E_ref[(r - c)_+]/2."""
    excess = np.maximum(over.proxy - lowest, 0.0)
    total = mean(over.reference, excess)
    return measure(over, excess / total, 0.5 * total)


def under_kl_ref_pi(over: Arms, log_offset: float) -> Point:
    """The optimum beta pi_ref/(L - r) under KL(pi_ref‖pi), with L = max r + e^log_offset and beta = 1/E_ref[1/(L - r)]."""
    weight = 1.0 / (np.exp(log_offset) + (over.proxy.max() - over.proxy))
    total = mean(over.reference, weight)
    return measure(over, weight / total, 1.0 / total)


def best_of(over: Arms, n: int) -> Point:
    """Best of n by the proxy."""
    return measure(over, best_of_n.ratios(over.reference, over.proxy, n), n)


def where(path: Callable[[float], Point], column: str, value: float, low: float, high: float) -> Point:
    """The point of a path at which a column has a value, between two parameters that bracket it."""
    root = scipy.optimize.brentq(lambda parameter: getattr(path(parameter), column) - value, low, high, xtol=1e-9, rtol=1e-11)
    return path(float(root))


def kl_pi_ref_at(over: Arms, column: str, value: float, proxy: np.ndarray | None = None) -> Point:
    """The optimum under KL(pi‖pi_ref) with this value in a column. proxy: the reward, if not the arms' own."""
    highest = float(np.log(over.proxy.max())) + 4.0
    return where(lambda log_beta: under_kl_pi_ref(over, float(np.exp(log_beta)), proxy), column, value, -5.0, highest)


def pearson_at(over: Arms, column: str, value: float) -> Point:
    """The optimum under chi2(pi‖pi_ref) with this value in a column; c is searched on a scale that reaches deep tails."""
    highest = float(np.arcsinh(over.proxy.max())) - 1e-6
    return where(lambda scale: under_pearson(over, np.sinh(scale)), column, value, -40.0, highest)


def kl_ref_pi_at(over: Arms, kl: float) -> Point:
    """The optimum under KL(pi_ref‖pi) whose divergence is `kl`."""
    return where(lambda offset: under_kl_ref_pi(over, offset), "kl_ref_pi", kl, -300.0, 60.0)


def raised_tail(t: float, power: float, degrees: float) -> Point:
    """A Student t error without end, with the probability beyond t raised to t^-power and both parts kept in proportion.

    Gold is independent of the error and so stays at its mean, 0. pearson and kl_ref_pi are those of the two parts, as KL is.
    """
    error = scipy.stats.t(df=degrees)
    beyond, raised = float(error.sf(t)), t**-power
    above = (degrees + t**2) / (degrees - 1.0) * float(error.pdf(t))  # E[X; X > t], and E[X] = 0
    error_mean = raised * above / beyond - (1.0 - raised) * above / (1.0 - beyond)
    log_up, log_down = np.log(raised / beyond), np.log1p(-raised) - np.log1p(-beyond)
    kl = raised * log_up + (1.0 - raised) * log_down
    pearson = (raised - beyond) ** 2 / (beyond * (1.0 - beyond))
    return Point(t, 0.0, error_mean, float(kl), pearson, float(-beyond * log_up - (1.0 - beyond) * log_down))
