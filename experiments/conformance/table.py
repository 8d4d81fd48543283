"""The table of the conformance matrix: a row for each library, version, setting and world."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

from experiments.conformance.rows import Row
from rlkl.diagnostics.check.check import Report, check_loss
from rlkl.errors import SettingsError, one_line
from rlkl.runs.folder import csv_text

FOLDER = Path(__file__).parent
TABLE = FOLDER / "conformance.csv"
TOLERANCE = 1e-5  # difference of coefficients, cosines and residuals that counts as one: libraries compute in float32
KEYS = ("library", "version", "setting", "world")
NUMBERS = (
    "coefficient", "residual", "cosine_kl_pi_ref", "cosine_kl_ref_pi", "variance", "step_scale", "reward_residual",
)  # fmt: skip
COMPARED = ("divergence", "kind", "flags", "coefficient", "cosine_kl_pi_ref", "cosine_kl_ref_pi")


class MatrixRow(NamedTuple):
    """What a setting of a library descends in one world.

    how: live (the library's own code was run) or read (re-derived from its source). date: of the run. says: what the library
    says. metrics: what each number that it logs estimates, "name: quantity", separated by semicolons. A setting that raises has
    kind "raises" and the error as `descends`.
    """

    library: str
    version: str
    how: str
    date: str
    setting: str
    says: str
    command: str
    world: str
    descends: str
    divergence: str | None
    kind: str
    coefficient: float
    residual: float
    cosine_kl_pi_ref: float
    cosine_kl_ref_pi: float
    variance: float
    step_scale: float
    reward_residual: float
    flags: str
    notes: str
    metrics: str


class Origin(NamedTuple):
    """The first columns of a row: which setting of which library was run, when, and by which command."""

    library: str
    version: str
    how: str
    date: str
    setting: str
    says: str
    command: str


def module_rows(module: ModuleType, date: str) -> Iterator[MatrixRow]:
    """The rows of a library's module, live or read."""
    how = module.__name__.split(".")[-2]
    for row in module.ROWS:
        command = f"rlkl check {module.__name__}:{row.loss.__name__}"
        yield from loss_rows(row, Origin(module.LIBRARY, module.VERSION, how, date, row.setting, row.says, command))


def loss_rows(row: Row, origin: Origin) -> Iterator[MatrixRow]:
    """The rows of one setting, or one row that says what it raises."""
    try:
        report = check_loss(row.loss)
    except SettingsError as error:
        nothing: dict[str, Any] = dict.fromkeys(NUMBERS, math.nan) | dict.fromkeys(("world", "flags", "notes", "metrics"), "")
        yield MatrixRow(**origin._asdict(), descends=one_line(error), divergence=None, kind="raises", **nothing)
        return
    yield from report_rows(report, origin)


def report_rows(report: Report, origin: Origin) -> Iterator[MatrixRow]:
    """The rows of a report."""
    metrics = "; ".join(f"{metric.name}: {metric.estimates.replace(';', ',')}" for metric in report.metrics)
    for row in report.rows:
        notes = " ".join(f"{flag}: {report.notes[flag]}." for flag in row.flags if flag in ("clamped", "temperature"))
        values = row._asdict() | {"flags": " ".join(row.flags)}
        yield MatrixRow(**origin._asdict(), **values, notes=notes, metrics=metrics)


def write_rows(rows: Sequence[MatrixRow]) -> str:
    """The rows as CSV."""
    return csv_text.dumps(MatrixRow._fields, rows)


def read_rows(path: Path) -> pd.DataFrame:
    """A table that `write_rows` wrote, empty where there is none."""
    if not path.exists():
        return pd.DataFrame(columns=list(MatrixRow._fields))
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def differences(committed: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """A line for each row that is new, is gone, or says something else than the committed one; dates are not compared."""
    old, new = (table.set_index(list(KEYS)) for table in (committed, measured))
    for key in new.index.difference(old.index):
        yield f"new: {' | '.join(key)}"
    for key in old.index.difference(new.index):
        yield f"gone: {' | '.join(key)}"
    for key in new.index.intersection(old.index):
        for column in COMPARED:
            before, after = str(old.loc[key, column]), str(new.loc[key, column])
            if not _same(before, after):
                yield f"differs: {' | '.join(key)}: {column} was {before or 'none'} and is {after or 'none'}"


def _same(before: str, after: str) -> bool:
    try:
        return math.isclose(float(before), float(after), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return before == after
