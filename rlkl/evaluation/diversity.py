"""How varied a corpus is, and what a policy's distribution over outcomes holds: modes, quantiles, pass@k.

NumPy on the host. E outcomes (end states), M modes, Q levels. Functions of a `probability` are exact; those named
`_estimate` know only independent draws. NaN where a quantity is undefined.
"""

import lzma
import math
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

TIE = 1e-9  # rewards this close, relative to the largest, are tied
ROUNDING = 1e-12  # by which a sum of probabilities may miss the level that it stands for


# No container, whose 60 bytes or so would weigh on short texts; a dictionary of 8 MiB.
LZMA: dict = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 6}]}


class Estimate(NamedTuple):
    """A value known from draws, and its standard error."""

    value: float
    stderr: float


def distinct(sequences: Sequence[Sequence[SupportsIndex] | Int[np.ndarray, " _"]], n: int) -> float:
    """Distinct-n: different n-grams (n >= 1) over all n-grams of the corpus; none spans two sequences.

    Li et al. 2016, arXiv 1510.03055. Falls with the corpus's size, so compare corpora of one size.
    """
    lengths = np.fromiter(map(len, sequences), np.int64)
    tokens = np.fromiter(chain.from_iterable(sequences), np.int64, lengths.sum())
    stop = np.repeat(np.cumsum(lengths), lengths)  # where each token's sequence ends
    first = np.flatnonzero(np.arange(tokens.size) + n <= stop)
    if first.size == 0:
        return np.nan
    _, token = np.unique(tokens, return_inverse=True)
    gram = token[first]
    for later in range(1, n):  # numbered anew at each length, so that the pair's number stays below size squared
        _, gram = np.unique(gram * tokens.size + token[first + later], return_inverse=True)
    return float(gram.max() + 1) / first.size


def compression_ratio(text: str, method: Literal["zlib", "lzma"] = "zlib") -> float:
    """Bytes of the text in UTF-8 over its bytes when compressed: higher is more repetitive, within a text and across.

    Shaib et al. 2024, arXiv 2403.00553. zlib at level 9 looks 32 KiB back, raw LZMA2 at preset 6 8 MiB. The ratio
    grows with length, so compare texts of one length.
    """
    data = text.encode()
    if not data:
        return np.nan
    return len(data) / len(zlib.compress(data, 9) if method == "zlib" else lzma.compress(data, **LZMA))


def modes(reward: Float[np.ndarray, " E"]) -> Bool[np.ndarray, " E"]:
    """The outcomes of the largest reward."""
    top = np.max(reward, initial=-np.inf)
    return reward >= top - TIE * np.abs(top)


def mode_mass(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"]) -> float:
    """Probability of drawing a mode."""
    return float(np.sum(probability[modes], dtype=np.float64))


def mode_entropy(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"]) -> float:
    """Entropy (nats) over the modes given that one is drawn: log M where they are held evenly."""
    held = probability[modes & (probability > 0.0)].astype(np.float64)
    if held.size == 0:
        return np.nan
    mass = held.sum()
    return max(0.0, float(np.sum(held / mass * (np.log(mass) - np.log(held)))))


def mode_coverage(probability: Float[np.ndarray, " E"], modes: Bool[np.ndarray, " E"], n: int = 100) -> float:
    """Expected share of the modes that appear among n >= 1 draws: the mean over them of 1 - (1 - p)^n.

    The expectation of Srivastava et al.'s count of modes captured (2017, arXiv 1705.07761), over M.
    """
    if not modes.any():
        return np.nan
    p = np.minimum(probability[modes].astype(np.float64), 1.0)  # a sum of probabilities may exceed 1 by rounding
    with np.errstate(divide="ignore"):
        return float(np.mean(-np.expm1(n * np.log1p(-p))))


def reward_quantiles(
    probability: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], levels: Float[np.ndarray, " Q"]
) -> Float[np.ndarray, " Q"]:
    """inf {r: P(R <= r) >= q} for each level q in [0, 1]; the least and the largest reward held at 0 and 1.

    Probabilities are taken relative to their sum. Levels between steps of the distribution function are exact; one
    within ROUNDING above a step counts as on it, and level 1 sees every outcome held, however unlikely.
    """
    held = probability > 0.0
    if not held.any():
        return np.full(levels.shape, np.nan)
    order = np.argsort(reward[held], kind="stable")
    ascending, below = reward[held][order].astype(np.float64), np.cumsum(probability[held][order], dtype=np.float64)
    at = np.searchsorted(below / below[-1], levels - ROUNDING)
    return ascending[np.where(levels >= 1.0, order.size - 1, at)]


def pass_at_k(probability: Float[np.ndarray, " E"], success: Bool[np.ndarray, " E"], k: int) -> float:
    """Probability that one of k >= 1 draws succeeds: 1 - (1 - p)^k."""
    return mode_coverage(np.asarray([mode_mass(probability, success)]), np.asarray([True]), k)


def mode_mass_estimate(hits: int, draws: int) -> Estimate:
    """Probability of drawing a mode, from the number of draws that were one; standard error sqrt(p(1 - p)/draws)."""
    if draws == 0:
        return Estimate(np.nan, np.nan)
    p = hits / draws
    return Estimate(p, float(np.sqrt(p * (1.0 - p) / draws)))


def mode_entropy_estimate(counts: Int[np.ndarray, " M"]) -> Estimate:
    """`mode_entropy` from how often each mode was drawn (plug-in: low by about (M-1)/(2 hits), Miller 1955), and the standard
    error of the mean surprise."""
    hits = int(counts.sum())
    if hits == 0:
        return Estimate(math.nan, math.nan)
    share = counts[counts > 0] / hits
    surprise = -np.log(share)
    value = max(0.0, float(np.sum(share * surprise)))
    return Estimate(value, math.sqrt(max(0.0, float(np.sum(share * np.square(surprise - value)))) / hits))


def mode_coverage_estimate(counts: Int[np.ndarray, " M"], draws: int, n: int = 100) -> Estimate:
    """Expected share of the modes among n >= 1 draws, from how often each mode (those never seen included) was drawn.

    `draws` counts all draws, in a mode or not. Unbiased: the mean over all subsets of n draws, that is the mean over modes
    of 1 - C(draws - c, n)/C(draws, n) (Hurlbert 1971's rarefaction; Chen et al. 2021, arXiv 2107.03374, for one mode). The
    standard error is the jackknife over draws, in closed form; it is 0 where no mode was drawn, undefined at n = draws,
    and too large (never too small, in expectation of the variance) as n comes near it.
    """
    if counts.size == 0 or n > draws:
        return Estimate(np.nan, np.nan)
    kinds, many = np.unique(counts, return_counts=True)
    with np.errstate(divide="ignore"):
        log_missed = np.sum(np.log1p(-np.minimum(kinds[:, None] / (draws - np.arange(n)), 1.0)), axis=1)
    value = float(-np.expm1(log_missed) @ many / counts.size)
    if n == draws:
        return Estimate(value, np.nan)
    # Leaving out a draw of a mode seen c times lowers the estimate by fall = C(draws-c-1, n-1)/C(draws-1, n)/M, relative to
    # leaving out a draw of no mode.
    fall = np.exp(log_missed) * n * draws / (np.maximum(draws - kinds, 1) * (draws - n)) / counts.size
    weight = kinds * many
    mean = fall @ weight / draws
    squares = np.square(fall - mean) @ weight + (draws - weight.sum()) * mean**2
    return Estimate(value, float(np.sqrt((draws - 1) / draws * squares)))


def pass_at_k_estimate(n: int, c: int, k: int) -> Estimate:
    """Unbiased pass@k from n draws of which c succeed: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021, arXiv 2107.03374).

    The standard error is the jackknife over draws: sqrt((n-1)/n c(n-c)/n) C(n-c-1, k-1)/C(n-1, k), for k = 1
    sqrt(p(1-p)/(n-1)). NaN for k > n, where no estimate is unbiased.
    """
    return mode_coverage_estimate(np.asarray([c]), n, k)
