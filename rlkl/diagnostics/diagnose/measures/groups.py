"""Groups of answers to one prompt: those without signal, and what a division by the group's deviation optimises.

Of binary rewards with success probability p, advantages (r - m)/s of groups of G answers ascend a utility U_G(p) with
U_G'(p) = sqrt((G-1)/G) E[sqrt(m(1-m))]/(p(1-p)), m = K/G and K binomial; plain rewards have slope 1. s is the sample standard
deviation, with the divisor G - 1, as in TRL and verl.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from rlkl.diagnostics.diagnose.measures.estimates import Clusters, Estimate, ratio
from rlkl.diagnostics.diagnose.measures.run import Run

EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)  # classes of success rates
PROBABILITIES = (0.025, 0.125, 0.3, 0.5, 0.7, 0.875, 0.975)  # their middles


class GroupRow(NamedTuple):
    """Groups with a success rate in a class: their share, and the slope of the utility at the middle of the class."""

    low: float
    high: float
    share: float
    slope: float


class Groups(NamedTuple):
    """The groups of a run.

    size: the median number of answers. zero_std: the share of groups whose rewards are all equal. std: the mean standard
    deviation within groups. binary: whether rewards have two values. weight: the factor of a prompt's reward gradient that the
    division by the deviation gives, on average over prompts weighted by p(1-p). rows: classes of success rates, of binary
    rewards.
    """

    groups: int
    size: float
    zero_std: Estimate
    std: Estimate
    binary: bool
    weight: Estimate | None
    rows: list[GroupRow]


def utility_slope(p: float, size: int) -> float:
    """U_G'(p): the factor of the reward's gradient at success probability p under division by the group's deviation.

    size: G, the number of answers.
    """
    k = np.arange(size + 1)
    m = k / size
    log_count = special.gammaln(size + 1) - special.gammaln(k + 1) - special.gammaln(size - k + 1)
    probability = np.exp(log_count + special.xlogy(k, p) + special.xlog1py(size - k, -p))
    return math.sqrt((size - 1) / size) * float(probability @ np.sqrt(m * (1.0 - m))) / (p * (1.0 - p))


def groups(run: Run) -> Groups | None:
    """The groups of a run with more than one answer; None without groups or rewards."""
    if not run.has("group", "reward"):
        return None
    by, rewards = run.clusters, run.table["reward"]
    sizes = by.sums(np.ones(len(rewards)))
    low, high = extremes(rewards, by)
    many = sizes > 1.5
    if not many.any():
        return None
    means = by.sums(rewards) / sizes
    variance = by.sums((rewards - means[by.labels]) ** 2) / sizes
    deviation = np.where(low == high, 0.0, np.sqrt(variance * sizes / np.maximum(sizes - 1.0, 1.0)))[many]
    values = np.unique(rewards)
    size = float(np.median(sizes[many]))
    each = Clusters(np.arange(int(many.sum())), int(many.sum()))
    binary = len(values) == 2
    weight, rows = None, []
    if binary:
        scale = values[1] - values[0]
        unbiased = (variance * sizes / np.maximum(sizes - 1.0, 1.0))[many] / scale**2
        along = deviation * ((sizes - 1.0) / sizes)[many]  # (r - m)/s times r - m, averaged over the group
        weight = ratio(along / scale, unbiased, each)
        rows = _rows((means[many] - values[0]) / scale, round(size))
    zero = (low == high)[many].astype(float)
    one = np.ones(each.size)
    return Groups(each.size, size, ratio(zero, one, each), ratio(deviation, one, each), binary, weight, rows)


def advantage_scale(run: Run, algorithm: str) -> Estimate | None:
    """The factor of the reward's gradient in a step: advantages over leave-one-out's, along the reward; None without rewards.

    The run's advantages are read where they are there, else those of the algorithm: rewards less the group's mean (dr_grpo),
    divided by its deviation (grpo), or leave-one-out's (factor 1). A penalty outside of the advantages is worth beta divided by
    this factor.
    """
    if not run.has("group", "reward"):
        return None
    by, rewards = run.clusters, run.table["reward"]
    sizes = by.sums(np.ones(len(rewards)))
    centred = rewards - (by.sums(rewards) / sizes)[by.labels]
    squares = by.sums(centred**2)
    unbiased = squares * sizes / np.maximum(sizes - 1.0, 1.0)
    if not unbiased.any():
        return None
    if run.has("advantage"):
        along = by.sums(centred * run.table["advantage"])
    elif algorithm == "grpo":
        deviation = np.sqrt(unbiased / sizes)
        along = np.divide(squares, deviation, out=np.zeros_like(squares), where=deviation > 0.0)
    else:
        along = squares if algorithm == "dr_grpo" else unbiased
    return ratio(along, unbiased, Clusters(np.arange(by.size), by.size))


def extremes(values: Float[np.ndarray, " N"], by: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of each cluster."""
    low, high = np.full(by.size, math.inf), np.full(by.size, -math.inf)
    np.minimum.at(low, by.labels, values)
    np.maximum.at(high, by.labels, values)
    return low, high


def _rows(rates: Float[np.ndarray, " C"], size: int) -> list[GroupRow]:
    inside = np.clip(np.searchsorted(EDGES, rates, side="right") - 1, 0, len(PROBABILITIES) - 1)
    shares = np.bincount(inside, minlength=len(PROBABILITIES)) / len(rates)
    slopes = [utility_slope(p, size) for p in PROBABILITIES]
    return [GroupRow(*row) for row in zip(EDGES[:-1], EDGES[1:], shares.tolist(), slopes, strict=True)]
