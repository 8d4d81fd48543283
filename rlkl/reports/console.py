"""Print text, progress and warnings to the console."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rlkl.errors import visible

if TYPE_CHECKING:
    from rlkl.training.observe import Row


NARROWEST = 8  # columns that a table's text takes at least, where it is longer


class PlainConsole(Console):
    """A console that prints text literally: no markup, no emoji codes.

    Control characters, and characters that its encoding lacks, are escaped before the layout.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by rich for each text that it prints."""
        return super().render_str("\n".join(map(self.printable, text.split("\n"))), **options)

    def printable(self, text: str) -> str:
        """Return text in one line, as this console prints it."""
        return visible(text).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def cut(self, text: str, width: int) -> str:
        """Return text in one line of at most `width` columns, which ends in an ellipsis where it was cut."""
        line = self.printable(text)
        if cell_len(line) <= width:
            return line
        ellipsis = "…" if self.printable("…") == "…" else "..."
        return set_cell_size(line, max(width - len(ellipsis), 0)) + ellipsis

    def print_table(self, table: Table) -> None:
        """Print a table, or its rows as lines `column: cell` where it is too wide to show its numbers whole."""
        columns = [list(map(str, column.cells)) for column in table.columns]
        words = [[*str(column.header).split(), *cells] for column, cells in zip(table.columns, columns, strict=True)]
        widths = [max(map(cell_len, map(self.printable, column)), default=0) for column in words]
        numeric = [column.justify == "right" for column in table.columns]
        least = [width if number else min(width, NARROWEST) for width, number in zip(widths, numeric, strict=True)]
        if sum(least) + 3 * len(least) + 1 <= self.width:
            self.print(table)
            return
        names = [str(column.header) for column in table.columns]
        lines = [str(table.title)] if table.title else []
        for row in zip(*columns, strict=True):
            lines.append(f"{names[0]} {row[0]}".strip())
            lines += [f"  {name}: {cell}" for name, cell in zip(names[1:], row[1:], strict=True) if cell]
        lines += [str(table.caption)] if table.caption else []
        self.print("\n".join(map(self.printable, lines)), markup=False)


PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
console = PlainConsole(**PLAIN, width=shutil.get_terminal_size((120, 25)).columns)
errors = PlainConsole(**PLAIN, stderr=True)


def warn(message: str) -> None:
    """Print a warning to standard error."""
    errors.print(f"warning: {message}", markup=False)


def progress_line(columns: Mapping[str, Any]) -> str:
    """Return the last row of history columns as one line."""
    last = {key: float(np.asarray(column)[-1]) for key, column in columns.items()}
    return (
        f"step {int(last['step']):>6}  reward {last['reward']:z.4f}  objective {last['objective']:z.4f}  "
        f"regret {_scientific(last['regret'])}  KL(pi‖pi_ref) {last['kl_pi_ref']:z.4f}  "
        f"KL(pi_ref‖pi) {last['kl_ref_pi']:z.4f}  entropy {last['entropy']:z.4f}"
    )


def _scientific(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2e}"


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Any]:
    """Yield a callback for each chunk's rows, which shows progress as a bar on a terminal and as lines elsewhere."""
    from rlkl.runs.folder.summary import history  # imports jax, which most of what prints does not need

    if not console.is_terminal:
        yield lambda rows: console.print(progress_line(history(rows)), markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=steps)

        def update(rows: "Row"):
            regret = _scientific(float(rows.report.regret[-1]))
            bar.update(task, completed=int(rows.step[-1]), description=f"regret {regret}")

        yield update


LINE_INTERVAL = 10.0  # seconds between two lines on a sweep's progress, where there is no terminal


@contextlib.contextmanager
def sweep_progress(runs: int, steps: int, names: Mapping[str, str]) -> Iterator[Any]:
    """Yield a callback for `scheduler.Progress`, which shows a bar on a terminal and prints a line now and then elsewhere.

    steps: of all runs together. names: the jobs' numbers, by key. The callback may be called from several threads.
    """
    lock, last_line = threading.Lock(), time.perf_counter()
    done, finished, first_chunk = 0, 0, None  # first_chunk: its time and step; rates count from there, after compilation
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}% of the steps"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(f"0 of {runs} runs", total=steps)

    def update(progress: Any) -> None:
        nonlocal done, finished, last_line, first_chunk
        with lock:
            done, finished = done + progress.steps, finished + progress.finished
            for key, step in progress.diverged:
                console.print(f"job {names[key]} diverged at step {step}", markup=False)
            bar.update(task, completed=done, description=f"{finished} of {runs} runs")
            now = time.perf_counter()
            first_chunk = first_chunk or ((now, done) if progress.steps else None)
            if console.is_terminal or now - last_line < LINE_INTERVAL:
                return
            if first_chunk is None or not first_chunk[1] < done < steps:
                return
            last_line = now
            left = _duration((now - first_chunk[0]) * (steps - done) / (done - first_chunk[1]))
            console.print(f"{finished} of {runs} runs, {done:,} of {steps:,} steps, about {left} left", markup=False)

    with bar:
        yield update


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: Any) -> str:
    """Format a number for a table: four decimals, powers of ten for small and large numbers, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if abs(value) >= 1e5:
        return f"{value:.3e}"
    return f"{value:z.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
