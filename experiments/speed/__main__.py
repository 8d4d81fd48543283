"""`python -m experiments.speed`: rlkl beside eager PyTorch and TRL on the same cores, in turn; medians and their ratios.

They gate nothing. Each repeat runs every peer once; a ratio is of two runs of one repeat, and the median of those is shown.
What is wanted stands beside the thread count that is best for the peer.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from experiments.speed import work
from rlkl import report

ROOT = Path(__file__).parents[2]
OUT = Path("paper") / "speed" / "speed.csv"
IDLE = 0.1  # share of the cores' time that others may take where two threads are to be measured


class Contest(NamedTuple):
    """One comparison: rlkl's kind, the peer and what it is run as, the ratio wanted."""

    kind: str
    peer: str
    package: str
    command: tuple[str, ...]
    wanted: float


CONTESTS = (
    *(
        Contest(kind, "PyTorch", "torch", ("torch_peer", "--kind", kind), wanted)
        for kind, wanted in (("tabular", 60.0), ("gru", 2.5), ("transformer", 2.0))
    ),
    *(
        Contest("transformer", f"TRL {name}", "trl", ("trl_peer", "--algorithm", name), 6.0)
        for name in ("grpo", "rloo")
    ),
)  # fmt: skip


def cores() -> int:
    """How many may be used."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy(seconds: float = 2.0) -> float:
    """The share of all cores' time that is taken now, by whatever else runs; NaN where /proc does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")

    def ticks() -> tuple[int, int]:
        spent = [int(entry) for entry in stat.read_text().split("\n", 1)[0].split()[1:9]]
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
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        report.errors.print(f"{' '.join(line)} failed: {(run.stderr.strip().splitlines() or [''])[-1]}", markup=False)
        return float("nan")
    return json.loads(run.stdout.splitlines()[-1])["updates_per_second"]


def repeat(contests: Iterable[Contest], python: str, threads: int, seconds: float) -> list[dict]:
    """Every peer once, each right after rlkl on the same kind."""
    own: dict[str, float] = {}
    rows = []
    for contest in contests:
        if contest.kind not in own:
            own[contest.kind] = rate(sys.executable, ("rlkl_peer", "--kind", contest.kind), threads, seconds)
        other = rate(python, contest.command, threads, seconds)
        rows.append({"kind": contest.kind, "peer": contest.peer, "threads": threads, "rlkl": own[contest.kind], "other": other})
    return rows


def summary(rows: list[dict]) -> pd.DataFrame:
    """One row a kind, peer and thread count: medians over the repeats, and whether the count is the peer's best."""
    runs = pd.DataFrame(rows).assign(ratio=lambda frame: frame.rlkl / frame.other)
    by = runs.groupby(["kind", "peer", "threads"], sort=False)
    table = by[["rlkl", "other", "ratio"]].median().reset_index()
    table = table.assign(least=by.ratio.min().values, most=by.ratio.max().values, repeats=by.size().values)
    return table.assign(best=table.other == table.groupby(["kind", "peer"]).other.transform("max"))


def shown(table: pd.DataFrame) -> Table:
    """For people."""
    wanted = {(contest.kind, contest.peer): f">= {contest.wanted:g}" for contest in CONTESTS}
    title = (
        f"updates per second, {table.repeats.max()} repeats, interleaved (V={work.VOCABULARY}, T={work.LENGTH}, B={work.BATCH})"
    )
    columns = ("kind", "peer", "threads", "rlkl", "peer's", "ratio", "least to most", "wanted")
    out = Table(*columns, title=title, title_justify="left")
    for row in table.itertuples():
        rates = [f"{number:,.0f}" if number >= 100 else f"{number:.1f}" for number in (row.rlkl, row.other)]
        ratios = [f"{row.ratio:.2f}", f"{row.least:.2f} to {row.most:.2f}"]
        out.add_row(row.kind, row.peer, str(row.threads), *rates, *ratios, wanted[row.kind, row.peer] if row.best else "")
    return out


def main() -> None:
    """Measure, show, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each run is measured")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has torch and trl")
    chosen = parser.parse_args()
    here = {package: installed(chosen.peers_python, package) for package in ("torch", "trl")}
    for package in (package for package, there in here.items() if not there):
        report.console.print(f"{package} is not installed, and is left out: pip install 'rlkl[bench]'", markup=False)
    contests = [contest for contest in CONTESTS if here[contest.package]]
    if not contests:
        return
    taken = busy()
    counts = (1, 2) if taken < IDLE and cores() > 1 else (1,)
    report.console.print(
        f"other processes take {taken:.0%} of {cores()} cores" + (": one thread alone" if counts == (1,) else "")
    )
    rows: list[dict] = []
    for _ in range(chosen.repeats):
        for threads in counts:
            rows += repeat(contests, chosen.peers_python, threads, chosen.seconds)
    table = summary(rows)
    report.console.print(shown(table))
    report.console.print(f"other processes take {busy():.0%} of the cores now")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT, index=False, lineterminator="\n")
    report.console.print(f"rows in {OUT}", markup=False)


if __name__ == "__main__":
    main()
