"""`python -m experiments.speed.throughput`: 256 runs on a bandit beside other ways to train them, in turn; medians of ratios.

rlkl uses both cores. The batched PyTorch peers are measured with one thread and with two, and the faster counts. Scans, one run
after the other, use one core: so a loop over runs is written.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from experiments.speed.turns import busy, finish, installed, rate
from rlkl.config import terminal
from rlkl.config.machine import cores
from rlkl.reports.console import console

OUT = Path("paper") / "speed" / "throughput.csv"


class Peer(NamedTuple):
    """A way to train, the package it needs, its thread counts, and the ratio wanted by number of arms (None: shown alone)."""

    name: str
    package: str
    threads: tuple[int, ...]
    wanted: dict[int, float | None]


PEERS = (
    Peer("categorical", "jax", (1,), {10: 50.0, 1000: 100.0}),
    Peer("inverse", "jax", (1,), {10: 15.0, 1000: None}),
    *(Peer(name, "torch", (1, 2), {10: 8.0, 1000: None}) for name in ("multinomial", "searchsorted", "compiled")),
)
ARMS = (10, 1000)


def turn(arms: int, python: str, peers: list[Peer], seconds: float) -> list[dict]:
    """Every peer once, at each of its thread counts, rlkl before and after."""
    run = lambda who, of, threads: rate(  # noqa: E731
        who, ("bandit_peers", "--peer", of, "--arms", str(arms)), threads, seconds
    )
    before = run(sys.executable, "rlkl", cores())
    rows = [("exact", run(sys.executable, "exact", cores()))] if arms == ARMS[0] else []
    for peer in peers:
        who = python if peer.package == "torch" else sys.executable
        rows.append((peer.name, max(run(who, peer.name, threads) for threads in peer.threads)))
    own = (before + run(sys.executable, "rlkl", cores())) / 2
    return [{"arms": arms, "peer": name, "rlkl": own, "other": other, "ratio": own / other} for name, other in rows]


def main() -> None:
    """Measure, show, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each run is measured")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter that has torch")
    chosen = parser.parse_args()
    torch = installed(chosen.peers_python, "torch")
    if not torch:
        console.print("torch is not installed, and is left out: pip install 'rlkl[bench]'", markup=False)
    peers = [peer for peer in PEERS if torch or peer.package != "torch"]
    console.print(f"other processes take {busy():.0%} of {cores()} cores")
    rows = []
    for _ in range(chosen.repeats):
        for arms in ARMS:
            rows += turn(arms, chosen.peers_python, peers, chosen.seconds)
    table = pd.DataFrame(rows).groupby(["arms", "peer"], sort=False).median().reset_index()
    title = f"updates per second, {chosen.repeats} turns: rlkl beside others"
    shown = Table("arms", "peer", "rlkl", "peer's", "ratio", "wanted", title=title, title_justify="left")
    wanted = {(arms, peer.name): bound for peer in PEERS for arms, bound in peer.wanted.items() if bound}
    for row in table.itertuples():
        bound = wanted.get((row.arms, row.peer))
        shown.add_row(
            str(row.arms),
            row.peer,
            f"{row.rlkl:,.0f}",
            f"{row.other:,.0f}",
            f"{row.ratio:.1f}",
            f">= {bound:g}" if bound else "",
        )
    finish(shown, table, OUT)


if __name__ == "__main__":
    terminal.configure()
    main()
