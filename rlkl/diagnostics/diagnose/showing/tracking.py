"""Log a diagnosis as a run in wandb: its numbers, its tables and its figures. Nothing about wandb stops the command."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlkl import settings
from rlkl.diagnostics.diagnose.showing.answer import sources
from rlkl.diagnostics.diagnose.showing.report import plain
from rlkl.errors import one_line
from rlkl.reports.console import console, warn
from rlkl.runs.tracking import about, resolve, wandb_log
from rlkl.runs.tracking.results import Results, Table

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

JOB_TYPE = "diagnose"
MOST_CHARACTERS = 100  # of a run's name


def log_diagnosis(diagnosis: "Diagnosis", tracker: str, folder: Path, paths: Sequence[Path]) -> None:
    """Log a diagnosis. tracker: wandb or wandb_offline. folder: of the report. paths: its files, whose PNGs are logged."""
    tracking = resolve.resolved_tracking(settings.Tracking(name=tracker))
    if tracking.name == "none":
        return
    figures = {path.stem: path.read_bytes() for path in paths if path.suffix == ".png"}
    try:
        log = wandb_log.start_wandb(_about(diagnosis, tracking), folder, warn)
        line = log.finish(Results(summary(diagnosis), tables(diagnosis), figures))
    except Exception as error:
        warn(f"wandb could not log the diagnosis ({one_line(error)}); {folder} has everything")
        return
    if line is not None:
        console.print(line)


def _about(diagnosis: "Diagnosis", tracking: settings.Tracking) -> about.About:
    config = {"sources": diagnosis.sources, **plain(diagnosis.header)}
    if diagnosis.penalty is not None:
        config["setting"] = plain(diagnosis.penalty.setting)
    return about.about_command(tracking, f"diagnose {sources(diagnosis)}"[:MOST_CHARACTERS], JOB_TYPE, config)


def summary(diagnosis: "Diagnosis") -> dict[str, Any]:
    """The numbers of a diagnosis by name: each estimate of a KL, of the mismatch, and the value behind each warning."""
    values: dict[str, Any] = {"sequences": diagnosis.sequences, "tokens": diagnosis.tokens}
    for row in diagnosis.kl.itertuples():
        weights = "" if row.weights == "none" else f", {row.weights} weights"
        values[f"{row.kl} by {row.estimator}{weights}, a {row.per}"] = row.value
    for row in diagnosis.mismatch.itertuples():
        values[f"mismatch {row.name}, a {row.per}"] = row.value
    if diagnosis.entropy is not None:
        values["entropy a token"] = diagnosis.entropy.value
    if diagnosis.groups is not None:
        values["groups without signal"] = diagnosis.groups.zero_std.value
    values |= {f"warning {warning.name}": warning.value for warning in diagnosis.warnings}
    values["warnings"] = len(diagnosis.warnings)
    return values


def tables(diagnosis: "Diagnosis") -> dict[str, Table]:
    """The frames of a diagnosis as tables, those without rows left out."""
    frames = {name: frame for name, frame in vars(diagnosis).items() if isinstance(frame, pd.DataFrame)}
    if diagnosis.penalty is not None:
        frames["pulls"] = diagnosis.penalty.pulls
    if diagnosis.groups is not None:
        frames["groups"] = pd.DataFrame(diagnosis.groups.rows)
    frames["warnings"] = pd.DataFrame(diagnosis.warnings)
    return {name: _table(frame) for name, frame in frames.items() if len(frame)}


def _table(frame: pd.DataFrame) -> Table:
    """A frame as a table; JSON has no infinity and no NaN, so that such numbers become empty."""
    rows = [[_cell(value) for value in row] for row in frame.to_numpy(object).tolist()]
    return Table([str(name) for name in frame.columns], rows)


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else plain(value)
