"""One run from its config to its result: trained or taken from the store and, where there is a folder, recorded and tracked."""

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
from rlkl.runs.tracking import Tracker, about
from rlkl.settings import numerics
from rlkl.training import blocks
from rlkl.training.blocks import Trained
from rlkl.training.loop import Row

if TYPE_CHECKING:
    import pandas as pd


KEEP_EVERY = 2.0  # seconds between two chunks that are kept


class Result(NamedTuple):
    """A run's summary (as in summary.json), history (as in history.csv) and policy (as `rlkl.load_policy` returns it)."""

    summary: dict[str, Any]
    history: "pd.DataFrame"
    policy: AnyPolicy


def train(overrides: Sequence[str] = ()) -> Result:
    """Train the run that these overrides name, as on the command line, in memory: no folder, no tracking, no store.

    rlkl.train(["task=bandit/two_modes", "penalty.beta=0.2"]).summary["regret"]. Raises `SettingsError` for a bad
    setting and `DivergedError` for a run that stops being finite, and warns where the policy beats the optimum that grades
    it. jax's global settings are left as they were.
    """
    import pandas as pd

    started = time.perf_counter()
    composed = compose(overrides)
    with numerics.pinned():
        built = pretrained_references.attach(build(composed), Faults(warnings.warn))
        trained = blocks.train_runs([built.run])[0]
        seconds = time.perf_counter() - started
        written = samples.sequences(built, trained) if built.card.tokens else {}
        graded = folder_summary.summary(built, trained, seconds, diversity_table.diversity_metrics(built, trained, written))
    raise_if_diverged(graded)
    doubt = folder_summary.doubt(graded)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=2)
    return Result(graded, pd.DataFrame(folder_summary.history(trained.rows)), trained.state.policy)


def entry(built: Built, trained: Trained, seconds: float) -> Entry:
    """A trained run as it is kept."""
    return Entry(artifacts.files(built, trained, seconds), folder_summary.of_optimum(built, trained))


def finish(built: Built, on_rows: Callable[[Row], None], faults: Faults) -> tuple[Entry, bool]:
    """The run out of the store, else trained and put there; and whether it was there. `on_rows` hears what is trained, `faults`
    what is wrong with the store."""
    started = saved = time.perf_counter()
    root, key, resume = built.store, run_store.key(built), built.execution.resume
    found = run_store.read(root, key, artifacts.names(built), faults) if resume else None
    if found is not None:
        return found, True
    built = pretrained_references.attach(built, faults)
    kept = run_store.read_chunk(root, key, built.run, faults) if resume else None

    def on_chunk(standing: blocks.Progress):
        nonlocal saved
        if time.perf_counter() - saved >= KEEP_EVERY:
            run_store.put_chunk(root, key, standing.of(0), faults)
            saved = time.perf_counter()

    tell = lambda _, rows: on_rows(rows) if rows.step.size else None  # noqa: E731
    trained = blocks.train_block([built.run], tell, on_chunk, None if kept is None else [kept])[0]
    made = entry(built, trained, time.perf_counter() - started)
    run_store.put(root, key, made, faults)
    return made, False


class Recorded(NamedTuple):
    """A run in its folder: as it is kept, whether it had been, and wandb's line to upload it."""

    entry: Entry
    reused: bool
    upload: str | None


def execute(
    built: Built,
    folder: Path,
    group: str | None,
    on_rows: Callable[[Row], None],
    warn: Callable[[str], None],
    faults: Faults,
) -> Recorded:
    """Finish a run, fill its folder, track it."""
    tracker = tracked(built, folder, group, warn)
    found, upload, live = None, None, False

    def tell(rows: Row) -> None:
        nonlocal live
        live = True
        on_rows(rows)
        if tracker is not None:
            tracker.log(folder_summary.history(rows))

    try:
        found, reused = finish(built, tell, faults)
        files.fill(folder, found.files)
        if tracker is not None and not live:
            tracker.log(files.columns_of(found.files["history.csv"]))
    finally:
        upload = tracker.finish(found.summary if found else None) if tracker is not None else None
    return Recorded(found, reused, upload)


def tracked(built: Built, folder: Path, group: str | None, warn: Callable[[str], None]) -> Tracker | None:
    """The run's tracker, if it is to be tracked."""
    return None if built.tracking.name == "none" else Tracker(about(built, group), folder, warn)


def raise_if_diverged(graded: dict[str, Any]) -> None:
    """A run that diverged has a summary all the same; this makes it an error."""
    if graded["diverged_at"] is not None:
        raise DivergedError(graded["diverged_at"])
