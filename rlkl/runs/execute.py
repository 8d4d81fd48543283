"""Carry out one run: train it or load it from the store, fill its folder and track it."""

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl.config.build import Built, build
from rlkl.config.compose import compose
from rlkl.errors import DivergedError
from rlkl.policies import AnyPolicy
from rlkl.runs.folder import artifacts, diversity_table, files, samples
from rlkl.runs.folder import summary as folder_summary
from rlkl.runs.store import pretrained_references, run_store
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.run_store import Entry
from rlkl.runs.tracking.about import About, about_run
from rlkl.runs.tracking.tracker import AnyTracker
from rlkl.settings import numerics
from rlkl.training import blocks
from rlkl.training.blocks import Trained
from rlkl.training.observe import Row

if TYPE_CHECKING:
    import pandas as pd


KEEP_EVERY = 2.0  # seconds between two chunks that are stored


class Result(NamedTuple):
    """A run's summary (as in summary.json), history (as in history.csv) and policy (as `rlkl.load_policy` returns it)."""

    summary: dict[str, Any]
    history: "pd.DataFrame"
    policy: AnyPolicy


def train(overrides: Sequence[str] = ()) -> Result:
    """Train the run that these overrides describe, and return its result. No folder, no tracking, no store.

    overrides: as on the command line, for instance ["task=bandit/two_modes", "penalty.beta=0.2"]. Raises `SettingsError` for a
    bad setting and `DivergedError` for a run that stops being finite. Warns if rounding errors make the grade unreliable.
    jax's global settings stay as they were.
    """
    import pandas as pd

    started = time.perf_counter()
    composed = compose(overrides)
    with numerics.pinned():
        built = pretrained_references.attach(build(composed), Faults(warnings.warn))
        trained = blocks.train_runs([built.run])[0]
        seconds = time.perf_counter() - started
        sequences = samples.sequences(built, trained) if built.card.tokens else {}
        summary = folder_summary.summary(built, trained, seconds, diversity_table.diversity_metrics(built, trained, sequences))
    raise_if_diverged(summary)
    warning = folder_summary.rounding_warning(summary)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return Result(summary, pd.DataFrame(folder_summary.history(trained.rows)), trained.state.policy)


def entry(built: Built, trained: Trained, seconds: float) -> Entry:
    """Return a trained run as an entry of the store."""
    return Entry(artifacts.files(built, trained, seconds))


def train_or_load(built: Built, on_rows: Callable[[Row], None], faults: Faults) -> tuple[Entry, bool]:
    """Load the run from the store, or else train it and store it; also returns whether it was loaded.

    on_rows: called with the new rows as the run trains.
    """
    started = saved = time.perf_counter()
    root, key, resume = built.store, run_store.key(built), built.execution.resume
    stored = run_store.read(root, key, artifacts.names(built), faults) if resume else None
    if stored is not None:
        return stored, True
    built = pretrained_references.attach(built, faults)
    chunk = run_store.read_chunk(root, key, built.run, faults) if resume else None

    def on_chunk(progress: blocks.BlockProgress):
        nonlocal saved
        if time.perf_counter() - saved >= KEEP_EVERY:
            run_store.put_chunk(root, key, progress.checkpoint(0), faults)
            saved = time.perf_counter()

    def on_run_rows(_: int, rows: Row):
        if rows.step.size:
            on_rows(rows)

    trained = blocks.train_block([built.run], on_run_rows, on_chunk, None if chunk is None else [chunk])[0]
    result = entry(built, trained, time.perf_counter() - started)
    run_store.put(root, key, result, faults)
    return result, False


class Recorded(NamedTuple):
    """A run recorded in its folder: its entry, whether the store had it, and what tells the user where its tracker's log is."""

    entry: Entry
    reused: bool
    tracked: str | None


def execute(
    built: Built,
    folder: Path,
    group: str | None,
    on_rows: Callable[[Row], None],
    faults: Faults,
    start_tracker: Callable[[About, Path], AnyTracker],
) -> Recorded:
    """Train or load a run, fill its folder and track it.

    group: the name of its sweep, None for a single run. on_rows: called with the new rows as the run trains. faults: reports
    damaged files of the store. start_tracker: starts to track a run in its folder; not called where `tracking=none`.
    """
    tracker, filled, tracked = make_tracker(built, folder, group, start_tracker), False, None

    def on_new_rows(rows: Row) -> None:
        on_rows(rows)
        if tracker is not None:
            tracker.log(folder_summary.history(rows))

    try:
        result, reused = train_or_load(built, on_new_rows, faults)
        files.fill(folder, result.files)
        filled = True
    finally:
        tracked = tracker.finish(filled) if tracker is not None else None
    return Recorded(result, reused, tracked)


def make_tracker(
    built: Built, folder: Path, group: str | None, start_tracker: Callable[[About, Path], AnyTracker]
) -> AnyTracker | None:
    """Start tracking the run; returns None where `tracking=none`. The arguments are those of `execute`."""
    if built.tracking.name == "none":
        return None
    return start_tracker(about_run(built, group, run_store.key(built)), folder)


def raise_if_diverged(summary: dict[str, Any]) -> None:
    """Raise `DivergedError` if the summary is of a run that diverged."""
    if summary["diverged_at"] is not None:
        raise DivergedError(summary["diverged_at"])
