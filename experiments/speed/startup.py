"""`make bench`: what users wait for, measured side by side in one run; medians and ratios, no test depends on them."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from rlkl.config import terminal
from rlkl.reports.console import console

COMMAND = [sys.executable, "-m", "rlkl", "tracking=none", "task=bandit/random"]
REPEATS = 10


def first_metrics(cache: str, folder: str) -> tuple[float, float]:
    """Seconds from typing the command to its first line of metrics, and to its end."""
    started, first = time.perf_counter(), None
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=environment, stdout=subprocess.PIPE, encoding="utf-8", errors="backslashreplace"
    )
    assert process.stdout is not None
    for line in process.stdout:
        if first is None and line.startswith("step"):
            first = time.perf_counter() - started
    process.wait()
    assert first is not None
    return first, time.perf_counter() - started


def bare_import(folder: str) -> float:
    """Seconds that a bare `import jax` takes on this machine now."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import jax"], cwd=folder, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Interleave the kinds, so that noise of the machine falls on all of them."""
    with tempfile.TemporaryDirectory() as folder:
        warm = str(Path(folder) / "warm")
        first_metrics(warm, folder)
        times: dict[str, list[float]] = {}
        for i in range(REPEATS):
            cold = first_metrics(str(Path(folder) / f"cold{i}"), folder)
            kept = first_metrics(warm, folder)
            row = {
                "import jax": bare_import(folder),
                "first metrics, cold cache": cold[0],
                "first metrics, warm cache": kept[0],
                "whole run, cold cache": cold[1],
                "whole run, warm cache": kept[1],
            }
            for name, taken in row.items():
                times.setdefault(name, []).append(taken)
    base = statistics.median(times["import jax"])
    table = Table("", "median s", "least s", "times import jax", title=f"{REPEATS} repeats, interleaved", title_justify="left")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        table.add_row(name, f"{median:.2f}", f"{min(seconds):.2f}", f"{median / base:.1f}")
    console.print(table)


if __name__ == "__main__":
    terminal.configure()
    main()
