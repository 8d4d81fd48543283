"""`kill -9`, or an interrupt, of a sweep at any moment; then the same command finishes it, and leaves what one that nothing
happened to leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import content

# Two groups, the second of many chunks; every chunk is kept, so that one can be cut in two anywhere.
SWEEP = (
    "task=bandit/random",
    "task.size=3",
    "algorithm=rloo",
    "steps=1500,1700",
    "log_every=20",
    "seed=range(18)",
    "tracking=none",
)
CODE = "from rlkl.runs import execute; from rlkl.__main__ import entry; execute.KEEP_EVERY = 0.0; entry()"


def start(cwd: Path, cache: Path) -> subprocess.Popen:
    cwd.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CODE, "-m", *SWEEP, "hydra.sweep.dir=sweep"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stands(cwd: Path) -> str:
    """How far a sweep has come, in words."""
    done, half = (len(list((cwd / "outputs" / ".rlkl" / name).glob("*"))) for name in ("runs", "unfinished"))
    filled = len(list((cwd / "sweep").glob("*/summary.json")))
    return f"{done} finished, {half} unfinished, {filled} folders"


def killed(cwd: Path, cache: Path, wait, by: signal.Signals = signal.SIGKILL) -> str:
    """Kill a sweep once `wait(process)` returns; then run it to its end. Returns where it stood."""
    process = start(cwd, cache)
    wait(process)
    process.send_signal(by)
    _, complained = process.communicate()
    if by == signal.SIGINT:
        assert process.returncode == 130
        assert complained == "error: interrupted\n"
    where = stands(cwd)
    again = start(cwd, cache)
    said, complained = again.communicate(timeout=500)
    assert again.returncode == 0, (where, complained)
    assert "36 jobs finished" in said, where
    return where


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache) -> dict[str, bytes]:
    """What the sweep leaves when nothing happens to it."""
    cwd = tmp_path_factory.mktemp("whole")
    finish(cwd, cache)
    return content(cwd / "sweep")


def finish(cwd: Path, cache: Path) -> float:
    """Run the sweep to its end; returns the seconds that this takes."""
    started = time.perf_counter()
    process = start(cwd, cache)
    _, complained = process.communicate(timeout=500)
    assert process.returncode == 0, complained
    return time.perf_counter() - started


def until(pattern: str, cwd: Path):
    """Wait until a file of this name is there."""

    def wait(process):
        while process.poll() is None and not list(cwd.glob(pattern)):
            time.sleep(0.002)

    return wait


@pytest.mark.parametrize(
    ("moment", "by"),
    [
        pytest.param("outputs/.rlkl/unfinished/*", signal.SIGKILL, id="training"),
        pytest.param("sweep/0/history.csv", signal.SIGKILL, id="writing", marks=pytest.mark.slow),
        pytest.param("outputs/.rlkl/unfinished/*", signal.SIGINT, id="training, interrupted", marks=pytest.mark.slow),
        pytest.param("sweep/0/history.csv", signal.SIGINT, id="writing, interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_killed_sweep_is_finished_by_the_same_command(tmp_path, cache, whole, moment, by):
    where = killed(tmp_path, cache, until(moment, tmp_path), by)
    assert " 36 folders" not in where
    assert content(tmp_path / "sweep") == whole, where
    assert not list((tmp_path / "outputs" / ".rlkl" / "unfinished").glob("*.npz"))


@pytest.mark.slow
def test_a_sweep_is_finished_after_a_kill_at_each_of_twenty_moments(tmp_path, cache, whole):
    """Uniform over its duration; five more inside training, and five while files are written."""
    expected, seconds = whole, finish(tmp_path / "timed", cache)  # `whole` has compiled it
    waits = [lambda process, after=after: time.sleep(after) for after in np.linspace(0.1, 0.95, 10) * seconds]
    draw = np.random.default_rng(0)
    seen = []
    for number in range(20):
        cwd = tmp_path / str(number)
        pattern = "outputs/.rlkl/unfinished/*" if number < 15 else "sweep/*/history.csv"
        then = draw.uniform(0.0, 0.4)

        def wait(process, pattern=pattern, cwd=cwd, then=then, number=number):
            if number < 10:
                waits[number](process)
            else:
                until(pattern, cwd)(process)
                time.sleep(then)

        seen.append(killed(cwd, cache, wait))
        assert content(cwd / "sweep") == expected, (number, seen[-1])
    print("\n".join(seen))
