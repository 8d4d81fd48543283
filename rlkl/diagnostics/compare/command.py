"""`rlkl compare BASE QUANT`: two models' log-probabilities, as a table and a CSV."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rlkl.diagnostics.compare import kl_statistics
from rlkl.diagnostics.compare.kl_statistics import Comparison, Statistic
from rlkl.errors import SettingsError
from rlkl.reports.console import console, errors, number
from rlkl.runs.folder import csv_text
from rlkl.runs.folder.files import write

FOLDER = Path("outputs") / "compare"


def run_compare(arguments: Sequence[str]) -> None:
    """Print the table of two files; write compare.csv into `out=FOLDER` (outputs/compare)."""
    files = [argument for argument in arguments if not argument.startswith("out=")]
    folders = [Path(argument.removeprefix("out=")) for argument in arguments if argument.startswith("out=")]
    if len(files) != 2 or len(folders) > 1:
        raise SettingsError("rlkl compare", " ".join(arguments), "takes BASE.npz QUANT.npz and, if you like, out=FOLDER")
    with comparison_progress() as tell:
        found = kl_statistics.compare(files[0], files[1], tell)
    path = (folders[0] if folders else FOLDER) / "compare.csv"
    console.print(comparison_table(found, files[0], files[1]))
    try:
        write(path, csv_text.dumps(Statistic._fields, found.table))
    except OSError as error:
        raise SettingsError("out", str(path.parent), f"cannot be written ({error.strerror})") from None
    console.print(f"wrote {path}", markup=False)


def comparison_table(found: Comparison, base: str, quant: str) -> Table:
    """The statistics, a rule between what they are about."""
    size = f"{found.length:,} positions" + ("" if found.vocabulary is None else f" x {found.vocabulary:,} tokens")
    at = found.positions
    clipped = at is not None and min(at.kld.min(), at.reverse.min()) == 0.0
    said = "no KL is negative: what rounding puts below 0 counts as 0" if clipped else None
    title = f"{Path(quant).name} against {Path(base).name}: {size}"
    shown = Table(title=title, title_justify="left", caption=said, caption_justify="left")
    for name in ("", "statistic", "value", "±", "unit"):
        shown.add_column(name, justify="right" if name in ("value", "±") else "left")
    for row, after in zip(found.table, [*found.table[1:], None], strict=True):
        error = "" if math.isnan(row.stderr) else number(row.stderr)
        ends = after is not None and after.about != row.about
        shown.add_row(row.about, row.name, number(row.value), error, row.unit, end_section=ends)
    return shown


@contextmanager
def comparison_progress() -> Iterator[Callable[[int, int], None]]:
    """A callable of (positions read, positions in all): a bar on a terminal, a line at each tenth elsewhere."""
    if not errors.is_terminal:
        last = 0

        def line(done: int, total: int) -> None:
            nonlocal last
            if 10 * done // total > last:
                last = 10 * done // total
                errors.print(f"{done:,} of {total:,} positions", markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        shown = bar.add_task("positions", total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)
