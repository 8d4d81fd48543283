"""Diversity of a corpus (distinct-n, compression) and of a distribution over outcomes (modes, reward quantiles, pass@k).

Computed in NumPy on the host. E outcomes (end states), M modes, Q levels. Functions of a `probability` are exact; those named
`_estimate` estimate the same from independent draws. Undefined quantities are NaN.
"""

import lzma
import math
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

TIE = 1e-9  # largest difference of tied rewards, relative to the largest reward
ROUNDING = 1e-12  # largest rounding error of a cumulative probability


# Without a container, whose 60 bytes or so would distort the ratio of short texts. The dictionary has 8 MiB.
LZMA: dict = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 6}]}


class Estimate(NamedTuple):
    """A value and its standard error, which is 0 where the value is exact; floats, or scalar arrays of jax."""

    value: Any
    stderr: Any


def distinct(sequences: Sequence[Sequence[SupportsIndex] | Int[np.ndarray, " _"]], n: int) -> float:
    """Distinct-n: the share of different n-grams (n >= 1) among all n-grams of a corpus. No n-gram spans two sequences.

    Li et al. 2016, arXiv 1510.03055. It falls with the corpus's size, so compare corpora of equal size.
    """
    lengths = np.fromiter(map(len, sequences), np.int64)
    tokens = np.fromiter(chain.from_iterable(sequences), np.int64, lengths.sum())
    stop = np.repeat(np.cumsum(lengths), lengths)  # where each token's sequence ends
    first = np.flatnonzero(np.arange(tokens.size) + n <= stop)
    if first.size == 0:
        return np.nan
    _, token = np.unique(tokens, return_inverse=True)
    gram = token[first]
    for offset in range(1, n):  # n-grams are renumbered at each length, so that numbers stay below the size squared
        _, gram = np.unique(gram * tokens.size + token[first + offset], return_inverse=True)
    return float(gram.max() + 1) / first.size


def compression_ratio(text: str, method: Literal["zlib", "lzma"] = "zlib") -> float:
    """The ratio of a text's size in UTF-8 to its compressed size; a higher ratio means a more repetitive text.

    Shaib et al. 2024, arXiv 2403.00553. zlib at level 9 finds repetitions up to 32 KiB back, raw LZMA2 at preset 6 up to 8 MiB.
    The ratio grows with length, so compare texts of equal length.
    """
    data = text.encode()
    if not data:
        return np.nan
    return len(data) / len(zlib.compress(data, 9) if method == "zlib" else lzma.compress(data, **LZMA))


def modes(reward: Float[np.ndarray, " E"]) -> Bool[np.ndarray, " E"]:
    """The modes: a mask of the outcomes with the largest reward, ties included."""
    top = np.max(reward, initial=-np.inf)
    return reward >= top - TIE * np.abs(top)


def mode_mass(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"]) -> float:
    """The total probability of the modes."""
    return float(np.sum(probability[modes], dtype=np.float64))


def mode_entropy(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"]) -> float:
    """The entropy in nats of the distribution over modes, given that a mode is drawn; log M where it is uniform."""
    p = probability[modes & (probability > 0.0)].astype(np.float64)
    if p.size == 0:
        return np.nan
    mass = p.sum()
    return max(0.0, float(np.sum(p / mass * (np.log(mass) - np.log(p)))))


def mode_coverage(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"], n: int = 100) -> float:
    """The expected share of the modes that appear among n >= 1 draws: the mean over modes of 1 - (1 - p)^n.

    It is the expected number of captured modes of Srivastava et al. (2017, arXiv 1705.07761), divided by M.
    """
    if not modes.any():
        return np.nan
    p = np.minimum(probability[modes].astype(np.float64), 1.0)  # a sum of probabilities may exceed 1 by rounding
    with np.errstate(divide="ignore"):
        return float(np.mean(-np.expm1(n * np.log1p(-p))))


def reward_quantiles(
    probability: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], levels: Float[np.ndarray, " Q"]
) -> Float[np.ndarray, " Q"]:
    """The reward's quantiles inf {r: P(R <= r) >= q} at levels q in [0, 1], over outcomes of positive probability.

    Levels 0 and 1 give the smallest and the largest reward. Probabilities are divided by their sum. A level at most ROUNDING
    above a step of the cumulative distribution counts as equal to it.
    """
    possible = probability > 0.0
    if not possible.any():
        return np.full(levels.shape, np.nan)
    order = np.argsort(reward[possible], kind="stable")
    ascending, cdf = reward[possible][order].astype(np.float64), np.cumsum(probability[possible][order], dtype=np.float64)
    index = np.searchsorted(cdf / cdf[-1], levels - ROUNDING)
    return ascending[np.where(levels >= 1.0, order.size - 1, index)]


def pass_at_k(probability: Float[np.ndarray, " E"], success: Bool[np.ndarray, " E"], k: int) -> float:
    """The probability 1 - (1 - p)^k that at least one of k >= 1 draws succeeds."""
    return mode_coverage(np.asarray([mode_mass(probability, success)]), np.asarray([True]), k)


def mode_mass_estimate(hits: int, draws: int) -> Estimate:
    """An estimate of `mode_mass` from the number of draws that are modes; its standard error is sqrt(p(1 - p)/draws)."""
    if draws == 0:
        return Estimate(np.nan, np.nan)
    p = hits / draws
    return Estimate(p, float(np.sqrt(p * (1.0 - p) / draws)))


def mode_entropy_estimate(counts: Int[np.ndarray, " M"]) -> Estimate:
    """The plug-in estimate of `mode_entropy` from the number of draws of each mode.

    It is too low by about (M-1)/(2 hits) (Miller 1955). The standard error is that of the mean of -log p.
    """
    hits = int(counts.sum())
    if hits == 0:
        return Estimate(math.nan, math.nan)
    share = counts[counts > 0] / hits
    surprise = -np.log(share)
    value = max(0.0, float(np.sum(share * surprise)))
    return Estimate(value, math.sqrt(max(0.0, float(np.sum(share * np.square(surprise - value)))) / hits))


def mode_coverage_estimate(counts: Int[np.ndarray, " M"], draws: int, n: int = 100) -> Estimate:
    """An unbiased estimate of `mode_coverage` for n >= 1 draws, from the number of draws of each mode.

    counts includes modes that were never drawn; `draws` is the number of all draws, in a mode or not. The estimate is the mean
    over all subsets of n draws, that is, the mean over modes of 1 - C(draws - c, n)/C(draws, n) (Hurlbert 1971's rarefaction;
    Chen et al. 2021, arXiv 2107.03374, for one mode). The standard error is the jackknife over draws, in closed form. It is 0
    where no mode was drawn and NaN at n = draws. As n comes near `draws` it is too large; the variance is never too small in
    expectation.
    """
    if counts.size == 0 or n > draws:
        return Estimate(np.nan, np.nan)
    count, multiplicity = np.unique(counts, return_counts=True)
    with np.errstate(divide="ignore"):
        log_missed = np.sum(np.log1p(-np.minimum(count[:, None] / (draws - np.arange(n)), 1.0)), axis=1)
    value = float(-np.expm1(log_missed) @ multiplicity / counts.size)
    if n == draws:
        return Estimate(value, np.nan)
    # Leaving out a draw of a mode drawn c times lowers the estimate by drop = C(draws-c-1, n-1)/C(draws-1, n)/M, relative to
    # leaving out a draw of no mode.
    drop = np.exp(log_missed) * n * draws / (np.maximum(draws - count, 1) * (draws - n)) / counts.size
    weight = count * multiplicity
    mean = drop @ weight / draws
    squares = np.square(drop - mean) @ weight + (draws - weight.sum()) * mean**2
    return Estimate(value, float(np.sqrt((draws - 1) / draws * squares)))


def pass_at_k_estimate(n: int, c: int, k: int) -> Estimate:
    """An unbiased estimate of pass@k from n draws of which c succeed (Chen et al. 2021, arXiv 2107.03374).

    The estimate is 1 - C(n-c, k)/C(n, k). The standard error is the jackknife over draws, sqrt((n-1)/n c(n-c)/n)
    C(n-c-1, k-1)/C(n-1, k); for k = 1 it is sqrt(p(1-p)/(n-1)). Both are NaN for k > n, where no estimate is unbiased.
    """
    return mode_coverage_estimate(np.asarray([c]), n, k)
