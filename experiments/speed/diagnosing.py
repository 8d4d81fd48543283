"""`make bench`: how long a diagnosis of rollouts takes, and the memory it needs; what a monitor costs in a training loop."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from experiments.speed.turns import finish
from rlkl.config import terminal
from rlkl.diagnostics.diagnose.monitor import monitor
from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header
from rlkl.diagnostics.diagnose.reading.write import write_rollouts

OUT = Path("paper") / "speed" / "diagnosing.csv"
LENGTH, BATCH = 512, 128  # tokens of a sequence, sequences of a batch: 64k tokens
DISTINCT = 200  # sequences that a file repeats
DIAGNOSE = """
import json, re, sys, time
started = time.perf_counter()
import rlkl
tokens = rlkl.diagnose(sys.argv[1]).tokens
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - started, "MiB": peak}))
"""


def rollouts(count: int, first: int) -> Chunk:
    """Sequences with four lists a token, a reward, a group of eight and a step of a thousand."""
    rng, size = np.random.default_rng(0), count * LENGTH
    log_pi = -rng.exponential(size=size)
    numbers = first + np.arange(count)
    return Chunk(
        np.full(count, LENGTH),
        log_pi,
        np.minimum(log_pi + 0.01 * rng.normal(size=size), 0.0),
        np.minimum(log_pi + 0.2 * rng.normal(size=size), 0.0),
        tokens=rng.integers(0, 50_000, size),
        reward=(numbers % 2).astype(float),
        group=numbers // 8,
        step=numbers // 1000,
    )


def diagnosing(ending: str, sequences: int, folder: Path) -> dict[str, object]:
    """The time and the peak memory of a process that diagnoses a file with this ending."""
    path = folder / f"run{ending}"
    write_rollouts(path, Header(temperature=1.0), (rollouts(DISTINCT, first) for first in range(0, sequences, DISTINCT)))
    done = subprocess.run([sys.executable, "-c", DIAGNOSE, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    measured = json.loads(done.stdout)
    return {"what": f"rlkl diagnose, {sequences:,} sequences of {LENGTH} tokens, {ending}"} | measured


def monitoring(calls: int) -> dict[str, object]:
    """The median time of a monitor's call on a batch of float32 arrays."""
    shape = (BATCH, LENGTH)
    batch = rollouts(BATCH, 0)
    arrays = {name: getattr(batch, name).reshape(shape).astype(np.float32) for name in batch.fields if "log_probs" in name}
    watch, times = monitor(), []
    for _ in range(calls):
        started = time.perf_counter()
        watch(**arrays, reward=batch.reward, group=batch.group)
        times.append(time.perf_counter() - started)
    return {"what": "a call of rlkl.monitor(), float32", "tokens": BATCH * LENGTH, "seconds": float(np.median(times))}


def main() -> None:
    """Measure, show, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    rows = [monitoring(options.calls)]
    with tempfile.TemporaryDirectory() as folder:
        rows += [diagnosing(ending, options.sequences, Path(folder)) for ending in (".npz", ".jsonl")]
    table = pd.DataFrame(rows)
    shown = Table(*table.columns, title="diagnosing rollouts", title_justify="left")
    for row in table.itertuples(index=False):
        shown.add_row(*(str(value) if isinstance(value, str) else f"{value:,.4g}" for value in row))
    finish(shown, table, OUT)


if __name__ == "__main__":
    terminal.configure()
    main()
