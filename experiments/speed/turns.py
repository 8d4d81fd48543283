"""Peers that take turns: each a process of its own, on so many cores, that prints its updates per second."""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from rich.table import Table

from rlkl.reports.console import console, errors
from rlkl.runs.folder import files

ROOT = Path(__file__).parents[2]
IDLE = 0.1  # share of the cores' time that others may take where two threads are to be measured


def busy(seconds: float = 2.0) -> float:
    """The share of all cores' time that is taken now, by whatever else runs; NaN where /proc does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")

    def ticks() -> tuple[int, int]:
        spent = [int(entry) for entry in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]
        return sum(spent), spent[3] + spent[4]  # all of it, and idle or waiting

    before = ticks()
    time.sleep(seconds)
    total, idle = (now - then for now, then in zip(ticks(), before, strict=True))
    return 1.0 - idle / max(total, 1)


def installed(python: str, package: str) -> bool:
    """Whether that interpreter has the package."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0


def rate(python: str, command: Iterable[str], threads: int, seconds: float) -> float:
    """Updates per second of one run of a peer; NaN, and its last words, where it fails."""
    module, *rest = command
    line = [python, "-m", f"experiments.speed.{module}", *rest, "--threads", str(threads), "--seconds", str(seconds)]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", errors="backslashreplace", check=False)
    if run.returncode:
        errors.print(f"{' '.join(line)} failed: {(run.stderr.strip().splitlines() or [''])[-1]}", markup=False)
        return float("nan")
    return json.loads(run.stdout.splitlines()[-1])["updates_per_second"]


def finish(shown: Table, rows: pd.DataFrame, out: Path) -> None:
    """Show the table, and write its rows."""
    console.print(shown)
    files.write(out, rows.to_csv(index=False, lineterminator="\n"))
    console.print(f"rows in {out}", markup=False)
