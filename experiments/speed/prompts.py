"""`make bench`: sequences a second of training on one prompt with batches of 1,024, and on 64 prompts with 16 answers each."""

import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.table import Table

from experiments.speed.turns import finish
from rlkl.config import terminal
from rlkl.config.build import build
from rlkl.settings import numerics
from rlkl.training import blocks

OUT = Path("paper") / "speed" / "prompts.csv"
ARMS, BATCH, STEPS, TURNS = 10, 1024, 2000, 9
ONE = "one prompt x 1,024"
TASKS: dict[str, dict[str, Any]] = {
    ONE: {"task": {"name": "bandit/random", "size": ARMS}, "algorithm": {"name": "rloo"}},
    "64 prompts x 16": {"task": {"name": "bandit/prompts", "prompts": 64, "size": ARMS},
                        "algorithm": {"name": "rloo", "group_size": BATCH // 64}},
}  # fmt: skip


def steps_of_block(settings: dict[str, Any]):
    """A function that takes STEPS training steps of a full block, already compiled, and the number of runs in the block."""
    run = build(settings | {"batch_size": BATCH, "steps": STEPS, "log_every": STEPS // 10}).run
    with numerics.pinned():
        compiled, block = blocks.programs(run), blocks.stack([run], blocks.width(run))
        state = compiled.start(block)
        optimum, _ = compiled.prepare(block, state)

    def advance() -> None:
        with numerics.pinned():
            jax.block_until_ready(compiled.advance(block, optimum, state, np.int32(0)))

    advance()
    return advance, blocks.width(run)


def main() -> None:
    """Measure in turns, show, and write the rows: medians, and ratios of medians."""
    made = {name: steps_of_block(settings) for name, settings in TASKS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(TURNS):
        for name, (advance, _) in made.items():
            started = time.perf_counter()
            advance()
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, (_, width) in made.items():
        median = statistics.median(seconds[name])
        alone, full = BATCH * STEPS / median, width * BATCH * STEPS / median
        rows.append({"what": name, "runs in a block": width, "a run alone": alone, "a full block": full})
    table = pd.DataFrame(rows)
    for column in ("a run alone", "a full block"):
        table[f"{column}, over one prompt"] = table[column] / float(table.loc[table["what"] == ONE, column].iloc[0])
    shown = Table(*table.columns, title="sequences a second", title_justify="left")
    for row in table.itertuples(index=False):
        shown.add_row(*(value if isinstance(value, str) else f"{value:.3g}" for value in row))
    finish(shown, table, OUT)


if __name__ == "__main__":
    terminal.configure()
    main()
