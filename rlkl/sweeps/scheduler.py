"""Runs of a sweep trained together: grouped by what is compiled, in blocks, over all devices, from the store and into it."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlkl.config.build import Built, build
from rlkl.reports import console
from rlkl.runs import execute
from rlkl.runs.folder import artifacts
from rlkl.runs.store import pretrained_references, run_store
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.run_store import Entry
from rlkl.settings import numerics
from rlkl.training import blocks
from rlkl.training.loop import Row

ANOTHER = 4.0  # what is left, in times the first block's, that makes another device worth its compilation


class Job(NamedTuple):
    """One run of a sweep: its fingerprint, and what is to be trained."""

    key: str
    built: Built


class Told(NamedTuple):
    """What a group's training says as it goes on: steps taken since the last time, runs finished, what diverged where, and the
    new rows of runs that are followed as they train (`tracking=wandb`)."""

    steps: int = 0
    finished: int = 0
    diverged: tuple[tuple[str, int], ...] = ()
    rows: tuple[str, Row] | None = None


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs by static part, in the order in which each first comes up."""
    found: dict[tuple, list[Job]] = {}
    for each in jobs:
        found.setdefault(blocks.static_part(each.built.run), []).append(each)
    return list(found.values())


def train_groups(
    group: Sequence[Job], root: Path, tell: Callable[[Told], None], faults: Faults, resume: bool = True
) -> Iterator[list[tuple[str, Entry]]]:
    """Train a group, and keep each run in the store under `root` as its block finishes; yields every block's entries.

    Runs that stopped half-way go on from their last kept chunk, in blocks of runs that stand at one step. Which runs share
    a block, and on which device, changes no bit of any of them.
    """
    pending = deque(_blocks(group, root, resume, faults))
    devices, stop = jax.local_devices(), threading.Event()
    done: queue.SimpleQueue[_Finished | BaseException] = queue.SimpleQueue()
    workers: list[threading.Thread] = []

    def work(device: jax.Device):
        while pending and not stop.is_set():
            try:
                members, kept = pending.popleft()
            except IndexError:
                break
            try:
                done.put(_train_block(members, kept, root, device, tell, stop, faults))
            except BaseException as error:
                done.put(error)
                return

    def employ():
        workers.append(threading.Thread(target=work, args=(devices[len(workers)],), daemon=True))
        workers[-1].start()

    first, left = None, len(pending)
    employ()
    try:
        while left:
            finished = done.get()
            if isinstance(finished, BaseException):
                raise finished
            left -= 1
            first = first or finished.seconds
            if len(workers) < len(devices) and len(pending) * finished.seconds > ANOTHER * first:
                employ()
            yield finished.entries
    finally:
        stop.set()
        for worker in workers:
            worker.join()


class _Finished(NamedTuple):
    entries: list[tuple[str, Entry]]
    seconds: float


class _StoppedError(Exception):
    """The sweep ends while this block trains."""


def _blocks(group: Sequence[Job], root: Path, resume: bool, faults: Faults) -> Iterator[tuple[list[Job], list | None]]:
    """Blocks of jobs that stand at one step, with what was kept of them: those that are furthest come first."""
    at: dict[int, list[tuple[Job, Any]]] = {}
    for each in group:
        kept = run_store.read_chunk(root, each.key, each.built.run, faults) if resume else None
        at.setdefault(0 if kept is None else int(kept[0]), []).append((each, kept))
    size = blocks.width(group[0].built.run)
    for step in sorted(at, reverse=True):
        for first in range(0, len(at[step]), size):
            part = at[step][first : first + size]
            yield [each for each, _ in part], [kept for _, kept in part] if step else None


def _train_block(
    members: list[Job], kept: list | None, root: Path, device: jax.Device, tell, stop, faults: Faults
) -> _Finished:
    started = saved = time.perf_counter()
    steps = members[0].built.run.settings.steps
    at, diverged = (int(kept[0][0]) if kept else 0), set[int]()
    tell(Told(steps=at * len(members)))

    def on_chunk(standing: blocks.Progress):
        nonlocal saved, at
        reached, halted = standing.rows[-1].step[:, -1], standing.state.stopped
        meant = np.zeros(len(members), bool) if halted is None else np.asarray(halted)[: len(members)]
        fresh = [int(i) for i in np.flatnonzero((reached < standing.step) & ~meant) if i not in diverged]
        diverged.update(fresh)
        noticed = tuple((members[i].key, int(reached[i]) + 1) for i in fresh)
        tell(Told(steps=(standing.step - at) * len(members), diverged=noticed))
        at = standing.step
        if stop.is_set() or time.perf_counter() - saved >= execute.KEEP_EVERY:
            for i, each in enumerate(members):
                run_store.put_chunk(root, each.key, standing.of(i), faults)
            saved = time.perf_counter()
        if stop.is_set():
            raise _StoppedError

    def on_rows(i: int, rows: Row):
        if members[i].built.tracking.name == "wandb":
            tell(Told(rows=(members[i].key, rows)))

    followed = on_rows if any(each.built.tracking.name == "wandb" for each in members) else None
    with jax.default_device(device), numerics.pinned():
        trained = blocks.train_block([each.built.run for each in members], followed, on_chunk, kept)
        share = (time.perf_counter() - started) / len(members)
        entries = []
        for each, one in zip(members, trained, strict=True):
            entry = execute.entry(each.built, one, share)
            run_store.put(root, each.key, entry, faults)
            entries.append((each.key, entry))
    tell(Told(steps=(steps - at) * len(members), finished=len(members)))
    return _Finished(entries, time.perf_counter() - started)


def run_group(configs: Sequence[dict[str, Any]], root: str, resume: bool = True) -> list[str]:
    """Train runs of one static part, given as plain configs, into the store under `root`; returns their keys.

    All that it needs is pickled with its arguments (plugins and texts by path), so that it can be shipped to another machine.
    """
    cards: dict = {}
    faults, where = Faults(console.warn), Path(root)
    with numerics.pinned():
        made = [build(each, cards) for each in configs]
        jobs = [Job(run_store.key(each), pretrained_references.attach(each, faults)) for each in made]
        there = (resume and run_store.read(where, each.key, artifacts.names(each.built), faults) is not None for each in jobs)
        left = [each for each, finished in zip(jobs, there, strict=True) if not finished]
        for group in groups(left):
            for _ in train_groups(group, where, lambda told: None, faults, resume):
                pass
    faults.close()
    return [each.key for each in jobs]
