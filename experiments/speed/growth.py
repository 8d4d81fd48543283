"""`python -m experiments.speed.growth`: time and memory of 1,000 steps over the number of runs, arms, tokens and layers.

Each size has a process of its own, whose peak of resident memory is read; that of a process that imports all and compiles
nothing is taken off. All other sizes stay: 10 arms, one run, batches of 64; sequences over 32 tokens, batches of 128.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.progress import track

from experiments.speed import bandit_peers, rlkl_peer
from experiments.speed.turns import ROOT
from rlkl.config import machine, terminal
from rlkl.reports import plots
from rlkl.reports.console import console

OUT = Path("paper") / "speed"
STEPS, REPEATS, LEAST_SECONDS = 1000, 3, 0.2
SIZES = {
    "runs": tuple(4**n for n in range(8)),
    "arms": (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
    "tokens": (4, 8, 16, 32, 64, 128, 256),
    "layers": (1, 2, 4, 8),
}
TITLES = {
    "runs": "runs of 10 arms",
    "arms": "arms, one run",
    "tokens": "tokens, a bigram table",
    "layers": "layers, a transformer",
}
QUANTITIES = {"seconds": f"seconds of {STEPS:,} steps", "MiB": "peak memory, MiB"}
NOTHING = "nothing"  # the process that only imports


def trainer(over: str, size: int) -> Callable[[int], object]:
    """A function that trains for a number of steps, with one size varied."""
    if over == "runs":
        return bandit_peers.trainer(["task=bandit/random"], "rloo", size)
    if over == "arms":
        return bandit_peers.trainer(["task=bandit/random", f"task.size={size}"], "rloo", 1)
    if over == "tokens":
        return rlkl_peer.make(rlkl_peer.build_run("tabular", length=size))
    return rlkl_peer.make(rlkl_peer.build_run("transformer", layers=size))


def seconds_of_steps(train: Callable[[int], object]) -> float:
    """Seconds of STEPS steps, compiled, from as few as take LEAST_SECONDS; less what a call of no steps takes."""
    train(1)
    start, count = min(timed(train, 0) for _ in range(2)), 1
    while (elapsed := timed(train, count) - start) < max(LEAST_SECONDS, start) and count < STEPS:
        count *= 10
    repeats = REPEATS if elapsed < 2.0 else 0
    return statistics.median([elapsed, *(timed(train, count) - start for _ in range(repeats))]) / count * STEPS


def timed(train: Callable[[int], object], count: int) -> float:
    """Seconds of so many steps."""
    started = time.perf_counter()
    train(count)
    return time.perf_counter() - started


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB; NaN where /proc does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), float("nan"))


def measure(over: str, size: int) -> dict[str, float]:
    """Seconds and MiB of one size, in a process of its own that compiles all that it runs."""
    line = [sys.executable, "-m", "experiments.speed.growth", "--over", over, "--size", str(size)]
    run = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(run.stdout.splitlines()[-1])


def rows() -> pd.DataFrame:
    """A row for each size."""
    imports = measure(NOTHING, 0)["MiB"]
    sizes = [(over, size) for over, column in SIZES.items() for size in column]
    table = []
    for over, size in track(sizes, console=console, description="growth"):
        measured = measure(over, size)
        table.append((over, size, measured["seconds"], measured["MiB"] - imports))
    return pd.DataFrame(table, columns=["over", "size", "seconds", "MiB"])


def slope(part: pd.DataFrame, quantity: str) -> float:
    """The exponent of growth over the larger half of the sizes: 1 is in proportion."""
    large = part[-(len(part) // 2 + 1) :]
    return float(np.polyfit(np.log(large["size"]), np.log(large[quantity]), 1)[0])


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """The slope of both quantities over each size, and their values at the smallest and the largest."""
    result = []
    for over, part in table.groupby("over", sort=False):
        ends = [part[quantity].iloc[i] for quantity in QUANTITIES for i in (0, -1)]
        size = f"{part['size'].min():,} to {part['size'].max():,}"
        result.append((over, size, slope(part, "seconds"), slope(part, "MiB"), *ends))
    header = ["over", "sizes", "slope of seconds", "slope of MiB", "seconds, least", "seconds, most", "MiB, least", "MiB, most"]
    return pd.DataFrame(result, columns=header)


def draw(table: pd.DataFrame) -> Figure:
    """A row of panels for seconds and one for memory, a column for each size, with the slopes of the larger halves."""
    with plots.styled():
        figure, panels = plt.subplots(
            2, len(TITLES), figsize=(plots.PAGE, 3.4), layout="constrained", sharex="col", sharey="row", squeeze=False
        )
        for column, (over, title) in enumerate(TITLES.items()):
            part = table[table.over == over]
            for axes, quantity, color in zip(panels[:, column], QUANTITIES, (plots.BLUE, plots.ORANGE), strict=True):
                draw_panel(axes, part, quantity, color)
            panels[0, column].set_title(title)
            panels[1, column].set_xlabel(over)
        for axes, label in zip(panels[:, 0], QUANTITIES.values(), strict=True):
            axes.set_ylabel(label)
        for over, column in (("tokens", 2), ("layers", 3)):
            ticks = [size for size in SIZES[over] if over == "layers" or size in (4, 16, 64, 256)]
            panels[1, column].set_xticks(ticks, [str(size) for size in ticks])
    return figure


def draw_panel(axes, part: pd.DataFrame, quantity: str, color: str) -> None:
    """One quantity over one size, with the fitted line of the larger half and its slope."""
    axes.loglog(part["size"], part[quantity], "o-", color=color, markersize=3)
    large, exponent = part[-(len(part) // 2 + 1) :], slope(part, quantity)
    middle = np.exp(np.log(large[quantity]).mean() - exponent * np.log(large["size"]).mean())
    axes.loglog(large["size"], middle * large["size"] ** exponent, "--", color="0.4", linewidth=0.8)
    axes.text(0.05, 0.93, f"slope {exponent:.2f}", transform=axes.transAxes, va="top", fontsize="small")
    axes.xaxis.set_minor_formatter(NullFormatter())


def main() -> None:
    """Measure one size and print it, or measure all, draw, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--over", choices=[*SIZES, NOTHING], help="measure one size in this process and print it")
    parser.add_argument("--size", type=int, default=1)
    options = parser.parse_args()
    if options.over:
        machine.configure()
        import jax

        from rlkl.training import blocks  # noqa: F401

        jax.config.update("jax_enable_compilation_cache", False)
        seconds = float("nan") if options.over == NOTHING else seconds_of_steps(trainer(options.over, options.size))
        print(json.dumps({"seconds": seconds, "MiB": peak_memory()}))
        return
    table = rows()
    OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(OUT / "growth.csv", index=False, lineterminator="\n")
    slopes(table).to_csv(OUT / "growth_slopes.csv", index=False, lineterminator="\n")
    plots.save(draw(table), OUT / "growth")
    console.print(slopes(table).to_string(index=False, float_format="{:,.3g}".format), markup=False)
    console.print(f"figure and rows in {OUT}", markup=False)


if __name__ == "__main__":
    terminal.configure()
    main()
