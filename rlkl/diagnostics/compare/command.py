"""`rlkl compare BASE QUANT [KEY=VALUE ...]`: KL statistics of two models' log-probabilities, as a table and a CSV."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rlkl.diagnostics.compare.comparison import Comparison, compare
from rlkl.diagnostics.compare.kl_statistics import Statistic
from rlkl.errors import SettingsError
from rlkl.reports.console import console, errors, number
from rlkl.runs.folder import csv_text
from rlkl.runs.folder.files import write

FOLDER = Path("outputs") / "compare"
OPTIONS = ("out", "vocabulary", "text", "context", "batch", "device")
COUNTS = {"vocabulary", "context", "batch"}


def run_compare(arguments: Sequence[str]) -> None:
    """Compare two files or models, print the table, and write compare.csv into `out=FOLDER` (default: outputs/compare)."""
    files, options = parse(arguments)
    folder = Path(options.pop("out", FOLDER))
    with comparison_progress() as on_progress:
        comparison = compare(files[0], files[1], on_progress, **options)
    path = folder / "compare.csv"
    console.print(comparison_table(comparison, files[0], files[1]))
    try:
        write(path, csv_text.dumps(Statistic._fields, comparison.table))
    except OSError as error:
        raise SettingsError("out", str(path.parent), f"cannot be written ({error.strerror})") from None
    console.print(f"wrote {path}", markup=False)


def parse(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The two things to compare, and the options by name; raises `SettingsError` for bad ones."""
    pairs = [argument.split("=", 1) for argument in arguments if argument.partition("=")[0] in OPTIONS and "=" in argument]
    files = [argument for argument in arguments if argument.partition("=")[0] not in OPTIONS or "=" not in argument]
    if len(files) != 2 or len(dict(pairs)) < len(pairs):
        rule = f"takes BASE and QUANT, two files or two hf:MODEL, and each of {', '.join(OPTIONS)} at most once, as KEY=VALUE"
        raise SettingsError("rlkl compare", " ".join(arguments), rule)
    options: dict[str, Any] = dict(pairs)
    for key in COUNTS & options.keys():
        if not options[key].isdecimal():
            raise SettingsError(key, options[key], "must be a whole number")
        options[key] = int(options[key])
    return files, options


def comparison_table(comparison: Comparison, base: str, quant: str) -> Table:
    """The table of statistics, with a rule between the groups."""
    tokens = "" if comparison.vocabulary is None else f" x {comparison.vocabulary:,} tokens"
    title = f"{Path(quant).name} against {Path(base).name}: {comparison.length:,} positions{tokens}"
    is_clustered = not all(math.isnan(row.clustered) for row in comparison.table)
    caption = "\n".join(comparison.notes) or None
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    columns = ("", "statistic", "value", "±", *(("± clustered",) if is_clustered else ()), "unit")
    for name in columns:
        table.add_column(name, justify="right" if name == "value" or "±" in name else "left")
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
