"""Two KL base files of llama.cpp (`llama-perplexity --kl-divergence-base FILE`), read as a stream of rows.

Layout, little-endian: 8 bytes `_logits_`; int32 n_ctx, n_vocab, n_chunk; int32 tokens[n_chunk * n_ctx]; then for each chunk
n_ctx - 1 - n_ctx // 2 rows of 2 * ((n_vocab + 1) // 2) + 4 uint16. The first 4 uint16 of a row are float32 scale and float32
least log-probability; n_vocab numbers q follow, with log p = scale * q + least, and a pad if n_vocab is odd. Row j of a chunk
predicts its token n_ctx // 2 + j + 1. Log-probabilities below the row's largest less 16 are raised to that floor.
"""

from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.compare import rounding, stream
from rlkl.diagnostics.compare.formats import LLAMA_CPP
from rlkl.diagnostics.compare.rounding import Grid
from rlkl.diagnostics.compare.stream import Block, Stream
from rlkl.errors import SettingsError

FIXED = len(LLAMA_CPP) + 12  # bytes before the tokens
RANGE = 16.0  # nats between a row's largest log-probability and its floor
LEAST = -RANGE - 32.0  # below the floor of a row of e^32 equal tokens
STEPS = 65535
FLOAT32 = 2.0**-22  # relative error of the writer's float32 arithmetic: four roundings
SLACK = 1e-3


class Header(NamedTuple):
    """The sizes that a file's header states."""

    context: int
    vocabulary: int
    chunks: int

    @property
    def rows(self) -> int:
        """The number of rows of a chunk."""
        return self.context - 1 - self.context // 2

    @property
    def width(self) -> int:
        """The number of uint16 of a row."""
        return 2 * ((self.vocabulary + 1) // 2) + 4

    @property
    def bytes(self) -> int:
        """The size of the whole file."""
        return FIXED + 4 * self.chunks * self.context + 2 * self.chunks * self.rows * self.width


class Rows(NamedTuple):
    """Decoded rows and what rounding did to them."""

    log_p: Float[np.ndarray, "N V"]
    grid: Grid


def read(base: Path, quant: Path) -> Stream:
    """Read two files of the same text; raises `SettingsError` unless they are whole and fit together."""
    headers = {key: _header(path, key) for key, path in (("BASE", base), ("QUANT", quant))}
    ours, theirs = headers["BASE"], headers["QUANT"]
    for field, name in (("vocabulary", "tokens in its vocabulary"), ("context", "tokens a chunk"), ("chunks", "chunks")):
        if getattr(ours, field) != getattr(theirs, field):
            rule = f"has {getattr(theirs, field):,} {name}, and BASE {getattr(ours, field):,}: they must be as many"
            raise SettingsError("QUANT", str(quant), rule)
    tokens = _tokens(base, "BASE", ours)
    _same_text(tokens, _tokens(quant, "QUANT", theirs), quant)
    predicted = tokens[:, ours.context // 2 + 1 :].reshape(-1)
    chunks = np.repeat(np.arange(ours.chunks), ours.rows)
    return Stream(len(predicted), ours.vocabulary, _blocks(base, quant, ours, predicted), chunks)


def _header(path: Path, key: str) -> Header:
    with path.open("rb") as file:
        start = file.read(FIXED)
    if len(start) < FIXED:
        raise SettingsError(key, path, "is truncated: it ends within its header")
    header = Header(*(int(number) for number in np.frombuffer(start, "<i4", offset=len(LLAMA_CPP))))
    if header.context < 3 or header.vocabulary < 1 or header.chunks < 1:
        rule = f"states n_ctx {header.context}, n_vocab {header.vocabulary} and n_chunk {header.chunks}: it holds no row"
        raise SettingsError(key, path, rule)
    size = path.stat().st_size
    if size != header.bytes:
        fault = "is truncated" if size < header.bytes else "is damaged"
        raise SettingsError(key, path, f"{fault}: it has {size:,} bytes, and its header states {header.bytes:,}")
    return header


def _tokens(path: Path, key: str, header: Header) -> Int[np.ndarray, "chunks context"]:
    shape = (header.chunks, header.context)
    tokens = np.fromfile(path, "<i4", header.chunks * header.context, offset=FIXED).astype(np.int64).reshape(shape)
    if tokens.min() < 0 or tokens.max() >= header.vocabulary:
        raise SettingsError(key, path, f"is damaged: its tokens must be from 0 to {header.vocabulary - 1}")
    return tokens


def _same_text(base: Int[np.ndarray, "chunks context"], quant: Int[np.ndarray, "chunks context"], path: Path) -> None:
    differs = np.argwhere(base != quant)
    if len(differs):
        chunk, place = (int(number) for number in differs[0])
        rule = f"is of another text: at token {place} of chunk {chunk} it has {quant[chunk, place]}, BASE {base[chunk, place]}"
        raise SettingsError("QUANT", str(path), rule)


def _blocks(base: Path, quant: Path, header: Header, predicted: Int[np.ndarray, " N"]) -> Generator[Block, None, None]:
    size, done = stream.at_once(header.vocabulary), 0
    with base.open("rb") as base_file, quant.open("rb") as quant_file:
        for file in (base_file, quant_file):
            file.seek(FIXED + 4 * header.chunks * header.context)
        while done < len(predicted):
            tokens = predicted[done : done + size]
            p = _rows(base_file, header, len(tokens), done, "BASE")
            q = _rows(quant_file, header, len(tokens), done, "QUANT")
            yield Block(p.log_p, q.log_p, tokens, rounding.kl_errors(p.log_p, q.log_p, p.grid, q.grid))
            done += len(tokens)


def _rows(file: BinaryIO, header: Header, count: int, done: int, key: str) -> Rows:
    """Decode some rows; `done` is the number of positions before them, for error messages."""
    content = file.read(2 * count * header.width)
    if len(content) < 2 * count * header.width:  # the file has shrunk since its size was checked
        raise SettingsError(key, file.name, "is truncated")
    words = np.frombuffer(content, "<u2").reshape(count, header.width)
    scale, least = np.ascontiguousarray(words[:, :4]).view("<f4").astype(np.float64).T
    steps = words[:, 4 : 4 + header.vocabulary]
    with np.errstate(invalid="ignore"):
        span = scale * STEPS
        is_grid = (span >= 0.0) & (span <= RANGE * (1.0 + SLACK)) & (least >= LEAST) & (least + span <= SLACK)
    _refuse(~is_grid, done, key, "has a scale or a least log-probability that is NaN or out of range")
    log_p = scale[:, None] * steps + least[:, None]
    error = scale / 2.0 + FLOAT32 * (RANGE + np.abs(least))
    floored = (steps == 0) & (span >= RANGE * (1.0 - SLACK))[:, None]
    p = np.exp(log_p)
    too_much = p.sum(1, where=~floored) > np.exp(error) * (1.0 + SLACK)
    too_little = p.sum(1) < np.exp(-error) * (1.0 - SLACK)
    _refuse(too_much | too_little, done, key, "is not normalised")
    return Rows(log_p, Grid(error, floored))


def _refuse(wrong: np.ndarray, done: int, key: str, rule: str) -> None:
    if wrong.any():
        raise SettingsError(f"{key}, position {done + int(wrong.argmax())}", "", f"{rule}: the file is damaged")
