"""Means and ratios of sums over clusters, with standard errors and 95% intervals that allow for skewed values.

Sequences, not tokens, are the sample; sequences of one prompt form a cluster, since they depend on one another through it.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

LEVEL = 0.95
FEWEST = 10  # clusters below which no interval is given


class Estimate(NamedTuple):
    """An estimate, its standard error and the ends of its 95% interval; NaN where there are too few clusters."""

    value: float
    stderr: float
    low: float
    high: float
    clusters: int


class Clusters(NamedTuple):
    """Which cluster each sequence belongs to, as numbers from 0."""

    labels: Int[np.ndarray, " N"]
    size: int

    def sums(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " C"]:
        """The sum of the values of each cluster."""
        return np.bincount(self.labels, values, self.size)

    def part(self, selected: np.ndarray) -> "Clusters":
        """The clusters of the selected sequences."""
        return clusters(self.labels[selected])


def clusters(labels: Int[np.ndarray, " N"]) -> Clusters:
    """The clusters of sequences with equal labels."""
    unique, index = np.unique(labels, return_inverse=True)
    return Clusters(index, len(unique))


def mean(values: Float[np.ndarray, " N"], by: Clusters) -> Estimate:
    """The mean over sequences."""
    return ratio(values, np.ones(len(values)), by)


def ratio(numerator: Float[np.ndarray, " N"], denominator: Float[np.ndarray, " N"], by: Clusters) -> Estimate:
    """The ratio of two sums over sequences, as of a KL and a number of tokens.

    The standard error is that of the linearised ratio, from the clusters' residuals. The interval is Hall's, which corrects the
    t interval for skewness ("On the removal of skewness by transformation", 1992).
    """
    top, bottom = by.sums(numerator), by.sums(denominator)
    total = float(bottom.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.divide(top.sum(), total))
    if by.size < 2 or not (math.isfinite(value) and math.isfinite(total)):
        return Estimate(value, math.nan, math.nan, math.nan, by.size)
    residuals = top - value * bottom
    power = float(residuals @ residuals)
    stderr = math.sqrt(by.size / (by.size - 1) * power) / abs(total)
    if by.size < FEWEST or power == 0.0:
        low, high = (value, value) if power == 0.0 and by.size >= FEWEST else (math.nan, math.nan)
        return Estimate(value, stderr, low, high, by.size)
    skewness = math.sqrt(by.size) * float(np.sum(residuals**3)) / power**1.5 * math.copysign(1.0, total)
    quantile = float(special.stdtrit(by.size - 1, 0.5 + LEVEL / 2.0))
    ends = [value - stderr * _corrected(x, skewness, by.size) for x in (quantile, -quantile)]
    return Estimate(value, stderr, ends[0], ends[1], by.size)


def _corrected(x: float, skewness: float, count: int) -> float:
    """Hall's inverse transformation of a quantile of the studentised mean of `count` values with this skewness."""
    a = skewness / (3.0 * math.sqrt(count))
    if abs(a) < 1e-9:
        return x
    inner = 1.0 + 3.0 * a * (x - skewness / (6.0 * math.sqrt(count)))
    return (math.copysign(abs(inner) ** (1.0 / 3.0), inner) - 1.0) / a


def z(estimate: Estimate, expected: float = 0.0) -> float:
    """How many standard errors an estimate lies from a value; NaN without a standard error."""
    difference = estimate.value - expected
    if estimate.stderr == 0.0:
        return 0.0 if difference == 0.0 else math.copysign(math.inf, difference)
    return difference / estimate.stderr


def effective_size(weights: Float[np.ndarray, " N"]) -> float:
    """Kish's effective sample size of weights that are not negative: (sum w)^2 / sum w^2."""
    largest = float(weights.max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return math.nan if largest == 0.0 else 1.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / (scaled @ scaled))
