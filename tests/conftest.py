"""Tests run in 64 bits, with strict dtype promotion and with rank promotion an error."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from rlkl.config import plugins
from rlkl.divergences import Params
from rlkl.tasks import Automaton, Task
from rlkl.training import blocks

PARAMS = Params(0.5)
blocks.WIDEST = 16  # most tests hold one run: 63 others beside it, compiled without optimisation, would take their time
SHIPPED = [dict(registry) for registry in plugins.REGISTRIES]


@pytest.fixture(autouse=True)
def registries():
    """What a test's plugins registered is gone after it: other tests speak of what is shipped."""
    yield
    for registry, shipped in zip(plugins.REGISTRIES, SHIPPED, strict=True):
        registry.clear()
        registry.update(shipped)


@pytest.fixture(scope="module", autouse=True)
def programs():
    """A module's programs go with it once this process has half the mappings that Linux gives it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """One cache folder for a session's tests and commands, shared by pytest's workers: what is the same compiles once."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    jax.config.update("jax_compilation_cache_dir", str(folder / "rlkl" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture
def command(tmp_path, cache):
    """Runs the real command in an empty folder; returns the finished process."""

    def run(*arguments: str, cwd: Path = tmp_path, environment: dict | None = None) -> subprocess.CompletedProcess:
        variables = {**os.environ, "XDG_CACHE_HOME": str(cache), "COLUMNS": "160", **(environment or {})}
        return subprocess.run(
            [sys.executable, "-m", "rlkl", *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=300
        )

    return run


def random_rows(draw: np.random.Generator, legal: np.ndarray, concentration: float = 1.0) -> np.ndarray:
    """Log-probabilities over the legal tokens of each row."""
    weight = np.where(legal, draw.gamma(concentration, size=legal.shape) + 1e-6, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(weight / weight.sum(-1, keepdims=True))


def random_task(draw: np.random.Generator, typicality: float = 0.0) -> Task:
    """A task of 2-8 states, 2-6 tokens and horizon 1-6, some tokens illegal, some ending early."""
    decisions, vocabulary, horizon = int(draw.integers(1, 6)), int(draw.integers(2, 7)), int(draw.integers(1, 7))
    states = decisions + int(draw.integers(1, 4))
    following = draw.integers(0, states, size=(decisions, vocabulary))
    illegal = draw.random(following.shape) < 0.2
    illegal[:, 0] = False
    following = np.where(illegal, -1, following)
    automaton = Automaton(following, states, horizon)
    return Task(
        automaton,
        draw.normal(size=states),
        random_rows(draw, automaton.legal),
        np.asarray(typicality),
        np.arange(vocabulary, dtype=float),
    )


def shortened(task: Task, most: int = 2000) -> Task:
    """The task on the longest horizon, up to its own, with at most `most` sequences."""
    automaton = task.automaton
    for horizon in range(automaton.horizon, 0, -1):
        shorter = Automaton(automaton.next_state, automaton.states, horizon)
        if automaton.vocabulary**horizon <= most or len(sequences(shorter)) <= most:
            break
    return Task(shorter, *(jax.numpy.asarray(leaf) for leaf in jax.tree.leaves(task)))


@functools.cache
def sequences(automaton: Automaton) -> list[tuple[tuple[tuple[int, int, int], ...], int]]:
    """Every legal sequence: its (position, state, token) triples and its end state, by plain recursion."""
    found = []

    def extend(path, state):
        if state >= automaton.decisions or len(path) == automaton.horizon:
            found.append((tuple(path), state))
            return
        for token, after in enumerate(automaton.next_state[state]):
            if after >= 0:
                extend([*path, (len(path), state, token)], int(after))

    extend([], automaton.start)
    return found


def sequence_log_probability(table: np.ndarray, automaton: Automaton) -> np.ndarray:
    """log pi(y) of every legal sequence, from a [T, D, V] table."""
    return np.array([sum(table[at] for at in path) for path, _ in sequences(automaton)])
