"""Statistics of the difference between two models' next-token distributions, as llama.cpp's perplexity tool reports them.

N positions, V tokens. KLs are in nats. Standard errors assume independent positions, which is not exact within one text.
Source of the statistics: llama.cpp, tools/perplexity, `--kl-divergence`. NumPy on the host, in float64.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from rlkl.diagnostics.compare import npz
from rlkl.errors import SettingsError

ELEMENTS = 2**17  # numbers read at once from each file: they fit into a core's cache
QUANTILES = {"99.9%": 0.999, "99%": 0.99, "median": 0.5}
DIRECTIONS = {"kld": "KL(base‖quant)", "reverse": "KL(quant‖base)"}
ROUNDING = {2: 1e-2, 4: 1e-3, 8: 1e-3}  # tolerance of a row's log-sum around 0, by bytes of a number


class Statistic(NamedTuple):
    """A row of the table; stderr is NaN where no standard error is defined."""

    about: str
    name: str
    value: float
    stderr: float
    unit: str


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


class Comparison(NamedTuple):
    """The table of statistics with the data behind it.

    length: number of positions. vocabulary, positions: None if the files hold log-probabilities of sampled tokens only.
    """

    table: list[Statistic]
    length: int
    vocabulary: int | None
    positions: PositionStatistics | None

    def value(self, about: str, name: str) -> float:
        """The value of one row of the table."""
        return next(row.value for row in self.table if (row.about, row.name) == (about, name))


def compare(
    base: str | Path, quant: str | Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Compare the next-token log-probabilities of two .npz files.

    Each file holds `log_probs` (or a single array of any name), positions x vocabulary, with normalised rows, which are
    normalised again in float64. Either file may hold `tokens`, the text's token at each position. If `log_probs` has one axis,
    it is of tokens sampled from base, and the table has the estimators k1, k2 and k3. Files are read a few rows at a time, and
    on_progress is called with (positions done, positions in all). Raises `SettingsError` for different shapes, rows that are
    not normalised, NaN and truncated files.
    """
    files = {"BASE": Path(base), "QUANT": Path(quant)}
    headers = {key: npz.headers(path, key) for key, path in files.items()}
    names = {key: _log_probs(arrays, key, files[key]) for key, arrays in headers.items()}
    shapes = {key: headers[key][names[key]].shape for key in files}
    if shapes["BASE"] != shapes["QUANT"]:
        rule = f"has {_shown(shapes['QUANT'])} log-probabilities, and BASE {_shown(shapes['BASE'])}: they must be as many"
        raise SettingsError("QUANT", str(quant), rule)
    shape = shapes["BASE"]
    tokens = _tokens(files, headers, shape)
    at_once = max(1, ELEMENTS // (shape[1] if len(shape) == 2 else 1))
    statistics: list[PositionStatistics] = []
    sampled: list[np.ndarray] = []
    done = 0
    with ExitStack() as opened:
        streams = (npz.rows(path, key, names[key], at_once) for key, path in files.items())
        for pair in zip(*(opened.enter_context(closing(stream)) for stream in streams), strict=True):
            if len(shape) == 1:
                sampled.append(np.stack([_drawn(rows, done, key) for key, rows in zip(files, pair, strict=True)]))
            else:
                log_p, log_q = (_normalised(rows, done, key) for key, rows in zip(files, pair, strict=True))
                statistics.append(of_rows(log_p, log_q, None if tokens is None else tokens[done : done + len(log_p)]))
            done += len(pair[0])
            on_progress(done, shape[0])
    if len(shape) == 1:
        return Comparison(of_samples(*np.concatenate(sampled, axis=1)), shape[0], None, None)
    positions = PositionStatistics(*(np.concatenate(side) for side in zip(*statistics, strict=True)))
    return Comparison(of_positions(positions), shape[0], shape[1], positions)


def of_rows(
    log_p: Float[np.ndarray, "N V"], log_q: Float[np.ndarray, "N V"], tokens: Int[np.ndarray, " N"] | None = None
) -> PositionStatistics:
    """The statistics of each position, from normalised rows of base (log_p) and quant (log_q); -inf is allowed."""
    p, q = np.exp(log_p), np.exp(log_q)
    with np.errstate(invalid="ignore"):
        u = log_p - log_q
        kld, reverse = (_clipped(np.where(w > 0.0, w * v, 0.0).sum(1)) for w, v in ((p, u), (q, -u)))
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


def of_positions(positions: PositionStatistics) -> list[Statistic]:
    """The table for full distributions; it has perplexities only if the text's tokens are known."""
    table = []
    for field, about in DIRECTIONS.items():
        kld = getattr(positions, field)
        table += [
            Statistic(about, "mean", *_mean(kld), "nats"),
            Statistic(about, "maximum", float(kld.max()), math.nan, "nats"),
        ]
        table += [Statistic(about, name, *quantile(kld, level), "nats") for name, level in QUANTILES.items()]
    text_known = not np.isnan(positions.base).any()
    about = "change of p, text's token" if text_known else "change of p, token from base"
    table += _changes(about, positions.change, positions.square)
    share, error = _mean(100.0 * positions.same)
    table.append(Statistic("same top p", "mean", share, error, "%"))
    return table + (_perplexities(positions.base, positions.quant) if text_known else [])


def of_samples(log_p: Float[np.ndarray, " N"], log_q: Float[np.ndarray, " N"]) -> list[Statistic]:
    """The table for tokens sampled from base, from both models' log-probabilities (estimators k1, k2, k3 of Schulman 2020)."""
    u, moved = log_p - log_q, np.exp(log_q) - np.exp(log_p)
    with np.errstate(over="ignore"):
        estimates = {"k1": u, "k2": 0.5 * u * u, "k3": np.expm1(-u) + u}
    table = [Statistic("KL(base‖quant), estimated", name, *_mean(k), "nats") for name, k in estimates.items()]
    return table + _changes("change of p, token from base", moved, moved * moved) + _perplexities(log_p, log_q)


def quantile(x: Float[np.ndarray, " N"], level: float) -> tuple[float, float]:
    """A quantile, linearly interpolated, and its standard error.

    The standard error is half the distance between the values one standard deviation of the binomial rank to either side; NaN
    if these ranks are outside of the data.
    """
    ordered, n = np.sort(x), len(x)
    method: Literal["linear", "inverted_cdf"] = "linear" if math.isfinite(ordered[-1]) else "inverted_cdf"
    rank, deviation = level * (n - 1), math.sqrt(n * level * (1.0 - level))
    low, high = math.floor(rank - deviation), math.ceil(rank + deviation)
    inside = low >= 0 and high < n and math.isfinite(ordered[high])
    error = float(ordered[high] - ordered[low]) / 2.0 if inside else math.nan
    return float(np.quantile(ordered, level, method=method)), error


def _changes(about: str, change: Float[np.ndarray, " N"], square: Float[np.ndarray, " N"]) -> list[Statistic]:
    """Mean and root mean square of the change of probability, in percent."""
    mean, error = _mean(change)
    power, spread = _mean(square)
    root = math.sqrt(power)
    root_error = spread / (2.0 * root) if root > 0.0 else math.nan  # by the delta method
    rows = (("mean", mean, error), ("RMS", root, root_error))
    return [Statistic(about, name, 100.0 * value, 100.0 * stderr, "%") for name, value, stderr in rows]


def _perplexities(log_p: Float[np.ndarray, " N"], log_q: Float[np.ndarray, " N"]) -> list[Statistic]:
    """The perplexities of base and quant, and their ratio; standard errors by the delta method."""
    table = []
    for name, surprise in (("base", -log_p), ("quant", -log_q), ("quant/base", log_p - log_q)):
        mean, error = _mean(surprise)
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(mean))
        table.append(Statistic("perplexity", name, perplexity, perplexity * error, ""))
    return table


def _mean(x: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """The mean and its standard error; the latter is NaN for a single value and for an infinite mean."""
    mean = float(x.mean())
    has_stderr = len(x) > 1 and math.isfinite(mean)
    return mean, float(x.std(ddof=1)) / math.sqrt(len(x)) if has_stderr else math.nan


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _log_probs(arrays: dict[str, npz.Header], key: str, path: Path) -> str:
    """The name of the array of log-probabilities in a file; raises `SettingsError` unless it has floats on one or two axes."""
    others = [name for name in arrays if name != "tokens"]
    name = "log_probs" if "log_probs" in arrays else others[0] if len(others) == 1 else None
    if name is None:
        raise SettingsError(key, str(path), f"needs an array `log_probs`, and holds {', '.join(arrays) or 'nothing'}")
    shape, dtype = arrays[name]
    if dtype in (np.dtype("V2"), np.uint16, np.int16):
        rule = f"`{name}` is of {dtype}, as bfloat16 is in a .npz file: take log_softmax in float32, and save that"
        raise SettingsError(key, str(path), rule)
    if dtype.kind != "f" or dtype.itemsize not in ROUNDING or len(shape) not in (1, 2) or 0 in shape:
        rule = f"`{name}` is {_shown(shape) or 'one number'} of {dtype}, not floats, positions x vocabulary or one a position"
        raise SettingsError(key, str(path), rule)
    return name


def _tokens(files: dict[str, Path], headers: dict[str, dict[str, npz.Header]], shape: tuple[int, ...]) -> np.ndarray | None:
    """The tokens of the text from either file, or None; raises `SettingsError` if the files disagree."""
    tokens = None
    for key, path in files.items():
        if "tokens" not in headers[key] or len(shape) == 1:
            continue
        size, dtype = headers[key]["tokens"]
        if size != shape[:1] or dtype.kind not in "iu":
            rule = f"`tokens` must be {shape[0]:,} whole numbers, one a position, and are {_shown(size)} of {dtype}"
            raise SettingsError(key, str(path), rule)
        file_tokens = np.concatenate(list(npz.rows(path, key, "tokens", ELEMENTS))).astype(np.int64)
        if file_tokens.min() < 0 or file_tokens.max() >= shape[1]:
            raise SettingsError(key, str(path), f"`tokens` must be from 0 to {shape[1] - 1}")
        if tokens is not None and (tokens != file_tokens).any():
            raise SettingsError(key, str(path), "`tokens` differ from BASE's: the files are of different texts")
        tokens = file_tokens
    return tokens


def _normalised(rows: np.ndarray, done: int, key: str) -> Float[np.ndarray, "N V"]:
    """The rows in float64, normalised; `done` is the number of positions before them, for error messages."""
    log_p = rows.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = np.log(np.exp(log_p).sum(1, keepdims=True))
    _refuse(np.isnan(total)[:, 0], key, done, "has a NaN")
    wrong = np.abs(total)[:, 0] > ROUNDING[rows.dtype.itemsize]
    if wrong.any():
        by = float(np.exp(np.minimum(total[wrong.argmax(), 0], 700.0)))
        advice = "log_softmax gives log-probabilities; take it in float32, bfloat16 is too coarse"
        _refuse(wrong, key, done, f"is not normalised: its probabilities sum to {by:.4g} ({advice})")
    return log_p - total


def _drawn(rows: np.ndarray, done: int, key: str) -> Float[np.ndarray, " N"]:
    """The log-probabilities of sampled tokens, in float64."""
    log_p = rows.astype(np.float64)
    _refuse(np.isnan(log_p), key, done, "is NaN")
    _refuse(log_p > ROUNDING[rows.dtype.itemsize], key, done, "is above 0, which no log-probability is")
    if key == "BASE":
        _refuse(log_p == -np.inf, key, done, "is -inf: base cannot have drawn that token")
    return log_p


def _refuse(wrong: np.ndarray, key: str, done: int, rule: str) -> None:
    if wrong.any():
        raise SettingsError(f"{key}, position {done + int(wrong.argmax())}", "", rule)
