"""Read what a finished run left in its folder, as its tracker is to log it. Loads neither jax nor pandas."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rlkl.runs.tracking.names import group_summary

MOST_OUTCOMES = 200  # rows of the table of outcomes
MOST_JOBS = 10_000  # rows of the table of a sweep's results: wandb takes no more
TEXT_COLUMNS = ("outcome", "run")  # whose cells stay text where they look like numbers


class Table(NamedTuple):
    """A table with named columns. Each column holds text, numbers or truth values, and None where there is no value."""

    columns: list[str]
    rows: list[list[Any]]


class Results(NamedTuple):
    """What is logged of a run when it has finished, or of a sweep.

    summary: its values, under the names of `names`. tables: by name; a run's outcomes, samples and positions, or the results of
    a sweep's jobs. figures: contents of PNGs, by name. files: by their names in an artifact.
    """

    summary: dict[str, Any]
    tables: dict[str, Table]
    figures: Mapping[str, bytes] = MappingProxyType({})
    files: Mapping[str, Path] = MappingProxyType({})


def read_rows(folder: Path) -> dict[str, list[float]]:
    """Return the columns of a run's history.csv by name, one of them `step`; a sweep has no rows."""
    if not (folder / "history.csv").exists():
        return {"step": []}
    columns = _columns(folder / "history.csv")
    return {name: [math.nan if cell is None else float(cell) for cell in cells] for name, cells in columns.items()}


def read_results(folder: Path) -> Results:
    """Return the results of the run or of the sweep in a folder, without figures and files."""
    if (folder / "results.csv").exists():
        columns, rows = _table(folder / "results.csv")
        return Results({}, {"results": Table(columns, rows[:MOST_JOBS])})
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metrics = {*_columns(folder / "history.csv"), *map(str, _columns(folder / "diversity.csv")["metric"])}
    tables = {"outcomes": _outcomes(folder / "outcomes.csv")}
    if (folder / "samples.txt").exists():
        tables["samples"] = _samples((folder / "samples.txt").read_text(encoding="utf-8"))
        tables["positions"] = _table(folder / "positions.csv", lambda name: not name.endswith(".alive"))
    return Results(group_summary(summary, metrics), tables)


def read_files(folder: Path) -> dict[str, Path]:
    """Return the files of a run's or a sweep's folder and its .hydra, by name; not those of jobs and trackers below it."""
    paths = [path for pattern in ("*", ".hydra/*") for path in sorted(folder.glob(pattern)) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _outcomes(path: Path) -> Table:
    """Return the outcomes that are likeliest under reference, policy or optimum, in their order."""
    columns, rows = _table(path)
    compared = [columns.index(name) for name in ("reference", "policy", "optimum")]
    largest = [max(row[i] or 0.0 for i in compared) for row in rows]
    kept = sorted(range(len(rows)), key=lambda i: -largest[i])[:MOST_OUTCOMES]
    return Table(columns, [rows[i] for i in sorted(kept)])


def _samples(text: str) -> Table:
    """Return the sequences of samples.txt, one row for each draw: reference, policy and optimum side by side."""
    blocks = [
        [(line[:10].rstrip(), line[10:]) for line in block.split("\n")] for block in text.removesuffix("\n").split("\n\n")
    ]
    return Table([name for name, _ in blocks[0]], [[sequence for _, sequence in block] for block in blocks])


def _table(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Table:
    """Return the wanted columns of a CSV as a table."""
    columns = {name: _values(name, cells) for name, cells in _columns(path).items() if wanted(name)}
    return Table(list(columns), list(map(list, zip(*columns.values(), strict=True))))


def _values(name: str, cells: list[str | None]) -> list[Any]:
    """Return a column's cells as truth values or numbers if all are such, else as text. JSON has no infinity: None."""
    if name in TEXT_COLUMNS:
        return cells
    if all(cell in (None, "True", "False") for cell in cells):
        return [None if cell is None else cell == "True" for cell in cells]
    try:
        numbers = [None if cell is None else float(cell) for cell in cells]
    except ValueError:
        return cells
    return [number if number is not None and math.isfinite(number) else None for number in numbers]


def _columns(path: Path) -> dict[str, list[str | None]]:
    """Return the columns of a CSV of a run's folder."""
    from rlkl.runs.folder import csv_text

    return csv_text.loads(path.read_bytes().decode())
