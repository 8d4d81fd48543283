"""The work that every peer does: its sizes, its fixed reference and reward, the clock, and the line a peer prints."""

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterable

import numpy as np

VOCABULARY, LENGTH, BATCH = 32, 16, 128
WIDTH, LAYERS, HEADS, MLP = 64, 2, 4, 256
BETA, LEARNING_RATE = 0.1, 1e-3
START = VOCABULARY  # the token before the first one
WARMUP = 5
GRADED = 20  # batches that a policy is graded by, where it is graded by samples


def reference() -> np.ndarray:
    """A random bigram model [token before, token]: rows 0 to 31 follow that token, the last one is the start."""
    return np.random.default_rng(0).dirichlet(np.ones(VOCABULARY), size=VOCABULARY + 1)


def reward() -> np.ndarray:
    """A random number in [0, 1] for each token; a sequence earns its last token's."""
    return np.random.default_rng(1).random(VOCABULARY)


def arguments(description: str | None, choices: dict[str, list[str]], **numbers: int) -> argparse.Namespace:
    """The options of a peer: its choices (the first of each is the default), its numbers, and those that every peer takes.

    The process is held to as many cores as threads, before anything is imported that counts them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, default=values[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure, after the warm-up")
    parser.add_argument("--runs", type=int, default=0, help="train so many runs, and print how good they are, not how fast")
    parser.add_argument("--steps", type=int, default=100, help="steps of these runs")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # not on a Mac
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    return options


def timed(update: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Updates done and the seconds they took, after a few that do not count."""
    for _ in range(WARMUP):
        update()
    updates, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        update()
        updates += 1
    return updates, elapsed


def line(peer: str, kind: str, threads: int, updates: int, elapsed: float, packages: Iterable[str]) -> str:
    """The result as one line of JSON."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    rate = round(updates / elapsed, 2)
    result = {"peer": peer, "kind": kind, "threads": threads, "updates_per_second": rate, "updates": updates}
    return json.dumps({**result, "versions": versions})
