"""Compiled programs of settings that are no longer trained are let go of: a process may train any number of them."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlkl.config import machine
from rlkl.config.build import build
from rlkl.training import blocks

MAPS = Path("/proc/self/maps")
linux = pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells a process its mappings")


def run(steps: int, **plain):
    """A run whose static part is its number of steps."""
    return build({"task": {"name": "bandit/random", "size": 3}, "steps": steps, "log_every": 1, **plain}).run


def mappings() -> int:
    return len(MAPS.read_text().splitlines())


def growth(first: int, last: int) -> int:
    """The mappings that training with so many steps each adds to this process."""
    before = mappings()
    for steps in range(first, last):
        blocks.train_runs([run(steps)])
    return mappings() - before


@pytest.mark.slow
@linux
def test_a_process_grows_no_further_than_the_programs_that_are_kept(monkeypatch):
    monkeypatch.setattr(blocks, "compiled_programs", functools.lru_cache(maxsize=1)(blocks.compiled_programs.__wrapped__))
    filled = growth(1, 2)
    assert filled > 50  # the programs are seen in the mappings
    assert growth(2, 5) < filled / 2


@linux
@pytest.mark.slow
def test_sixty_settings_take_no_more_mappings_than_thirty():
    growth(1, 31)
    assert growth(31, 61) < 500


def test_programs_are_kept_for_the_settings_that_were_trained_last():
    assert blocks.programs(run(1)) is blocks.programs(run(1, seed=3, penalty={"beta": 0.7}))
    assert blocks.programs(run(1)) is not blocks.programs(run(2))
    first = blocks.programs(run(1))
    for steps in range(2, 2 + blocks.CACHED):
        blocks.programs(run(steps))
    assert blocks.programs(run(1)) is not first


MANY = """
import resource, sys
import rlkl
FEW = ["algorithm=rloo", "batch_size=4"]
for i in range(int(sys.argv[1])):
    task = ["task=bandit/random", f"task.size={3 + i % 7}"]
    if i % 10 == 0:
        task = ["task=sequence/brackets", f"task.horizon={2 + 2 * (i % 30 // 10)}"]
    policy = ["policy=gru", f"policy.width={2 + i % 25 // 5}"] if i % 20 == 10 else []
    penalty = ["reverse_kl", "forward_kl", "hellinger"][i % 3]
    rlkl.train([*task, *policy, f"penalty={penalty}", f"steps={1 + i // 7}", f"log_every={1 + i % 3}", *FEW])
    if i % 10 == 9:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(i + 1, peak, sum(1 for _ in open("/proc/self/maps")), flush=True)
"""


@linux
@pytest.mark.slow
def test_a_process_trains_five_hundred_different_settings_in_three_gigabytes(cache):
    variables = {
        "XLA_FLAGS": machine.UNOPTIMISED,
        "JAX_COMPILATION_CACHE_DIR": str(cache / "rlkl" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", MANY, "500"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=7200)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    assert rows[-1][0] == 500
    assert rows[-1][1] < 3 * 1024, rows
    assert max(row[2] for row in rows) < 32_000, rows
