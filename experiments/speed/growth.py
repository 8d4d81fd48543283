"""`python -m experiments.speed.growth`: seconds of 1,000 steps over the number of runs, arms and tokens, on log-log axes.

All other sizes are held: 10 arms and 64 runs; batches of 64; sequences over 32 tokens. A slope of 1 is a cost in proportion.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.progress import track

from experiments.speed import rlkl_peer
from experiments.speed.bandit_peers import bandit, trainer
from rlkl.config import machine, terminal
from rlkl.reports import plots
from rlkl.reports.console import console

OUT = Path("paper") / "speed"
STEPS, REPEATS = 1000, 3
RUNS = tuple(2**n for n in range(13))
ARMS = (10, 30, 100, 300, 1000, 3000, 10_000)
LENGTHS = (4, 8, 16, 32, 64)


def measured(take: Callable[[int], object]) -> float:
    """Seconds of STEPS steps, compiled: those of fewer where they are long."""
    take(1)
    count = 10
    while True:
        started = time.perf_counter()
        take(count)
        if (taken := time.perf_counter() - started) > 0.2 or count >= STEPS:
            break
        count *= 10
    again = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        take(count)
        again.append(time.perf_counter() - started)
    return statistics.median([taken, *again]) / count * STEPS


def rows() -> pd.DataFrame:
    """A row a size."""
    work = [("runs", n, lambda n=n: trainer(bandit(10), "rloo", n)) for n in RUNS]
    work += [("arms", n, lambda n=n: trainer(bandit(n), "rloo", 1)) for n in ARMS]
    work += [("tokens", n, lambda n=n: rlkl_peer.make("tabular", n)) for n in LENGTHS]
    found = [(over, n, measured(make())) for over, n, make in track(work, console=console, description="growth")]
    return pd.DataFrame(found, columns=["over", "size", "seconds"])


def slope(part: pd.DataFrame) -> float:
    """Of the larger half on log-log axes, where the fixed cost of a step no longer counts most."""
    large = part[-(len(part) // 2 + 1) :]
    return float(np.polyfit(np.log(large["size"]), np.log(large.seconds), 1)[0])


def draw(table: pd.DataFrame) -> Figure:
    """A panel a size, with its slope."""
    with plots.styled():
        figure, panels = plt.subplots(1, 3, figsize=(plots.PAGE, 2.1), layout="constrained", sharey=True)
        titles = {"runs": "runs of 10 arms", "arms": "arms, one run", "tokens": "tokens a sequence, one run"}
        for axes, (over, title) in zip(panels, titles.items(), strict=True):
            part = table[table.over == over]
            axes.loglog(part["size"], part.seconds, "o-", color=plots.BLUE, markersize=3)
            axes.set(title=f"{title}\nslope {slope(part):.2f}", xlabel=over)
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[2].set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        panels[0].set_ylabel(f"seconds of {STEPS:,} steps")
    return figure


def main() -> None:
    """Measure, draw, and write the rows."""
    machine.configure()
    table = rows()
    OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT / "growth.csv", index=False, lineterminator="\n")
    plots.save(draw(table), OUT / "growth")
    for over, part in table.groupby("over", sort=False):
        console.print(f"{over}: slope {slope(part):.2f} over the larger half", markup=False)
    console.print(f"figure and rows in {OUT}", markup=False)


if __name__ == "__main__":
    terminal.configure()
    main()
