"""Read what a finished run left in its folder, as its tracker is to log it. Loads neither jax nor pandas."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.runs.tracking.names import group_summary


class Results(NamedTuple):
    """What is logged of a run when it has finished. summary: its values, under the names of `names`."""

    summary: dict[str, Any]


def read_rows(folder: Path) -> dict[str, list[float]]:
    """Return the columns of a run's history.csv by name, one of them `step`."""
    columns = _columns(folder / "history.csv")
    return {name: [math.nan if cell is None else float(cell) for cell in cells] for name, cells in columns.items()}


def read_results(folder: Path) -> Results:
    """Return a finished run's results."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metrics = {*_columns(folder / "history.csv"), *map(str, _columns(folder / "diversity.csv")["metric"])}
    return Results(group_summary(summary, metrics))


def _columns(path: Path) -> dict[str, list[str | None]]:
    """Return the columns of a CSV of a run's folder."""
    from rlkl.runs.folder import csv_text

    return csv_text.loads(path.read_bytes().decode())
