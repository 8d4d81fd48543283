"""The comparison of two models: reads what is given, whatever its format, and returns the table of statistics."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlkl.diagnostics.compare import formats, kl_statistics, llama_cpp, npz_pair
from rlkl.diagnostics.compare.kl_statistics import DIRECTIONS, PositionStatistics, Statistic
from rlkl.diagnostics.compare.stream import KLErrors, Stream

READERS = {"npz": npz_pair.read, "llama.cpp": llama_cpp.read}


class Comparison(NamedTuple):
    """The table of statistics with the data behind it.

    length: number of positions. vocabulary, positions: None if full distributions are not known. chunks: number of chunks of
    text, None if they are not known. notes: what a reader of the table must know, a sentence each.
    """

    table: list[Statistic]
    length: int
    vocabulary: int | None
    positions: PositionStatistics | None
    chunks: int | None = None
    notes: tuple[str, ...] = ()

    def value(self, about: str, name: str) -> float:
        """The value of one row of the table."""
        return next(row.value for row in self.table if (row.about, row.name) == (about, name))


def compare(
    base: str | Path, quant: str | Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Compare the next-token log-probabilities of two models on the same text.

    base and quant: two .npz files, or two KL base files of llama.cpp. A .npz file holds `log_probs` (or a single array of any
    name), positions x vocabulary, and may hold `tokens`, the text's token at each position. If `log_probs` has one axis, it is
    of tokens sampled from base, and the table has the estimators k1, k2 and k3. Files are read a few rows at a time, and
    on_progress is called with (positions done, positions in all). Raises `SettingsError` for files that do not fit together and
    for damaged ones.
    """
    kind = formats.common(str(base), str(quant))
    rows = READERS[kind](Path(base), Path(quant))
    if isinstance(rows, npz_pair.Samples):
        on_progress(len(rows.log_p), len(rows.log_p))
        return Comparison(kl_statistics.of_samples(*rows), len(rows.log_p), None, None)
    return of_stream(rows, on_progress)


def of_stream(rows: Stream, on_progress: Callable[[int, int], None]) -> Comparison:
    """The comparison of full distributions, read block by block."""
    statistics: list[PositionStatistics] = []
    errors: list[KLErrors] = []
    done = 0
    for block in rows.blocks:
        statistics.append(kl_statistics.of_rows(block.log_p, block.log_q, block.tokens))
        if block.errors is not None:
            errors.append(block.errors)
        done += len(block.log_p)
        on_progress(done, rows.length)
    positions = PositionStatistics(*(np.concatenate(column) for column in zip(*statistics, strict=True)))
    table = kl_statistics.of_positions(positions, rows.chunks)
    if errors:
        table = _with_errors(table, KLErrors(*(np.concatenate(column) for column in zip(*errors, strict=True))))
    clipped = min(positions.kld.min(), positions.reverse.min()) == 0.0
    notes = ("no KL is negative: what rounding puts below 0 counts as 0",) if clipped else ()
    chunks = None if rows.chunks is None else len(np.unique(rows.chunks))
    return Comparison(table, rows.length, rows.vocabulary, positions, chunks, notes)


def _with_errors(table: list[Statistic], errors: KLErrors) -> list[Statistic]:
    """The table with the bounds on the errors of each KL after the KL's own rows."""
    rows: list[Statistic] = []
    for field, about in DIRECTIONS.items():
        error, per_nat = getattr(errors, field), getattr(errors, f"{field}_per_nat")
        values = {
            "mean's error, at most": error.mean(),
            "position's error, at most": error.max(),
            "error per nat below floor": per_nat.mean(),
        }
        rows += [row for row in table if row.about == about]
        rows += [Statistic(about, name, float(value), np.nan, "nats") for name, value in values.items()]
    return rows + [row for row in table if row.about not in DIRECTIONS.values()]
