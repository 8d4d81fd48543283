"""One run from its config to its result: trained, and, where there is a folder, recorded and tracked."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from rlkl import blocks, config, portrait, records, references, texts
from rlkl.blocks import Trained
from rlkl.config import Built
from rlkl.policies import AnyPolicy
from rlkl.settings import DivergedError
from rlkl.tracking import Tracker
from rlkl.training import Row

if TYPE_CHECKING:
    import pandas as pd


class Result(NamedTuple):
    """A run's summary (as in summary.json), history (as in history.csv) and policy."""

    summary: dict[str, Any]
    history: "pd.DataFrame"
    policy: AnyPolicy


def train(overrides: Sequence[str] = ()) -> Result:
    """Train the run that these overrides name, as on the command line, in memory: no folder, no tracking.

    rlkl.train(["task=bandit/two_modes", "penalty.beta=0.2"]).summary["regret"]. Raises `SettingsError` for a bad
    setting and `DivergedError` for a run that stops being finite. jax's global settings are left as they were.
    """
    import pandas as pd

    started = time.perf_counter()
    built = config.build(config.compose(overrides))
    with jax.enable_x64(True):
        built = references.attach(built)
        trained = blocks.train([built.run])[0]
        seconds = time.perf_counter() - started
        written = texts.sequences(built, trained) if built.card.tokens else {}
        graded = records.summary(built, trained, seconds, portrait.draw(built, trained, written))
    raise_if_diverged(graded)
    return Result(graded, pd.DataFrame(records.history(trained.rows)), trained.state.policy)


def execute(
    built: Built, folder: Path, group: str | None, on_rows: Callable[[Row], None], warn: Callable[[str], None]
) -> tuple[dict[str, Any], Trained, str | None]:
    """Train a run, record it in `folder`, track it; returns its summary, itself, and wandb's line to upload it."""
    started = time.perf_counter()
    tracker = None if built.tracking.name == "none" else Tracker(built, folder, group, warn)

    def tell(_: int, rows: Row) -> None:
        if rows.step.size:
            on_rows(rows)
            if tracker is not None:
                tracker.log(records.history(rows))

    graded = None
    try:
        built = references.attach(built)
        trained = blocks.train([built.run], tell)[0]
        graded = records.save(folder, built, trained, time.perf_counter() - started)
    finally:
        upload = tracker.finish(graded) if tracker is not None else None
    return graded, trained, upload


def raise_if_diverged(graded: dict[str, Any]) -> None:
    """A run that diverged has a summary all the same; this makes it an error."""
    if graded["diverged_at"] is not None:
        raise DivergedError(graded["diverged_at"])
