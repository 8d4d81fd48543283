"""Peers that take turns, each in a process of its own, and what their speeds say about rlkl's."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.progress import track
from rich.table import Table

from experiments.speed.floor import available
from rlkl.config.machine import cores
from rlkl.reports.console import console, errors
from rlkl.runs.folder import files

ROOT = Path(__file__).parents[2]
THREADS = (1, 2)
RLKL = "rlkl"


class Peer(NamedTuple):
    """One way to do a piece of work.

    task: the work, by name. needs: a package, or "cc" for a C compiler. command: the module in this folder and its arguments.
    wanted: how many times as fast rlkl should be. each_count: whether rlkl is compared with it at each number of threads, and
    not only where both are fastest.
    """

    task: str
    name: str
    needs: str
    command: tuple[str, ...]
    wanted: float | None = None
    each_count: bool = False


def busy(seconds: float = 2.0) -> float:
    """The share of all cores' time that other processes take now; NaN where /proc does not say."""
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


def present(peers: Iterable[Peer], python: str) -> list[Peer]:
    """The peers whose package or compiler is there; a line for each that is missing."""
    peers = list(peers)
    missing = {name for name in ("torch", "trl") if not installed(python, name)} | (set() if available() else {"cc"})
    for name in sorted(missing & {peer.needs for peer in peers}):
        remedy = "install a C compiler" if name == "cc" else "pip install 'rlkl[bench]'"
        console.print(f"{name} is missing, and its peers are left out: {remedy}", markup=False)
    return [peer for peer in peers if peer.needs not in missing]


def output(peer: Peer, python: str, *options: str) -> dict[str, Any] | None:
    """What a peer's process prints, as JSON; None, and its last line of error, where it fails."""
    module, *rest = peer.command
    interpreter = python if peer.needs in ("torch", "trl") else sys.executable
    line = [interpreter, "-m", f"experiments.speed.{module}", *rest, *options]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8", errors="backslashreplace", check=False)
    if run.returncode:
        errors.print(f"{' '.join(line)} failed: {(run.stderr.strip().splitlines() or [''])[-1]}", markup=False)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def rate(peer: Peer, python: str, threads: int, seconds: float) -> float:
    """Updates per second of one run of a peer on so many cores; NaN where it fails."""
    printed = output(peer, python, "--threads", str(threads), "--seconds", str(seconds))
    return printed["updates_per_second"] if printed else float("nan")


def measure(peers: list[Peer], python: str, turns: int, seconds: float) -> pd.DataFrame:
    """The updates per second of each peer in each turn at each number of threads. Every other turn goes backwards."""
    entries = [(peer, threads) for threads in THREADS[: cores()] for peer in peers]
    rows = []
    for turn in range(turns):
        for peer, threads in track(entries[:: (-1) ** turn], console=console, description=f"turn {turn + 1} of {turns}"):
            rows.append((turn, peer.task, peer.name, threads, rate(peer, python, threads, seconds)))
    return pd.DataFrame(rows, columns=["turn", "task", "peer", "threads", "updates_per_second"])


def summary(rates: pd.DataFrame, peers: Iterable[Peer]) -> pd.DataFrame:
    """One row for each peer beside rlkl: both at the number of threads of their largest median, unless `each_count`.

    The ratio is of rlkl's updates per second to the peer's within a turn: its median, and the least and the most.
    """
    columns = {key: column.set_index("turn").updates_per_second for key, column in rates.groupby(["task", "peer", "threads"])}
    counts = sorted(set(rates.threads))

    def best(task: str, name: str) -> int:
        return max(counts, key=lambda count: columns[task, name, count].fillna(0.0).median())

    rows = []
    for peer in peers:
        if peer.name == RLKL:
            continue
        task, name = peer.task, peer.name
        pairs = [(count, count) for count in counts] if peer.each_count else [(best(task, RLKL), best(task, name))]
        for own_threads, peer_threads in pairs:
            own, other = columns[task, RLKL, own_threads], columns[task, name, peer_threads]
            ratio = own / other
            numbers = (own_threads, own.median(), peer_threads, other.median(), ratio.median(), ratio.min(), ratio.max())
            rows.append((task, name, *numbers, peer.wanted))
    header = ["task", "peer", "rlkl's threads", "rlkl", "its threads", "peer's", "ratio", "least", "most", "wanted"]
    return pd.DataFrame(rows, columns=header)


def rich_table(table: pd.DataFrame, title: str) -> Table:
    """The rows for a terminal: numbers with three digits and thousands separators, nothing for NaN."""
    shown = Table(*table.columns, title=title, title_justify="left")
    for row in table.itertuples(index=False):
        shown.add_row(*(number_text(value) for value in row))
    return shown


def number_text(value: Any) -> str:
    """A cell as text: numbers with three digits and thousands separators; nothing for what is missing."""
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def finish(shown: Table, rows: pd.DataFrame, out: Path) -> None:
    """Show the table, and write its rows."""
    console.print(shown)
    files.write(out, rows.to_csv(index=False, lineterminator="\n"))
    console.print(f"rows in {out}", markup=False)


def compare(peers: tuple[Peer, ...], out: Path, title: str, description: str | None, seconds: float) -> None:
    """The command of a comparison: measure the peers, show how rlkl compares, and write the rows."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="how long each process is measured")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has torch and trl")
    options = parser.parse_args()
    here = present(peers, options.peers_python)
    console.print(f"other processes take {busy():.0%} of {cores()} cores")
    table = summary(measure(here, options.peers_python, options.turns, options.seconds), here)
    finish(rich_table(table, f"{title}: updates per second, {options.turns} turns"), table, out)
    console.print(f"other processes take {busy():.0%} of the cores now")
