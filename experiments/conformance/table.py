"""The table of the conformance matrix: a row for each library, version, setting and world."""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd

from experiments.conformance.rows import TrainerRow
from rlkl.diagnostics.check.check import ALL_WORLDS, check_loss
from rlkl.diagnostics.check.report import CheckRow, Report
from rlkl.diagnostics.check.worlds import WORLDS
from rlkl.errors import SettingsError, one_line

FOLDER = Path(__file__).parent
TABLE = FOLDER / "conformance.csv"
TOLERANCE = 1e-5  # difference of coefficients, cosines and residuals that counts as one: libraries compute in float32
KEYS = ("library", "version", "setting", "world")
COMPARED = ("divergence", "kind", "flags", "coefficient", "cosine_kl_pi_ref", "cosine_kl_ref_pi")


class Origin(NamedTuple):
    """The first columns of a row: which setting of which library was run, when, and by which command.

    how: live (the library's own code was run) or read (re-derived from its source). says: what the library says of its penalty.
    """

    library: str
    version: str
    how: str
    date: str
    setting: str
    says: str
    command: str


# metrics: what each number that the loss logs estimates, "name: quantity", separated by semicolons
COLUMNS = [*Origin._fields, *CheckRow._fields, "notes", "metrics"]


def module_rows(module: ModuleType, date: str) -> Iterator[dict[str, Any]]:
    """The rows of a library's module, live or read."""
    how = module.__name__.split(".")[-2]
    for row in module.ROWS:
        if isinstance(row, TrainerRow):
            options = [
                f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in row.options.items()
            ]
            command = " ".join([f"rlkl check trl:{row.trainer}", f"beta={row.beta:g}", *options])
            check = partial(_check_trainer, row)
        else:
            command = f"rlkl check {module.__name__}:{row.loss.__name__}"
            check = partial(check_loss, row.loss)
        yield from checked_rows(check, Origin(module.LIBRARY, module.VERSION, how, date, row.setting, row.says, command))


def _check_trainer(row: TrainerRow) -> Report:
    from rlkl.diagnostics.check.trainer import check_second_update

    if row.is_second_update:
        return check_second_update(row.trainer, row.beta, row.options)
    worlds = ALL_WORLDS if row.has_groups else tuple(WORLDS)
    return check_loss(f"trl:{row.trainer}", beta=row.beta, settings=row.options, worlds=worlds)


def checked_rows(check: Callable[[], Report], origin: Origin) -> Iterator[dict[str, Any]]:
    """The rows of one setting, or one row of kind "raises" that says what it raises."""
    try:
        report = check()
    except SettingsError as error:
        yield origin._asdict() | {"descends": one_line(error), "kind": "raises"}
        return
    yield from report_rows(report, origin)


def report_rows(report: Report, origin: Origin) -> Iterator[dict[str, Any]]:
    """The rows of a report."""
    metrics = "; ".join(f"{metric.name}: {metric.estimates.replace(';', ',')}" for metric in report.metrics)
    for row in report.rows:
        notes = " ".join(f"{flag}: {report.notes[flag]}." for flag in row.flags if flag in ("clamped", "temperature"))
        yield origin._asdict() | row._asdict() | {"flags": " ".join(row.flags), "notes": notes, "metrics": metrics}


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as CSV."""
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False)


def read_rows(path: Path) -> pd.DataFrame:
    """A table of `as_csv`, all as text, or an empty one where there is no such file."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    return read_text(path.read_text(encoding="utf-8"))


def read_text(text: str) -> pd.DataFrame:
    """The rows of a CSV, all as text; what is missing is empty."""
    return pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=str)


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
