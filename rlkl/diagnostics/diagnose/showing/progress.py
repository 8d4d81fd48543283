"""Progress of reading: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from rlkl.reports.console import LINE_INTERVAL, errors


class Reading:
    """How much of some files was read: tokens, and bytes of the files that are finished."""

    def __init__(self, files: Sequence[Path]):
        self._before, self.bytes = dict[str, int](), 0  # bytes of the files before each one, and of all
        for path in files:
            self._before[str(path)] = self.bytes
            self.bytes += path.stat().st_size if path.is_file() else 0
        self.tokens, self.finished = 0, 0

    def add(self, source: str, tokens: int) -> None:
        """Count the tokens of a part of a file."""
        self.tokens += tokens
        self.finished = self._before.get(source, 0)

    def __str__(self) -> str:
        share = f", {100 * self.finished / self.bytes:.0f}% of {self.bytes / 1e6:,.0f} MB" if self.finished else ""
        return f"{self.tokens:,} tokens read{share}"


@contextmanager
def reading_progress(files: Sequence[Path]) -> Iterator[Callable[[str, int], None]]:
    """A callback (source, tokens of a part that was read) that shows progress on standard error."""
    reading, last = Reading(files), time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("reading", total=reading.bytes if len(files) > 1 else None)

        def update(source: str, tokens: int) -> None:
            nonlocal last
            reading.add(source, tokens)
            bar.update(task, completed=reading.finished, description=str(reading))
            if not errors.is_terminal and time.perf_counter() - last > LINE_INTERVAL:
                last = time.perf_counter()
                errors.print(str(reading), markup=False)

        yield update
