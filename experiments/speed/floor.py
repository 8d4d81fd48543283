"""The training step of `bandit_peers` in C, as a floor under its time: compiles and runs `floor.c`."""

import atexit
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.speed.bandits import BATCH, BETA, RATE, bandit
from rlkl.config.machine import cores

SOURCE = Path(__file__).with_name("floor.c")
LANES = 16  # of floor.c: each thread takes a multiple of as many runs
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp-simd")
LIBRARIES = ("-lmvec", "-lm", "-lpthread")


def compile_floor(arms: int, folder: Path) -> Path | None:
    """Compile the program for so many arms into a folder; None if there is no C compiler that can."""
    compiler, program = shutil.which("cc"), folder / f"floor{arms}"
    if compiler is None:
        return None
    sizes = [f"-DARMS={arms}", f"-DBATCH={BATCH}", f"-DBETA={BETA}f", f"-DRATE={RATE}f"]
    line = [compiler, *FLAGS, *sizes, str(SOURCE), "-o", str(program), *LIBRARIES]
    return None if subprocess.run(line, capture_output=True, check=False).returncode else program


@functools.cache
def available() -> bool:
    """Whether there is a C compiler that compiles the program."""
    with tempfile.TemporaryDirectory() as folder:
        return compile_floor(10, Path(folder)) is not None


def train_by_floor(arms: int, runs: int, steps: int) -> Callable[[], np.ndarray]:
    """A function that trains the runs, a thread on each core, and returns their last logits."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    program = compile_floor(arms, folder)
    if program is None:
        raise OSError("no C compiler compiles floor.c")
    padded = -(-runs // (LANES * cores())) * LANES * cores()
    data = b"".join(np.asarray(column, np.float32).tobytes() for column in bandit(arms))

    def train() -> np.ndarray:
        line = [str(program), str(padded), str(steps), str(cores())]
        logits = subprocess.run(line, input=data, stdout=subprocess.PIPE, check=True).stdout
        return np.frombuffer(logits, np.float32).reshape(padded, arms)[:runs]

    return train
