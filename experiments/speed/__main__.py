"""`python -m experiments.speed`: rlkl beside eager PyTorch and TRL on the same cores, in turn; medians and their ratios.

They gate nothing. Each repeat runs every peer once; a ratio is of two runs of one repeat, and the median of those is shown.
What is wanted stands beside the thread count that is best for the peer.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from experiments.speed import work
from experiments.speed.turns import IDLE, busy, finish, installed, rate
from rlkl.config import terminal
from rlkl.config.machine import cores
from rlkl.reports.console import console

OUT = Path("paper") / "speed" / "speed.csv"


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
        console.print(f"{package} is not installed, and is left out: pip install 'rlkl[bench]'", markup=False)
    contests = [contest for contest in CONTESTS if here[contest.package]]
    if not contests:
        return
    taken = busy()
    counts = (1, 2) if taken < IDLE and cores() > 1 else (1,)
    console.print(f"other processes take {taken:.0%} of {cores()} cores" + (": one thread alone" if counts == (1,) else ""))
    rows: list[dict] = []
    for _ in range(chosen.repeats):
        for threads in counts:
            rows += repeat(contests, chosen.peers_python, threads, chosen.seconds)
    table = summary(rows)
    finish(shown(table), table, OUT)
    console.print(f"other processes take {busy():.0%} of the cores now")


if __name__ == "__main__":
    terminal.configure()
    main()
