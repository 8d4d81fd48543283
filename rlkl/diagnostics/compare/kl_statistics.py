"""Statistics of the difference between two models' next-token distributions, as llama.cpp's perplexity tool reports them.

N positions, V tokens. KLs are in nats. Every statistic is a mean, a function of means, or a quantile. Its standard error is
that of the mean of its linearisation (delta method): once with positions counted as independent, as llama.cpp does, and, where
the chunks of text are known, once with chunks as the independent units. NumPy on the host, in float64.
Source of the statistics: llama.cpp, tools/perplexity, `--kl-divergence`.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

DIRECTIONS = {"kld": "KL(base‖quant)", "reverse": "KL(quant‖base)"}
HIGH = {"99.9%": 0.999, "99%": 0.99, "95%": 0.95, "90%": 0.9}
LOW = {"10%": 0.1, "5%": 0.05, "1%": 0.01, "0.1%": 0.001}
KL_QUANTILES = {**HIGH, "median": 0.5, **LOW}
CHANGE_QUANTILES = {**HIGH, "75%": 0.75, "median": 0.5, "25%": 0.25, **LOW}


class Statistic(NamedTuple):
    """A row of the table; a standard error is NaN where it is not defined.

    stderr: with independent positions. clustered: with independent chunks of text.
    """

    about: str
    name: str
    value: float
    stderr: float
    unit: str
    clustered: float = math.nan


class PositionStatistics(NamedTuple):
    """The statistics of each position.

    kld, reverse: KL(base‖quant) and KL(quant‖base) in nats; values that rounding makes negative (by about 1e-15) are set to 0.
    change, square: probability of a token under quant minus that under base, and its square: for the text's token if it is
    known, else expectations over tokens sampled from base. same: whether both models have the same most likely token.
    base, quant: log-probability of the text's token; NaN if it is not known.
    """

    kld: Float[np.ndarray, " N"]
    reverse: Float[np.ndarray, " N"]
    change: Float[np.ndarray, " N"]
    square: Float[np.ndarray, " N"]
    same: Shaped[np.ndarray, " N"]
    base: Float[np.ndarray, " N"]
    quant: Float[np.ndarray, " N"]


def of_rows(
    log_p: Float[np.ndarray, "N V"], log_q: Float[np.ndarray, "N V"], tokens: Int[np.ndarray, " N"] | None = None
) -> PositionStatistics:
    """The statistics of each position, from rows of base (log_p) and quant (log_q); -inf is allowed.

    A KL is the sum over tokens of p log(p/q) - p + q. On normalised rows that is the usual sum. On rows that are normalised but
    for rounding, no term is negative, and an error of one token's number stays in that token's term.
    """
    p, q = np.exp(log_p), np.exp(log_q)
    with np.errstate(invalid="ignore"):
        u = log_p - log_q
        excess = q.sum(1) - p.sum(1)
        kld = _clipped(np.where(p > 0.0, p * u, 0.0).sum(1) + excess)
        reverse = _clipped(np.where(q > 0.0, q * -u, 0.0).sum(1) - excess)
    unknown = np.full(len(p), np.nan)
    same = p.argmax(1) == q.argmax(1)
    moved = q - p
    if tokens is None:
        return PositionStatistics(kld, reverse, (p * moved).sum(1), (p * moved * moved).sum(1), same, unknown, unknown)
    index = (np.arange(len(p)), tokens)
    return PositionStatistics(kld, reverse, moved[index], moved[index] ** 2, same, log_p[index], log_q[index])


def _clipped(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Replace negative values, which come from rounding, and -0 by 0."""
    return np.where(x <= 0.0, 0.0, x)


def of_positions(positions: PositionStatistics, chunks: Int[np.ndarray, " N"] | None = None) -> list[Statistic]:
    """The table for full distributions; it has perplexities only if the text's tokens are known.

    chunks: the number of the chunk of text that each position lies in, for clustered standard errors.
    """
    table = []
    for field, about in DIRECTIONS.items():
        kld = getattr(positions, field)
        table += [mean(about, "mean", kld, "nats", chunks), *_extremes(about, kld, KL_QUANTILES, "nats")]
    text_known = not np.isnan(positions.base).any()
    about = "change of p, text's token" if text_known else "change of p, token from base"
    table += changes(about, positions.change, positions.square, chunks)
    if text_known:
        table += _extremes(about, 100.0 * positions.change, CHANGE_QUANTILES, "%")
    table.append(mean("same top p", "mean", 100.0 * positions.same, "%", chunks))
    return table + (perplexities(positions.base, positions.quant, chunks) if text_known else [])


def of_samples(log_p: Float[np.ndarray, " N"], log_q: Float[np.ndarray, " N"]) -> list[Statistic]:
    """The table for tokens sampled from base, from both models' log-probabilities (estimators k1, k2, k3 of Schulman 2020)."""
    u, moved = log_p - log_q, np.exp(log_q) - np.exp(log_p)
    with np.errstate(over="ignore"):
        estimates = {"k1": u, "k2": 0.5 * u * u, "k3": np.expm1(-u) + u}
    table = [mean("KL(base‖quant), estimated", name, k, "nats") for name, k in estimates.items()]
    return table + changes("change of p, token from base", moved, moved * moved) + perplexities(log_p, log_q)


def mean(
    about: str, name: str, x: Float[np.ndarray, " N"], unit: str, chunks: Int[np.ndarray, " N"] | None = None
) -> Statistic:
    """The row of a mean."""
    return linearised(about, name, float(x.mean()), x, unit, chunks)


def linearised(
    about: str,
    name: str,
    value: float,
    terms: Float[np.ndarray, " N"],
    unit: str,
    chunks: Int[np.ndarray, " N"] | None = None,
) -> Statistic:
    """The row of a value whose error is, to first order, that of the mean of `terms`.

    With G chunks whose deviations from the mean sum to S_g, the clustered standard error is sqrt(G/(G-1) sum_g S_g^2) / N.
    """
    n = len(terms)
    if n < 2 or not np.isfinite(terms).all() or not math.isfinite(value):
        return Statistic(about, name, value, math.nan, unit)
    stderr, clustered = float(terms.std(ddof=1)) / math.sqrt(n), math.nan
    if chunks is not None:
        sums = np.bincount(chunks, weights=terms - terms.mean())[np.unique(chunks)]
        if len(sums) > 1:
            clustered = math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / n
    return Statistic(about, name, value, stderr, unit, clustered)


def quantile(x: Float[np.ndarray, " N"], level: float) -> tuple[float, float]:
    """A quantile, linearly interpolated, and its standard error.

    The standard error is half the distance between the values one standard deviation of the binomial rank to either side; NaN
    if these ranks are outside of the data.
    """
    return _quantile(np.sort(x), level)


def _quantile(ordered: Float[np.ndarray, " N"], level: float) -> tuple[float, float]:
    n = len(ordered)
    method: Literal["linear", "inverted_cdf"] = "linear" if math.isfinite(ordered[-1]) else "inverted_cdf"
    rank, deviation = level * (n - 1), math.sqrt(n * level * (1.0 - level))
    low, high = math.floor(rank - deviation), math.ceil(rank + deviation)
    inside = low >= 0 and high < n and math.isfinite(ordered[high])
    error = float(ordered[high] - ordered[low]) / 2.0 if inside else math.nan
    return float(np.quantile(ordered, level, method=method)), error


def _extremes(about: str, x: Float[np.ndarray, " N"], levels: dict[str, float], unit: str) -> list[Statistic]:
    """The maximum, the quantiles from high to low, and the minimum."""
    ordered = np.sort(x)
    quantiles = [Statistic(about, name, *_quantile(ordered, level), unit) for name, level in levels.items()]
    maximum, minimum = (
        Statistic(about, name, float(value), math.nan, unit)
        for name, value in (("maximum", ordered[-1]), ("minimum", ordered[0]))
    )
    return [maximum, *quantiles, minimum]


def changes(
    about: str, change: Float[np.ndarray, " N"], square: Float[np.ndarray, " N"], chunks: Int[np.ndarray, " N"] | None = None
) -> list[Statistic]:
    """Mean and root mean square of the change of probability, in percent."""
    root = 100.0 * math.sqrt(float(square.mean()))
    terms = 1e4 * square / (2.0 * root) if root > 0.0 else np.full(len(square), np.nan)
    return [mean(about, "mean", 100.0 * change, "%", chunks), linearised(about, "RMS", root, terms, "%", chunks)]


def perplexities(
    log_p: Float[np.ndarray, " N"], log_q: Float[np.ndarray, " N"], chunks: Int[np.ndarray, " N"] | None = None
) -> list[Statistic]:
    """The perplexities of base and quant, their ratio and its logarithm, their difference, the correlation of their logarithms.

    The correlation is that of the two mean log-probabilities over independent positions.
    """
    table = []
    values = {"base": -log_p, "quant": -log_q, "quant/base": log_p - log_q}
    about = "perplexity"
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        size = {name: float(np.exp(x.mean())) for name, x in values.items()}
        table += [linearised(about, name, size[name], size[name] * x, "", chunks) for name, x in values.items()]
        difference = size["quant"] - size["base"]
        terms = size["quant"] * values["quant"] - size["base"] * values["base"]
        table.append(linearised(about, "quant - base", difference, terms, "", chunks))
        table.append(mean(about, "ln(quant/base)", values["quant/base"], "", chunks))
        correlation = float(np.corrcoef(log_p, log_q)[0, 1]) if len(log_p) > 1 else math.nan
    table.append(Statistic(about, "correlation of ln", 100.0 * correlation, math.nan, "%"))
    return table
