"""Train the runs of a sweep together: in groups that share a compiled program, in blocks, on all devices, through the store."""

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
from rlkl.training import blocks, programs
from rlkl.training.observe import Row

# Remaining work above which another device pays: in units of the first block's time if the programs are compiled anew for it,
# in seconds if they are loaded from a cache.
ANOTHER_COMPILATION_PAYS, ANOTHER_DEVICE_PAYS = 4.0, 0.5


class Job(NamedTuple):
    """One run of a sweep. key: its fingerprint."""

    key: str
    built: Built


class Progress(NamedTuple):
    """Progress of a group's training since the last report.

    steps: steps taken, over all runs. finished: number of runs. diverged: keys of runs and the steps at which they diverged.
    rows: key and new rows of a run that is logged while it trains (`tracking=wandb`).
    """

    steps: int = 0
    finished: int = 0
    diverged: tuple[tuple[str, int], ...] = ()
    rows: tuple[str, Row] | None = None


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs by their static part, in order of first appearance; a group shares a compiled program."""
    by_static_part: dict[tuple, list[Job]] = {}
    for each in jobs:
        by_static_part.setdefault(blocks.static_part(each.built.run), []).append(each)
    return list(by_static_part.values())


def train_group(
    group: Sequence[Job], root: Path, on_progress: Callable[[Progress], None], faults: Faults, resume: bool = True
) -> Iterator[list[tuple[str, Entry]]]:
    """Train a group and yield the entries of each block, once they are in the store under `root`.

    Unfinished runs continue from their last stored chunk, in blocks of runs that are at the same step. Which runs share a
    block, and on which device, changes no bit of any of them.
    """
    pending = deque(_blocks(group, root, resume, faults))
    devices, stop = jax.local_devices(), threading.Event()
    done: queue.SimpleQueue[_Finished | BaseException] = queue.SimpleQueue()
    workers: list[threading.Thread] = []

    def work(device: jax.Device):
        while pending and not stop.is_set():
            try:
                members, chunks = pending.popleft()
            except IndexError:
                break
            try:
                done.put(_train_block(members, chunks, root, device, on_progress, stop, faults))
            except BaseException as error:
                done.put(error)
                return

    def start_worker():
        workers.append(threading.Thread(target=work, args=(devices[len(workers)],), daemon=True))
        workers[-1].start()

    first_seconds, left = None, len(pending)
    start_worker()
    try:
        while left:
            finished = done.get()
            if isinstance(finished, BaseException):
                raise finished
            left -= 1
            first_seconds = first_seconds or finished.seconds
            least = ANOTHER_DEVICE_PAYS if programs.has_cache() else ANOTHER_COMPILATION_PAYS * first_seconds
            if len(workers) < len(devices) and len(pending) * finished.seconds > least:
                start_worker()
            yield finished.entries
    finally:
        stop.set()
        for worker in workers:
            worker.join()


class _Finished(NamedTuple):
    entries: list[tuple[str, Entry]]
    seconds: float


class _StoppedError(Exception):
    """The sweep ended while this block trained."""


def _blocks(group: Sequence[Job], root: Path, resume: bool, faults: Faults) -> Iterator[tuple[list[Job], list | None]]:
    """Yield blocks of jobs that are at the same step, with their stored chunks; those that are furthest come first."""
    by_step: dict[int, list[tuple[Job, Any]]] = {}
    for each in group:
        chunk = run_store.read_chunk(root, each.key, each.built.run, faults) if resume else None
        by_step.setdefault(0 if chunk is None else int(chunk[0]), []).append((each, chunk))
    size = blocks.width(group[0].built.run)
    for step in sorted(by_step, reverse=True):
        for first in range(0, len(by_step[step]), size):
            part = by_step[step][first : first + size]
            yield [each for each, _ in part], [chunk for _, chunk in part] if step else None


def _train_block(
    members: list[Job], chunks: list | None, root: Path, device: jax.Device, on_progress, stop, faults: Faults
) -> _Finished:
    """Train a block on a device, from its stored chunks if there are any; raises `_StoppedError` once `stop` is set."""
    started = saved = time.perf_counter()
    steps = members[0].built.run.settings.steps
    reported, diverged = (int(chunks[0][0]) if chunks else 0), set[int]()  # reported: the step up to which progress is known
    on_progress(Progress(steps=reported * len(members)))

    def on_chunk(progress: blocks.BlockProgress):
        nonlocal saved, reported
        last_step, stopped = progress.rows[-1].step[:, -1], progress.state.stopped
        on_purpose = np.zeros(len(members), bool) if stopped is None else np.asarray(stopped)[: len(members)]
        new = [int(i) for i in np.flatnonzero((last_step < progress.step) & ~on_purpose) if i not in diverged]
        diverged.update(new)
        diverged_at = tuple((members[i].key, int(last_step[i]) + 1) for i in new)
        on_progress(Progress(steps=(progress.step - reported) * len(members), diverged=diverged_at))
        reported = progress.step
        if stop.is_set() or time.perf_counter() - saved >= execute.KEEP_EVERY:
            for i, each in enumerate(members):
                run_store.put_chunk(root, each.key, progress.checkpoint(i), faults)
            saved = time.perf_counter()
        if stop.is_set():
            raise _StoppedError

    def on_rows(i: int, rows: Row):
        if members[i].built.tracking.name == "wandb":
            on_progress(Progress(rows=(members[i].key, rows)))

    on_new_rows = on_rows if any(each.built.tracking.name == "wandb" for each in members) else None
    with jax.default_device(device), numerics.pinned():
        trained = blocks.train_block([each.built.run for each in members], on_new_rows, on_chunk, chunks)
        seconds = (time.perf_counter() - started) / len(members)
        entries = []
        for each, result in zip(members, trained, strict=True):
            entry = execute.entry(each.built, result, seconds)
            run_store.put(root, each.key, entry, faults)
            entries.append((each.key, entry))
    on_progress(Progress(steps=(steps - reported) * len(members), finished=len(members)))
    return _Finished(entries, time.perf_counter() - started)


def train_configs(configs: Sequence[dict[str, Any]], root: str, resume: bool = True) -> list[str]:
    """Train runs, given as plain configs, into the store under `root`; returns their keys.

    The arguments can be pickled and hold all that is needed (plugins and texts by path), so that another machine can train.
    """
    cards: dict = {}
    faults, store = Faults(console.warn), Path(root)
    with numerics.pinned():
        runs = [build(each, cards) for each in configs]
        jobs = [Job(run_store.key(each), pretrained_references.attach(each, faults)) for each in runs]
        stored = (resume and run_store.read(store, each.key, artifacts.names(each.built), faults) is not None for each in jobs)
        left = [each for each, finished in zip(jobs, stored, strict=True) if not finished]
        for group in groups(left):
            for _ in train_group(group, store, lambda progress: None, faults, resume):
                pass
    faults.close()
    return [each.key for each in jobs]
