"""Runs trained together: the same bits however they are grouped, stopped, resumed, or spread over devices."""

import subprocess
import sys

import numpy as np
import pytest

from rlkl.reports import console
from rlkl.runs import execute
from rlkl.runs.store import run_store
from rlkl.sweeps import scheduler
from rlkl.training import blocks
from tests.helpers import PLAIN, WHOLE, files, finished, job, stored


def test_jobs_are_grouped_by_what_is_compiled():
    jobs = [
        job(0),
        job(1, 0.2),
        job(2, task={"name": "bandit/random", "size": 4}),
        job(0, steps=30),
        job(3, optimizer={"b1": 0.5}),
    ]
    assert [[each.built.run.settings.seed for each in group] for group in scheduler.groups(jobs)] == [[0, 1, 3], [2], [0]]


@pytest.mark.parametrize(
    "plain", [PLAIN, pytest.param({"steps": 60, "log_every": 2}, marks=pytest.mark.slow)], ids=["rloo", "exact"]
)
def test_a_killed_block_goes_on_to_the_same_bits_whoever_shares_its_block(tmp_path, plain):
    """ProgramCache after each of three chunks; then some runs are dropped, others are new, and all stand in another order."""
    members = [job(seed, algorithm=plain.get("algorithm", {})) for seed in range(5)]
    whole = [files(execute.entry(each.built, one, 0.0)) for each, one in zip(
        members, blocks.train_runs([each.built.run for each in members]), strict=True)]  # fmt: skip
    kept: list[list] = []
    blocks.train_block(
        [each.built.run for each in members], on_chunk=lambda at: kept.append([at.checkpoint(i) for i in range(5)])
    )
    assert [int(arrays[0][0]) for arrays in kept] == [20, 40, 60]
    for number, arrays in enumerate(kept):
        root = tmp_path / str(number)
        for i in (3, 1, 4):
            run_store.put_chunk(root, members[i].key, arrays[i], WHOLE)
        there = finished([members[4], job(9, algorithm=plain.get("algorithm", {})), members[0], members[3]], root)
        for i in (0, 3, 4):
            assert files(there[members[i].key]) == whole[i], (number, i)
        assert {path.stem for path in (root / "unfinished").iterdir()} == {members[1].key}


def test_a_stopped_sweep_keeps_its_chunks_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    jobs = [job(seed) for seed in range(40)]
    whole = finished(jobs, tmp_path / "whole")
    monkeypatch.setattr(execute, "KEEP_EVERY", 0.0)
    going = scheduler.train_group(jobs, tmp_path / "cut", lambda told: None, WHOLE)
    next(going)
    going.close()
    done = len(list((tmp_path / "cut" / "runs").iterdir()))
    assert 16 <= done < 40
    left = [each for each in jobs if stored(tmp_path / "cut", each.key) is None]
    again = finished(left, tmp_path / "cut")
    for each in jobs:
        entry = stored(tmp_path / "cut", each.key)
        assert entry is not None
        assert files(entry) == files(whole[each.key])
        assert each.key not in again or files(again[each.key]) == files(whole[each.key])
    assert not list((tmp_path / "cut" / "unfinished").glob("*"))


def test_what_is_told_adds_up_and_divergence_is_noticed_as_it_happens(tmp_path):
    good = [
        job(seed, algorithm={"name": "exact"}, penalty={"divergence": "neyman"}, optimizer={"name": "sgd"}) for seed in range(2)
    ]
    bad = job(
        7, algorithm={"name": "exact"}, penalty={"divergence": "neyman"}, optimizer={"name": "sgd", "learning_rate": 1e308}
    )
    told: list[scheduler.Progress] = []
    found = {key: entry for part in scheduler.train_group([*good, bad], tmp_path, told.append, WHOLE) for key, entry in part}
    assert sum(each.steps for each in told) == 3 * 60
    assert sum(each.finished for each in told) == 3
    noticed = [pair for each in told for pair in each.diverged]
    assert noticed == [(bad.key, found[bad.key].summary["diverged_at"])]
    assert found[good[0].key].summary["diverged_at"] is None


def test_a_run_that_stops_at_a_kl_has_not_diverged(tmp_path):
    told: list[scheduler.Progress] = []
    jobs = [job(seed, stop_kl=1e-3) for seed in range(2)]
    found = {key: entry for part in scheduler.train_group(jobs, tmp_path, told.append, WHOLE) for key, entry in part}
    assert all(entry.summary["steps"] < 60 and entry.summary["stopped_at"] for entry in found.values())
    assert not any(each.diverged for each in told)
    assert sum(each.steps for each in told) == 120


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)
    with console.sweep_progress(2, 100, {"key": "3"}) as tell:
        tell(scheduler.Progress(steps=10))
        tell(scheduler.Progress(steps=40, finished=1, diverged=(("key", 7),)))
        tell(scheduler.Progress(steps=50, finished=1))
    assert capsys.readouterr().out == "job 3 diverged at step 7\n1 of 2 runs, 50 of 100 steps, about 0 s left\n"


def test_train_configs_needs_nothing_but_its_arguments(tmp_path):
    """As on another machine: from plain values, in another process, into a store that is read here."""
    jobs = [job(seed) for seed in range(3)]
    here = finished(jobs, tmp_path / "here")
    configs = [each.built.resolved for each in jobs]
    code = (
        "from rlkl.config import machine; from rlkl.sweeps import scheduler; machine.configure();"
        f"scheduler.train_configs({configs!r}, {str(tmp_path / 'there')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    for each in jobs:
        entry = stored(tmp_path / "there", each.key)
        assert entry is not None
        assert files(entry) == files(here[each.key])


DEVICES = """
import sys
from pathlib import Path
from rlkl.config import machine
machine.configure()
from rlkl.runs.store import program_cache
from rlkl.sweeps import scheduler
program_cache.enable()
import jax
assert jax.local_device_count() == int(sys.argv[2]), jax.local_devices()
used, block = set(), scheduler.blocks.train_block
def noted(*arguments, **named):
    used.add(jax.config.jax_default_device.id)
    return block(*arguments, **named)
scheduler.blocks.train_block = noted
scheduler.ANOTHER_DEVICE_PAYS, scheduler.blocks.WIDEST = 0.0, 16
sys.path.insert(0, sys.argv[3])
from tests.helpers import finished, job
finished([job(seed) for seed in range(70)], Path(sys.argv[1]))
assert len(used) == int(sys.argv[2]), used
"""


def test_one_device_and_two_give_the_same_bits(tmp_path, cache):
    import os

    from rlkl.config import machine

    found = {}
    for count in (1, 2):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --{machine.DEVICE_COUNT_FLAG}={count}"
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": flags}
        where = [str(tmp_path / str(count)), str(count), os.getcwd()]
        subprocess.run([sys.executable, "-c", DEVICES, *where], check=True, timeout=500, env=environment)
        entries = {path.stem: stored(tmp_path / str(count), path.stem) for path in (tmp_path / str(count) / "runs").iterdir()}
        found[count] = {key: files(entry) for key, entry in entries.items() if entry is not None}
    assert len(found[1]) == 70
    assert found[1] == found[2]


def test_a_device_a_core_unless_the_user_says_otherwise():
    import os

    code = "from rlkl.config import machine; machine.configure(); import jax; print(jax.local_device_count())"
    for flags, expected in (("", len(os.sched_getaffinity(0))), ("--xla_force_host_platform_device_count=3", 3)):
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "XLA_FLAGS": flags}
        )
        assert int(said.stdout) == expected


def test_random_keys_are_kept_as_their_numbers():
    run = job(3).built.run
    block, compiled = blocks.stack([run], 16), blocks.programs(run)
    state = compiled.start(block)
    _, row = compiled.prepare(block, state)
    rows = [blocks.on_host(row, lambda x: x[:1, None])]
    at = blocks.restore(state, row, [blocks.BlockProgress(7, state, rows).checkpoint(0)])
    assert at.step == 7
    assert at.state.key.dtype == state.key.dtype
    np.testing.assert_array_equal(at.state.key[0], state.key[0])
