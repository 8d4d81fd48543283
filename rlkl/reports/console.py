"""The console: text shown as it is, progress, and warnings."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rlkl.errors import visible
from rlkl.runs.folder.summary import history
from rlkl.training.loop import Row


class Plain(Console):
    """A console that shows text as it is: no markup and no emoji's names, control characters and what its encoding lacks
    escaped before anything is laid out."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by rich for each text that it is to show."""
        shown = "\n".join(map(visible, text.split("\n")))
        return super().render_str(shown.encode(self.encoding, "backslashreplace").decode(self.encoding), **options)


PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
console = Plain(**PLAIN, width=shutil.get_terminal_size((120, 25)).columns)
errors = Plain(**PLAIN, stderr=True)


def warn(message: str) -> None:
    """A warning, on standard error."""
    errors.print(f"warning: {message}", markup=False)


def line(columns: Mapping[str, Any]) -> str:
    """The last row of a chunk, in one line."""
    last = {key: float(np.asarray(column)[-1]) for key, column in columns.items()}
    return (
        f"step {int(last['step']):>6}  reward {last['reward']:z.4f}  objective {last['objective']:z.4f}  "
        f"regret {_power(last['regret'])}  KL(pi‖pi_ref) {last['kl_pi_ref']:z.4f}  KL(pi_ref‖pi) {last['kl_ref_pi']:z.4f}  "
        f"entropy {last['entropy']:z.4f}"
    )


def _power(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2e}"


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Any]:
    """A callable that takes each chunk's rows: a bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield lambda rows: console.print(line(history(rows)), markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("training", total=steps)

        def update(rows: Row):
            regret = _power(float(rows.report.regret[-1]))
            bar.update(shown, completed=int(rows.step[-1]), description=f"regret {regret}")

        yield update


EVERY = 10.0  # seconds between two lines on a sweep's progress, where there is no terminal


@contextlib.contextmanager
def sweep_progress(runs: int, steps: int, names: Mapping[str, str]) -> Iterator[Any]:
    """A callable that takes what `scheduler.train` tells of `runs` runs of `steps` steps together: a bar on a terminal, a line
    now and then elsewhere. names: the jobs' numbers, by key. Called from several threads."""
    lock, said = threading.Lock(), time.perf_counter()
    done, finished, since = 0, 0, None  # since: when, and after how many steps, the first chunk was there (it compiled, too)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}% of the steps"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    shown = bar.add_task(f"0 of {runs} runs", total=steps)

    def tell(told: Any) -> None:
        nonlocal done, finished, said, since
        with lock:
            done, finished = done + told.steps, finished + told.finished
            for key, step in told.diverged:
                console.print(f"job {names[key]} diverged at step {step}", markup=False)
            bar.update(shown, completed=done, description=f"{finished} of {runs} runs")
            now = time.perf_counter()
            since = since or ((now, done) if told.steps else None)
            if console.is_terminal or now - said < EVERY or since is None or not since[1] < done < steps:
                return
            said = now
            left = (now - since[0]) * (steps - done) / (done - since[1])
            console.print(f"{finished} of {runs} runs, {done:,} of {steps:,} steps, about {_span(left)} left", markup=False)

    with bar:
        yield tell


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: Any) -> str:
    """A number for a table: four digits, small and large ones in powers of ten, a dash for the undefined."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if abs(value) >= 1e5:
        return f"{value:.3e}"
    return f"{value:z.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
