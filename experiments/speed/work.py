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


def reference() -> np.ndarray:
    """A random bigram model [token before, token]: rows 0 to 31 follow that token, the last one is the start."""
    return np.random.default_rng(0).dirichlet(np.ones(VOCABULARY), size=VOCABULARY + 1)


def reward() -> np.ndarray:
    """A random number in [0, 1] for each token; a sequence earns its last token's."""
    return np.random.default_rng(1).random(VOCABULARY)


def arguments(description: str | None, choice: str, choices: list[str], **numbers: int) -> argparse.Namespace:
    """What every peer takes: `choice`, one of `choices` (the first is the default), threads and seconds; and its own numbers.

    The process is held to as many cores, before anything is imported that counts them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(f"--{choice}", choices=choices, default=choices[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure, after the warm-up")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # not on a Mac
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.threads])
    return chosen


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
    found = {"peer": peer, "kind": kind, "threads": threads, "updates_per_second": rate, "updates": updates}
    return json.dumps({**found, "versions": versions})
