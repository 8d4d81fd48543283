"""The comparison of two models: reads what is given, whatever its format, and returns the table of statistics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkl.diagnostics.compare import formats, hugging_face, kl_statistics, llama_cpp, npz_pair, server_pair
from rlkl.diagnostics.compare.kl_statistics import DIRECTIONS, PositionStatistics, Statistic
from rlkl.diagnostics.compare.stream import KLErrors, Stream
from rlkl.errors import SettingsError


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
    base: str | Path,
    quant: str | Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    vocabulary: int | None = None,
    text: str | Path | None = None,
    context: int | None = None,
    batch: int | None = None,
    device: str | None = None,
) -> Comparison:
    """Compare the next-token log-probabilities of two models on the same text.

    base and quant are of one format, which is recognised by the first bytes:

    - two .npz files, each with `log_probs` (or a single array of any name), positions x vocabulary; either may have `tokens`,
      the text's token at each position. If `log_probs` has one axis, it is of tokens sampled from base, and the table has the
      estimators k1, k2 and k3;
    - two KL base files of llama.cpp;
    - two JSON files of a server's top log-probabilities; `vocabulary`, the number of tokens, tightens the bounds;
    - two models of Hugging Face, `hf:NAME`, a local folder's or a hub's, which are run on the file `text` in windows of
      `context` tokens (default 512), `batch` (default 4) at once, on torch's `device` (default: a GPU if there is one).

    Files are read a few rows at a time, and on_progress is called with (positions done, positions in all). Raises
    `SettingsError` for what does not fit together and for damaged files.
    """
    kind = formats.common(str(base), str(quant))
    _check_options(kind, {"text": text, "context": context, "batch": batch, "device": device}, vocabulary)
    if kind == "JSON":
        return _of_bounds(server_pair.read(Path(base), Path(quant), vocabulary))
    if kind == "model":
        windows = hugging_face.Windows(context or hugging_face.CONTEXT, batch or hugging_face.BATCH, device)
        return of_stream(hugging_face.read(str(base), str(quant), Path(str(text)), windows), on_progress)
    if kind == "llama.cpp":
        return of_stream(llama_cpp.read(Path(base), Path(quant)), on_progress)
    rows = npz_pair.read(Path(base), Path(quant))
    if isinstance(rows, npz_pair.Samples):
        on_progress(len(rows.log_p), len(rows.log_p))
        return Comparison(kl_statistics.of_samples(*rows), len(rows.log_p), None, None)
    return of_stream(rows, on_progress)


def _check_options(kind: str, for_models: dict[str, Any], vocabulary: int | None) -> None:
    """Raise `SettingsError` for an option that the format does not take, a bad value, or a missing text."""
    for key, value in for_models.items():
        if value is not None and kind != "model":
            raise SettingsError(key, value, "is for models of Hugging Face (hf:BASE hf:QUANT) alone")
    if vocabulary is not None and kind != "JSON":
        raise SettingsError("vocabulary", vocabulary, "is for top log-probabilities in JSON alone")
    counts = {"vocabulary": (vocabulary, 1), "context": (for_models["context"], 2), "batch": (for_models["batch"], 1)}
    for key, (value, least) in counts.items():
        if value is not None and value < least:
            raise SettingsError(key, value, f"must be at least {least}")
    if kind == "model" and for_models["text"] is None:
        raise SettingsError("text", "", "is missing: the file on which the models are compared")


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
    return Comparison(table, rows.length, rows.vocabulary, positions, chunks, (*notes, *_clustered(chunks, rows.unit)))


def _of_bounds(bounds: server_pair.Bounds) -> Comparison:
    notes = (*bounds.notes, *_clustered(bounds.sequences, "sequences"))
    return Comparison(bounds.table, bounds.positions, None, None, bounds.sequences, notes)


def _clustered(chunks: int | None, unit: str) -> tuple[str, ...]:
    """The note on the two standard errors, where there are two."""
    if chunks is None or chunks < 2:
        return ()
    return (f"±: standard error with independent positions; ± clustered: with {chunks:,} independent {unit}",)


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
