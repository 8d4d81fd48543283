"""Two .npz files of log-probabilities: a stream of rows, or the log-probabilities of sampled tokens."""

from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics import npz
from rlkl.diagnostics.compare import stream
from rlkl.diagnostics.compare.stream import Block, Stream
from rlkl.errors import SettingsError

ROUNDING = {2: 1e-2, 4: 1e-3, 8: 1e-3}  # tolerance of a row's log-sum around 0, by bytes of a number


class Samples(NamedTuple):
    """Log-probabilities, under base and quant, of tokens that base drew."""

    log_p: Float[np.ndarray, " N"]
    log_q: Float[np.ndarray, " N"]


def read(base: Path, quant: Path) -> Stream | Samples:
    """Read two files, each with `log_probs` (or a single array of any name) and, in either, `tokens`.

    Rows are normalised again in float64. Raises `SettingsError` for different shapes, rows that are not normalised, NaN and
    truncated files; those of the rows while the stream is read.
    """
    files = {"BASE": base, "QUANT": quant}
    headers = {key: npz.headers(path, key) for key, path in files.items()}
    names = {key: _log_probs(arrays, key, files[key]) for key, arrays in headers.items()}
    shapes = {key: headers[key][names[key]].shape for key in files}
    if shapes["BASE"] != shapes["QUANT"]:
        rule = f"has {_shown(shapes['QUANT'])} log-probabilities, and BASE {_shown(shapes['BASE'])}: they must be as many"
        raise SettingsError("QUANT", str(quant), rule)
    shape = shapes["BASE"]
    if len(shape) == 1:
        return Samples(*(_samples(path, key, names[key]) for key, path in files.items()))
    length, vocabulary = shape
    return Stream(length, vocabulary, _blocks(files, names, _tokens(files, headers, shape), stream.at_once(vocabulary)))


def _blocks(
    files: dict[str, Path], names: dict[str, str], tokens: np.ndarray | None, at_once: int
) -> Generator[Block, None, None]:
    done = 0
    with ExitStack() as opened:
        streams = (npz.rows(path, key, names[key], at_once) for key, path in files.items())
        for pair in zip(*(opened.enter_context(closing(rows)) for rows in streams), strict=True):
            log_p, log_q = (_normalised(rows, done, key) for key, rows in zip(files, pair, strict=True))
            yield Block(log_p, log_q, None if tokens is None else tokens[done : done + len(log_p)])
            done += len(log_p)


def _samples(path: Path, key: str, name: str) -> Float[np.ndarray, " N"]:
    blocks, done = [], 0
    for rows in npz.rows(path, key, name, stream.ELEMENTS):
        blocks.append(_drawn(rows, done, key))
        done += len(rows)
    return np.concatenate(blocks)


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


def _log_probs(arrays: dict[str, npz.Header], key: str, path: Path) -> str:
    """The name of the array of log-probabilities in a file; raises `SettingsError` unless it has floats on one or two axes."""
    others = [name for name in arrays if name != "tokens"]
    name = "log_probs" if "log_probs" in arrays else others[0] if len(others) == 1 else None
    if name is None:
        raise SettingsError(key, path, f"needs an array `log_probs`, and holds {', '.join(arrays) or 'nothing'}")
    shape, dtype = arrays[name]
    if dtype in (np.dtype("V2"), np.uint16, np.int16):
        rule = f"`{name}` is of {dtype}, as bfloat16 is in a .npz file: take log_softmax in float32, and save that"
        raise SettingsError(key, path, rule)
    if dtype.kind != "f" or dtype.itemsize not in ROUNDING or len(shape) not in (1, 2) or 0 in shape:
        rule = f"`{name}` is {_shown(shape) or 'one number'} of {dtype}, not floats, positions x vocabulary or one a position"
        raise SettingsError(key, path, rule)
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
            raise SettingsError(key, path, rule)
        file_tokens = np.concatenate(list(npz.rows(path, key, "tokens", stream.ELEMENTS))).astype(np.int64)
        if file_tokens.min() < 0 or file_tokens.max() >= shape[1]:
            raise SettingsError(key, path, f"`tokens` must be from 0 to {shape[1] - 1}")
        if tokens is not None and (tokens != file_tokens).any():
            raise SettingsError(key, path, "`tokens` differ from BASE's: the files are of different texts")
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
