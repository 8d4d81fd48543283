"""Two files of servers' top-k log-probabilities of the same sequences: bounds on both KLs, and the top-k KL."""

import math
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.compare import top_k
from rlkl.diagnostics.compare.kl_statistics import DIRECTIONS, Statistic, changes, mean, perplexities
from rlkl.diagnostics.compare.top_k import Shown
from rlkl.diagnostics.server_logprobs import UNKNOWN, ServerSequence, sequences
from rlkl.errors import SettingsError

Columns = dict[str, Float[np.ndarray, " N"]]


class PositionBounds(NamedTuple):
    """What a position says: for each direction the bounds and the top-k KL, then agreement and unseen mass."""

    kld_least: float
    kld_most: float
    kld_top: float
    reverse_least: float
    reverse_most: float
    reverse_top: float
    same: float
    base_unseen: float
    quant_unseen: float


class Bounds(NamedTuple):
    """The table of two files with the number of positions and of sequences, and notes on the table."""

    table: list[Statistic]
    positions: int
    sequences: int
    notes: tuple[str, ...]


def read(base: Path, quant: Path, vocabulary: int | None) -> Bounds:
    """Compare two files position by position; raises `SettingsError` unless they score the same sequences.

    Sequences are paired by their order. The last token of a sequence may differ, or stand in one file alone: no later position
    depends on it. (Servers that score a prompt generate a token after it.)
    """
    rows: list[PositionBounds] = []
    tokens: list[tuple[float, float]] = []
    chunks: list[int] = []
    count = 0
    files = sequences(base, "BASE", with_top=True), sequences(quant, "QUANT", with_top=True)
    for number, (one, two) in enumerate(zip_longest(*files), start=1):
        if one is None or two is None:
            short = "BASE" if one is None else "QUANT"
            raise SettingsError("QUANT", str(quant), f"{short} has {number - 1:,} sequences, and the other file more")
        before = len(rows)
        for place in range(_shared(one, two, number)):
            row = _position(one, two, place, f"sequence {number}, token {place}", vocabulary)
            if row is not None:
                rows.append(row)
                tokens.append(_sampled(one, two, place))
                chunks.append(number - 1)
        if len(rows) == before:
            raise SettingsError(f"sequence {number}", "", "has no position with top log-probabilities in both files")
        count = number
    if not rows:
        raise SettingsError("BASE", str(base), "holds no response")
    columns = dict(zip(PositionBounds._fields, np.array(rows).T, strict=True))
    return Bounds(_table(columns, np.array(tokens), np.array(chunks)), len(rows), count, _notes(columns))


def _shared(one: ServerSequence, two: ServerSequence, number: int) -> int:
    """The number of positions that both sequences have, all on the same tokens before them."""
    length = min(len(one.tokens), len(two.tokens))
    for place in range(length):
        known = UNKNOWN not in (one.tokens[place], two.tokens[place])
        if known and one.tokens[place] != two.tokens[place] and place < length - 1:
            rule = f"is {two.tokens[place]!r:.40}, and BASE's {one.tokens[place]!r:.40}: both must score the same tokens"
            raise SettingsError(f"QUANT, sequence {number}, token {place}", "", rule)
    if abs(len(one.tokens) - len(two.tokens)) > 1:
        rule = f"has {len(two.tokens):,} tokens, and BASE's {len(one.tokens):,}: both must score the same tokens"
        raise SettingsError(f"QUANT, sequence {number}", "", rule)
    return length


def _position(
    one: ServerSequence, two: ServerSequence, place: int, where: str, vocabulary: int | None
) -> PositionBounds | None:
    """The bounds at one position; None where a file has no top log-probabilities."""
    base, quant = (_shown(sequence, place) for sequence in (one, two))
    if base is None or quant is None:
        return None
    for key, side, other in (("BASE", base, quant), ("QUANT", quant, base)):
        fault = top_k.fault(side, other, vocabulary)
        if fault is not None:
            raise SettingsError(f"{key}, {where}", "", fault)
    if not base.p.keys() & quant.p.keys():
        rule = "no token is in both lists: the vocabularies, or the names of tokens, differ"
        raise SettingsError(where, "", rule)
    likeliest = [max(side.p, key=side.p.__getitem__) for side in (base, quant)]
    return PositionBounds(
        *top_k.bounds(base, quant, vocabulary),
        top_k.known(base, quant),
        *top_k.bounds(quant, base, vocabulary),
        top_k.known(quant, base),
        float(likeliest[0] == likeliest[1]),
        base.unseen,
        quant.unseen,
    )


def _shown(sequence: ServerSequence, place: int) -> Shown | None:
    top = None if sequence.top is None else sequence.top[place]
    return None if top is None else top_k.shown(top, sequence.tokens[place], sequence.log_probs[place])


def _sampled(one: ServerSequence, two: ServerSequence, place: int) -> tuple[float, float]:
    """The log-probabilities of the text's token; NaN where the texts' tokens differ."""
    if one.tokens[place] != two.tokens[place]:
        return math.nan, math.nan
    return one.log_probs[place], two.log_probs[place]


def _table(columns: Columns, tokens: Float[np.ndarray, "N 2"], chunks: Int[np.ndarray, " N"]) -> list[Statistic]:
    table = []
    for field, about in DIRECTIONS.items():
        least, most, top = (columns[f"{field}_{name}"] for name in ("least", "most", "top"))
        table += [
            mean(about, "mean, at least", least, "nats", chunks),
            mean(about, "mean, at most", most, "nats", chunks),
            Statistic(about, "median, at least", float(np.median(least)), math.nan, "nats"),
            Statistic(about, "maximum, at least", float(least.max()), math.nan, "nats"),
            mean(about, "positions without upper bound", 100.0 * np.isinf(most), "%", chunks),
            mean(f"top-k {about}", "mean", top, "nats", chunks),
            Statistic(f"top-k {about}", "minimum", float(top.min()), math.nan, "nats"),
            mean(f"top-k {about}", "positions below 0", 100.0 * (top < 0.0), "%", chunks),
        ]
    for name, unseen in (("base", columns["base_unseen"]), ("quant", columns["quant_unseen"])):
        table.append(mean("unseen mass", name, 100.0 * unseen, "%", chunks))
    table.append(mean("same top p", "mean", 100.0 * columns["same"], "%", chunks))
    has_token = ~np.isnan(tokens).any(1)
    if has_token.any():
        log_p, log_q = tokens[has_token].T
        moved = np.exp(log_q) - np.exp(log_p)
        table += changes("change of p, text's token", moved, moved**2, chunks[has_token])
        table += perplexities(log_p, log_q, chunks[has_token])
    return table


def _notes(columns: Columns) -> tuple[str, ...]:
    notes = ["top-k KL: sum of p log(p/q) over the tokens that both files show; it is not normalised and may be negative"]
    if np.isinf([columns["kld_most"], columns["reverse_most"]]).any():
        notes.append("no upper bound: one model may give no mass to a token that the other may draw and that is not shown")
    return tuple(notes)
