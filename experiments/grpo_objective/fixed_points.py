"""Where group-standardised advantages and a penalty in the loss stand still, by the sums over groups written out in NumPy.

Rewards are 0 and 1, p is the probability of a success, v the reference's. With the population's standard deviation the expected
reward gradient is slope(G, p) grad p, and on the problem of two outcomes the penalty's is beta dD/dp.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

WIDEST = 2000.0  # log-odds up to which stationary points are searched
POINTS = 40_001


class FixedPoint(NamedTuple):
    """A stationary point: the log-odds of a success, and whether it is a maximum, which training is drawn to."""

    logit: float
    maximum: bool

    @property
    def p(self) -> float:
        """The probability of a success."""
        return float(scipy.special.expit(self.logit))

    @property
    def failure(self) -> float:
        """The probability of a failure, 1 - p."""
        return float(scipy.special.expit(-self.logit))


def slope(size: float, logit: np.ndarray) -> np.ndarray:
    """U_G'(p) = E[sqrt(m(1 - m))]/(p(1 - p)) with m = k/G, k ~ Binomial(G, p); 1/sqrt(p(1 - p)) for an infinite group."""
    if np.isinf(size):
        with np.errstate(over="ignore"):
            return 2.0 * np.cosh(0.5 * logit)
    # sqrt(k(G - k))/G C(G, k) p^(k - 1) (1 - p)^(G - k - 1), as the binomial distribution of k - 1 among G - 2.
    k = np.arange(1, int(size))
    log_ways = scipy.special.gammaln(size + 1) - scipy.special.gammaln(k + 1) - scipy.special.gammaln(size - k + 1)
    log_p, log_q = -np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)
    log_terms = log_ways + (k - 1) * log_p[:, None] + (size - k - 1) * log_q[:, None]
    return np.exp(log_terms) @ (np.sqrt(k * (size - k)) / size)


def penalty_slope(direction: str, logit: np.ndarray, v: float) -> np.ndarray:
    """dD/dp on the problem of two outcomes."""
    if direction == "kl_pi_ref":
        return logit - (np.log(v) - np.log1p(-v))
    with np.errstate(over="ignore"):
        return (1.0 - v) * (1.0 + np.exp(logit)) - v * (1.0 + np.exp(-logit))


def stationary(size: float, direction: str, v: float, beta: float) -> list[FixedPoint]:
    """Every stationary point from p = v on, in rising order; p = 1 is none."""
    start = float(np.log(v) - np.log1p(-v))
    # From p = 1 on the reward gradient of a finite group is sqrt(G - 1): beyond this log-odds the penalty outweighs it.
    reach = WIDEST if np.isinf(size) else min(WIDEST, start + 3.0 * np.sqrt(size) / beta + 50.0)
    reach = min(reach, 600.0) if np.isinf(size) or direction == "kl_ref_pi" else reach
    grid = start + (reach - start) * np.linspace(0.0, 1.0, POINTS) ** 2

    def pull(logit):
        points = np.atleast_1d(logit)
        return slope(size, points) - beta * penalty_slope(direction, points, v)

    values = pull(grid)
    crossings = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
    alone: Callable[[float], float] = lambda x: float(pull(x)[0])  # noqa: E731
    roots = [scipy.optimize.brentq(alone, grid[i], grid[i + 1], xtol=1e-13, rtol=1e-14) for i in crossings]
    return [FixedPoint(float(root), bool(values[i] > 0)) for root, i in zip(roots, crossings, strict=True)]


def attracting(size: float, direction: str, v: float, beta: float) -> float:
    """The log-odds at which ascent from the reference comes to rest; infinite where nothing stops it before p = 1."""
    points = stationary(size, direction, v, beta)
    return points[0].logit if points and points[0].maximum else np.inf


def critical_beta(v: float) -> float:
    """The beta below which an infinite group has no stationary point under KL(pi‖pi_ref), by minimising over p.

    There is one where 1/sqrt(p(1 - p)) = beta (log(p/v) - log((1 - p)/(1 - v))) for some p, so from the least ratio on.
    """
    start = float(np.log(v) - np.log1p(-v))
    ratio: Callable[[float], float] = lambda x: 2.0 * np.cosh(0.5 * x) / (x - start)  # noqa: E731
    return float(
        scipy.optimize.minimize_scalar(ratio, bounds=(start + 1e-6, 50.0), method="bounded", options={"xatol": 1e-12}).fun
    )
