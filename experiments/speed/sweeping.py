"""`python -m experiments.speed.sweeping`: what a sweep costs, as whole commands, in turn; medians, and ratios within a turn.

64 jobs (4 betas x 16 seeds) of 2,000 steps on 10 arms, 200 logged rows, folders written. Programs are compiled before,
and the store is empty, unless it is the rerun that is timed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from rich.table import Table

from experiments.speed.plain_app import ARMS, BATCH, ROWS, STEPS
from experiments.speed.turns import finish
from rlkl.config import terminal

ROOT = Path(__file__).parents[2]
OUT = Path("paper") / "speed" / "sweeping.csv"
WORK = (
    "task=bandit/random",
    f"task.size={ARMS}",
    "algorithm=rloo",
    f"batch_size={BATCH}",
    f"steps={STEPS}",
    f"log_every={STEPS // ROWS}",
)
BETAS, SEEDS = "0.05,0.1,0.3,1", 16
FUSED, RERUN, LARGE, WANDB = "rlkl -m", "the same again", "1,024 jobs", "the same, wandb offline"
BASIC, PLAIN, IMPORT = "hydra/launcher=basic", "a plain Hydra application", "import jax"


def seconds(command: list[str], folder: Path, cache: Path) -> float:
    """What a command takes, from its start to its end."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": path}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def sweep(seeds: int, *also: str) -> list[str]:
    """The command of `4 x seeds` jobs."""
    tracking = [] if any(entry.startswith("tracking=") for entry in also) else ["tracking=none"]
    return [
        "-m",
        "rlkl",
        "-m",
        *WORK,
        f"penalty.beta={BETAS}",
        f"seed=range({seeds})",
        *tracking,
        *also,
        "hydra.sweep.dir=sweep",
    ]


def turn(cache: Path, plain: bool) -> dict[str, float]:
    """Every command once, each in an empty folder but for the rerun."""
    times = {}

    def timed(name: str, command: list[str], folder: str) -> None:
        times[name] = seconds(command, Path(folder), cache)

    with tempfile.TemporaryDirectory() as folder:
        timed(IMPORT, ["-c", "import jax"], folder)
        timed(FUSED, sweep(SEEDS), folder)
        timed(RERUN, sweep(SEEDS), folder)
    for name, command in {
        WANDB: sweep(SEEDS, "tracking=wandb_offline"),
        BASIC: sweep(SEEDS, "hydra/launcher=basic"),
        LARGE: sweep(256),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            timed(name, command, folder)
    if plain:
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(SEEDS)))
            timed(PLAIN, ["-m", "experiments.speed.plain_app", "-m", f"beta={BETAS}", f"seed={seeds}"], folder)
    return times


def summary(turns: list[dict[str, float]]) -> pd.DataFrame:
    """A row a command: its median, and what is wanted of it beside what there is."""
    seconds = pd.DataFrame(turns)
    median, ratio = seconds.median(), seconds.div(seconds[FUSED], axis=0).median()
    extra = (seconds[WANDB] - seconds[FUSED]).median() / (4 * SEEDS) * 1000
    rows = [
        (IMPORT, "", ""),
        (FUSED, f"{median[FUSED]:.1f} s", "<= 6 s"),
        (RERUN, f"{median[RERUN]:.1f} s", "<= 1.8 s"),
        (LARGE, f"{median[LARGE]:.1f} s", "<= 25 s"),
        (WANDB, f"{extra:.0f} ms a job more", "<= 60 ms"),
        (BASIC, f"{ratio[BASIC]:.1f} times rlkl -m", ">= 2"),
    ]
    if PLAIN in seconds:
        rows.append((PLAIN, f"{ratio[PLAIN]:.1f} times rlkl -m", ">= 15"))
    table = [(command, median[command], measured, wanted) for command, measured, wanted in rows]
    return pd.DataFrame(table, columns=["command", "seconds", "measured", "wanted"])


def main() -> None:
    """Measure, show, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain application, two minutes a turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        seconds(sweep(SEEDS), Path(folder), Path(cache))  # compiles
        turns = [turn(Path(cache), not options.no_plain) for _ in range(options.turns)]
    table = summary(turns)
    shown = Table("command", "median s", "measured", "wanted", title=f"sweeps, {options.turns} turns", title_justify="left")
    for row in table.itertuples():
        shown.add_row(row.command, f"{row.seconds:.2f}", row.measured, row.wanted)
    finish(shown, table, OUT)


if __name__ == "__main__":
    terminal.configure()
    main()
