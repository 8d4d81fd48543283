"""`rlkl compare BASE QUANT`: KL statistics of two models' log-probabilities, as a table and a CSV."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rlkl.diagnostics.compare.comparison import Comparison, compare
from rlkl.diagnostics.compare.kl_statistics import Statistic
from rlkl.errors import SettingsError
from rlkl.reports.console import console, errors, number
from rlkl.runs.folder import csv_text
from rlkl.runs.folder.files import write

FOLDER = Path("outputs") / "compare"


def run_compare(arguments: Sequence[str]) -> None:
    """Compare two files, print the table, and write compare.csv into `out=FOLDER` (default: outputs/compare)."""
    files = [argument for argument in arguments if not argument.startswith("out=")]
    folders = [Path(argument.removeprefix("out=")) for argument in arguments if argument.startswith("out=")]
    if len(files) != 2 or len(folders) > 1:
        raise SettingsError("rlkl compare", " ".join(arguments), "takes BASE.npz QUANT.npz and, if you like, out=FOLDER")
    with comparison_progress() as on_progress:
        comparison = compare(files[0], files[1], on_progress)
    path = (folders[0] if folders else FOLDER) / "compare.csv"
    console.print(comparison_table(comparison, files[0], files[1]))
    try:
        write(path, csv_text.dumps(Statistic._fields, comparison.table))
    except OSError as error:
        raise SettingsError("out", str(path.parent), f"cannot be written ({error.strerror})") from None
    console.print(f"wrote {path}", markup=False)


def comparison_table(comparison: Comparison, base: str, quant: str) -> Table:
    """The table of statistics, with a rule between the groups."""
    tokens = "" if comparison.vocabulary is None else f" x {comparison.vocabulary:,} tokens"
    title = f"{Path(quant).name} against {Path(base).name}: {comparison.length:,} positions{tokens}"
    is_clustered = not all(math.isnan(row.clustered) for row in comparison.table)
    notes = [*comparison.notes]
    if is_clustered:
        notes.append(f"±: standard error with independent positions; by chunk: with {comparison.chunks:,} independent chunks")
    table = Table(title=title, title_justify="left", caption="\n".join(notes) or None, caption_justify="left")
    columns = ("", "statistic", "value", "±", *(("± by chunk",) if is_clustered else ()), "unit")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "statistic", "unit") else "right")
    for row, after in zip(comparison.table, [*comparison.table[1:], None], strict=True):
        errors = [row.stderr, row.clustered] if is_clustered else [row.stderr]
        shown = ["" if math.isnan(error) else number(error) for error in errors]
        is_last = after is not None and after.about != row.about
        table.add_row(row.about, row.name, number(row.value), *shown, row.unit, end_section=is_last)
    return table


@contextmanager
def comparison_progress() -> Iterator[Callable[[int, int], None]]:
    """A progress callback (positions read, positions in all): a bar on a terminal, a line at each tenth elsewhere."""
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
        task = bar.add_task("positions", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
