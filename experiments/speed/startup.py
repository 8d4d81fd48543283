"""`make bench`: what a command takes before and around its training, beside a bare `import jax`; no test depends on it.

All commands take turns, so that noise of the machine falls on each of them; medians and their ratios are shown.
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

from experiments.speed.turns import finish
from rlkl.config import terminal

OUT = Path("paper") / "speed" / "startup.csv"
RLKL = [sys.executable, "-m", "rlkl"]
RUN = [*RLKL, "task=bandit/two_modes", "resume=false"]
COMMANDS = {
    "import jax": [sys.executable, "-c", "import jax"],
    "a run, tracked offline": RUN,
    "a run, tracking=none": [*RUN, "tracking=none"],
    "the same, nothing compiled before": [*RUN, "tracking=none"],
    "rlkl --help": [*RLKL, "--help"],
    "rlkl list": [*RLKL, "list"],
    "an unknown key refused": [*RLKL, "penalty.betta=1"],
    "a bad value refused": [*RLKL, "penalty.beta=-1"],
}
COLD = "the same, nothing compiled before"


def seconds(command: list[str], cache: Path, folder: Path) -> float:
    """Wall-clock time of a command that keeps its programs in `cache`."""
    started = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure, show, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for turn in range(-1, options.turns):  # the first compiles and does not count
            for name, command in COMMANDS.items():
                cache = folder / (f"cold{turn}" if name == COLD else "warm")
                rows.append({"command": name, "turn": turn, "seconds": seconds(command, cache, folder)})
    times = pd.DataFrame(rows).query("turn >= 0").pivot(index="turn", columns="command", values="seconds")[list(COMMANDS)]
    ratios = times.div(times["import jax"], axis=0)
    table = pd.DataFrame({"seconds": times.median(), "least": times.min(), "times_import_jax": ratios.median()})
    shown = Table(
        "", "median s", "least s", "times import jax", title=f"{options.turns} turns, interleaved", title_justify="left"
    )
    for name, row in table.iterrows():
        shown.add_row(str(name), f"{row.seconds:.2f}", f"{row.least:.2f}", f"{row.times_import_jax:.1f}")
    finish(shown, table.reset_index(), OUT)


if __name__ == "__main__":
    terminal.configure()
    main()
