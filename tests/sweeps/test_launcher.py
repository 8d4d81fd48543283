"""`rlkl -m`: what Hydra's users expect of a sweep, from the store and into it, whatever happens on the way."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rlkl import cli, tasks
from rlkl.config import hydra_private
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.config.overrides import config_directory
from rlkl.errors import SettingsError
from rlkl.runs.store import run_store
from rlkl.runs.tracking import tracker
from rlkl.sweeps import tracking_process
from tests.helpers import content, loaded_by, packed, seal

SMALL = ("task=bandit/random", "steps=40", "log_every=10", "tracking=none")
DIVERGES = ("optimizer=sgd", "optimizer.learning_rate=0.1,1e308", "penalty=neyman")


@pytest.fixture
def rlkl(tmp_path, cache, monkeypatch, capsys):
    """The command in this process, in an empty folder; returns its status and what it said. Logging is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    handlers = list(logging.root.handlers)

    def run(*arguments: str, cwd: str = ".") -> tuple[int, str, str]:
        capsys.readouterr()
        (tmp_path / cwd).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / cwd)
        status = cli.main([*arguments, "hydra/job_logging=none", "hydra/hydra_logging=none"])
        monkeypatch.chdir(tmp_path)
        return status, *capsys.readouterr()

    yield run
    logging.root.handlers = handlers


def test_importing_the_launcher_loads_neither_jax_nor_wandb():
    assert not {"jax", "wandb", "pandas", "scipy"} & loaded_by("from rlkl.sweeps import launcher; launcher.register_plugins()")


@pytest.mark.slow
def test_both_launchers_leave_the_same_and_a_finished_sweep_is_not_run_again(rlkl, tmp_path):
    sweep = ("-m", *SMALL, "penalty=reverse_kl,forward_kl", "seed=0,1", "task.size=3,4")
    status, said, _ = rlkl(*sweep, "hydra.sweep.dir=fused")
    assert status == 0
    assert "8 jobs finished; in fused" in said
    status, said, _ = rlkl(*sweep, "hydra.sweep.dir=basic", "hydra/launcher=basic", cwd="elsewhere")
    assert status == 0
    assert "8 jobs finished; in basic" in said
    fused = content(tmp_path / "fused")
    assert fused == content(tmp_path / "elsewhere" / "basic")
    assert len(fused) == 8 * 7 + 1
    status, said, _ = rlkl(*sweep, "hydra.sweep.dir=again")
    assert "8 jobs finished, 8 of them before (resume=false runs them anew); in again" in said
    assert content(tmp_path / "again") == content(tmp_path / "fused")
    _, said, _ = rlkl("-m", *SMALL, "penalty=reverse_kl,forward_kl", "seed=0,1,2", "task.size=3,4", "hydra.sweep.dir=more")
    assert "12 jobs finished, 8 of them before" in said
    _, said, _ = rlkl(*SMALL, "task.size=4", "seed=2", "hydra.run.dir=alone")
    assert "reused: it was finished before" in said
    numbers = [i for i in range(12) if "seed=2" in (tmp_path / "more" / str(i) / ".hydra" / "overrides.yaml").read_text()]
    assert any(
        content(tmp_path / "more" / str(i), "config.yaml", "overrides.yaml")
        == content(tmp_path / "alone", "config.yaml", "overrides.yaml")
        for i in numbers
    )
    _, said, _ = rlkl(*sweep, "hydra.sweep.dir=anew", "resume=false")
    assert "8 jobs finished; in anew" in said
    assert content(tmp_path / "anew", "config.yaml", "overrides.yaml", "results.csv") == content(
        tmp_path / "fused", "config.yaml", "overrides.yaml", "results.csv"
    )


@pytest.mark.parametrize("beside", [17, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 63, 299))])
def test_a_job_alone_and_in_company_leaves_the_same_files(rlkl, tmp_path, beside):
    one = ("task.size=3", "algorithm=rloo", "penalty.beta=0.3")
    rlkl(*SMALL, *one, "seed=7", "hydra.run.dir=alone", "store=a")
    seeds = [*range(100, 100 + beside // 2), 7, *range(1000, 1000 + beside - beside // 2)]
    rlkl("-m", *SMALL, *one, f"seed={','.join(map(str, seeds))}", "hydra.sweep.dir=sweep", "store=b")
    there, alone = tmp_path / "sweep" / str(beside // 2), tmp_path / "alone"
    assert json.loads((there / "summary.json").read_text())["seed"] == 7
    assert content(there, "overrides.yaml", "config.yaml") == content(alone, "overrides.yaml", "config.yaml")


@pytest.mark.parametrize("launcher", ["fused", "basic"])
def test_hydra_s_users_find_what_they_expect(rlkl, tmp_path, monkeypatch, launcher):
    """Callbacks, job numbers, the job's own working folder, interpolations of Hydra's keys, and a sub-folder's name."""
    (tmp_path / f"heard_{launcher}.py").write_text(
        "from pathlib import Path\n"
        "from hydra.experimental.callback import Callback\n"
        "class Heard(Callback):\n"
        "    def on_job_start(self, config, **_):\n"
        "        self.say(f'start {config.hydra.job.num} {Path.cwd().name}')\n"
        "    def on_job_end(self, config, job_return, **_):\n"
        "        self.say(f'end {job_return.status.name} {job_return.return_value:.3f}')\n"
        "    def say(self, line):\n"
        f"        with open({str(tmp_path / 'heard.txt')!r}, 'a') as out: out.write(line + chr(10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    status, _, _ = rlkl(
        "-m", *SMALL, "seed=0,1", "tracking.tags=[${hydra:job.num}]", f"+hydra.callbacks.x._target_=heard_{launcher}.Heard",
        "hydra.sweep.dir=sweep", "hydra.sweep.subdir=job_${hydra.job.num}_${seed}", "hydra.job.chdir=true",
        f"hydra/launcher={launcher}",
    )  # fmt: skip
    assert status == 0
    objective = [
        f"{json.loads((tmp_path / 'sweep' / f'job_{i}_{i}' / 'summary.json').read_text())['objective']:.3f}" for i in (0, 1)
    ]
    assert (tmp_path / "heard.txt").read_text().splitlines() == [
        "start 0 job_0_0", f"end COMPLETED {objective[0]}", "start 1 job_1_1", f"end COMPLETED {objective[1]}",
    ]  # fmt: skip
    assert yaml.safe_load((tmp_path / "sweep" / "job_1_1" / ".hydra" / "config.yaml").read_text())["tracking"]["tags"] == [1]
    assert yaml.safe_load((tmp_path / "sweep" / "job_1_1" / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]["num"] == 1
    assert pd.read_csv(tmp_path / "sweep" / "results.csv")["run"].tolist() == ["job_0_0", "job_1_1"]
    assert (tmp_path / "outputs" / ".rlkl" / "runs").is_dir()
    assert not list((tmp_path / "sweep").rglob(".rlkl"))


@pytest.mark.parametrize("launcher", [None, "fused", "basic"])
def test_relative_paths_start_where_the_command_was_given(rlkl, tmp_path, launcher):
    """Where Hydra changes the job's working folder, too."""
    (tmp_path / "text.txt").write_text("one two two three three three\n")
    (tmp_path / "empty_plugin.py").write_text("")
    how = ["hydra.run.dir=run"] if launcher is None else ["-m", "hydra.sweep.dir=run", f"hydra/launcher={launcher}"]
    paths = ["task.path=text.txt", "plugins=[empty_plugin.py]", "task.export=task.json", "store=kept"]
    status, said, complained = rlkl(
        *how, "hydra.job.chdir=true", "task=bandit/words", *paths, "steps=2", "log_every=1", "tracking=none"
    )
    assert (status, complained) == (0, "")
    assert (tmp_path / "task.json").is_file()
    assert (tmp_path / "kept" / "runs").is_dir()
    assert said.splitlines()[-1] in ("in run   (rlkl plot run)", "1 jobs finished; in run")
    assert {path.name for path in tmp_path.iterdir()} >= {"run", "kept", "task.json"}
    assert not list((tmp_path / "run").rglob("kept"))


@pytest.mark.parametrize("part", ["job_logging", "hydra_logging"])
def test_every_choice_of_logging_can_be_configured(part):
    folder = config_directory()
    for choice in ("default", "disabled", "none", "rlkl", *(["stdout"] if part == "job_logging" else [])):
        handlers = hydra_private.compose(folder, "config", [f"hydra/{part}={choice}"]).hydra[part].get("handlers", {})
        assert all("class" in handler for handler in handlers.values()), choice


@pytest.mark.slow
def test_without_logging_a_sweep_is_trained(command):
    done = command("-m", *SMALL, "seed=0", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
    assert (done.returncode, done.stderr) == (0, "")


def test_logging_that_is_not_installed_is_no_choice():
    rule = "hydra/job_logging='colorlog': unknown choice; allowed: default, disabled, none, rlkl, stdout"
    with pytest.raises(SettingsError, match=rule):
        compose(["hydra/job_logging=colorlog"])


def test_a_job_that_diverges_fails_alone_and_again_from_the_store(rlkl, tmp_path):
    for _ in range(2):
        status, said, complained = rlkl("-m", *SMALL, *DIVERGES, "seed=0,1", "hydra.sweep.dir=sweep")
        assert status == 1
        assert complained.count("the run diverged at step") == 2
        assert "4 jobs finished" in said
        assert "2 failed" in said
        assert "  job 2: the run diverged" in said
        assert "  job 3: the run diverged" in said
        table = pd.read_csv(tmp_path / "sweep" / "results.csv")
        assert table["diverged_at"].notna().tolist() == [False, False, True, True]
    assert "4 of them before" in said


def test_under_fail_fast_the_first_failed_job_is_the_last(rlkl, tmp_path):
    sweep = ("optimizer=sgd", "penalty=neyman", "optimizer.learning_rate=1e308,0.1", "task.size=3,4")
    status, said, _ = rlkl("-m", *SMALL, *sweep, "hydra.sweep.dir=sweep", "fail_fast=true")
    assert status == 1
    assert "1 failed" in said
    table = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert table["diverged_at"].notna().sum() == 1
    assert len(table) < 4


def test_jobs_of_equal_settings_are_trained_once_and_tasks_of_equal_options_built_once(rlkl, tmp_path, monkeypatch):
    built, kept = [], []
    make = tasks.build
    monkeypatch.setattr(tasks, "build", lambda name, **options: built.append(name) or make(name, **options))
    put = run_store.put
    monkeypatch.setattr(run_store, "put", lambda root, key, *rest: kept.append(key) or put(root, key, *rest))
    status, said, _ = rlkl("-m", *SMALL, "seed=0,1,0", "penalty.beta=0.1,0.2", "hydra.sweep.dir=sweep")
    assert status == 0
    assert "6 jobs finished" in said
    assert len(kept) == len(set(kept)) == 4
    assert (tmp_path / "sweep" / "0" / "history.csv").read_bytes() == (tmp_path / "sweep" / "4" / "history.csv").read_bytes()
    assert built == ["bandit/random"]


def test_a_deleted_job_folder_is_filled_again(rlkl, tmp_path):
    sweep = ("-m", *SMALL, "seed=0,1,2", "hydra.sweep.dir=sweep")
    rlkl(*sweep)
    before = content(tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "1")
    (tmp_path / "sweep" / "2" / ".history.csv.1.part").write_text("half")
    status, said, _ = rlkl(*sweep)
    assert status == 0
    assert "3 of them before" in said
    assert content(tmp_path / "sweep") == before


@pytest.mark.parametrize("writes", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 14, 40))])
def test_a_full_disk_is_one_line_and_loses_no_finished_job(rlkl, tmp_path, monkeypatch, writes):
    sweep = ("-m", *SMALL, "seed=range(20)")
    rlkl(*sweep, "hydra.sweep.dir=sweep", cwd="whole")
    whole = content(tmp_path / "whole" / "sweep")
    made, replace = [], os.replace

    def full(source, target):
        made.append(target)
        if len(made) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    status, _, complained = rlkl(*sweep, "hydra.sweep.dir=sweep")
    assert status == 1
    assert complained.startswith("error: the output folder cannot be written (No space left on device: ")
    assert "the same command goes on from there" in complained
    assert complained.count("\n") <= 2  # and, where there was something to write there, results.csv
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(os, "replace", replace)
    kept = len(list((tmp_path / "outputs" / ".rlkl" / "runs").glob("*"))) if (tmp_path / "outputs").exists() else 0
    status, said, _ = rlkl(*sweep, "hydra.sweep.dir=sweep")
    assert status == 0
    assert kept == 0 or f"{kept} of them before" in said
    assert content(tmp_path / "sweep") == whole


def test_a_folder_that_cannot_be_written_is_one_line(rlkl, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, complained = rlkl("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=file/sweep")
    assert status == 2
    assert complained.startswith("error: the output folder cannot be written (Not a directory: ")
    assert complained.count("\n") == 1


def test_a_store_that_cannot_be_written_loses_no_result(rlkl, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, complained = rlkl("-m", *SMALL, "seed=range(3)", "store=file/store", "hydra.sweep.dir=sweep")
    assert status == 0
    assert len(content(tmp_path / "sweep")) == 3 * 7 + 1
    first, rest = complained.splitlines()
    assert first.startswith("warning: the store's entry ")
    assert first.endswith(" cannot be written (Not a directory); the same command would train it anew")
    assert rest.endswith(" more of the store's entries could not be written")
    status, said, complained = rlkl(*SMALL, "store=file/store", "hydra.run.dir=alone")
    assert (status, complained.count("cannot be written"), complained.count("\n")) == (0, 1, 1)
    assert "reused" not in said


def test_what_is_damaged_in_the_store_is_trained_anew_and_said_once(rlkl, tmp_path):
    sweep = ("-m", *SMALL, "seed=range(4)")
    rlkl(*sweep, "hydra.sweep.dir=first")
    entries = sorted((tmp_path / "outputs" / ".rlkl" / "runs").iterdir())
    escaped = "../" * 4 + "escaped"
    seal(entries[0], packed({escaped: b"", "summary.json": b"[" * 100_000}))
    entries[1].write_bytes(entries[1].read_bytes()[:-9])
    entries[2].unlink()
    entries[2].mkdir()
    status, said, complained = rlkl(*sweep, "hydra.sweep.dir=second")
    assert status == 0
    assert "4 jobs finished, 1 of them before" in said
    lines = complained.splitlines()
    assert [line.partition(".zip")[2] for line in lines[:2]] == [
        lines[0].partition(".zip")[2], " cannot be written (Is a directory); the same command would train it anew"
    ]  # fmt: skip
    assert " is damaged (" in lines[0]
    assert lines[2:] == ["warning: 2 more of the store's entries are damaged"]
    assert content(tmp_path / "second") == content(tmp_path / "first")
    assert not list(tmp_path.rglob("escaped"))
    assert "4 jobs finished, 3 of them before" in rlkl(*sweep, "hydra.sweep.dir=third")[1]


def test_a_sweeper_that_optimises_is_given_the_objective(rlkl, monkeypatch):
    from rlkl.sweeps import launcher

    seen = []
    launch = launcher.FusedLauncher.launch
    monkeypatch.setattr(launcher.FusedLauncher, "launch", lambda *a, **b: seen.extend(launch(*a, **b)) or seen)
    rlkl("-m", *SMALL, *DIVERGES, "hydra.sweep.dir=sweep")
    assert seen[0].return_value == json.loads(Path("sweep/0/summary.json").read_text())["objective"]
    assert np.isnan(seen[1].return_value)


def test_two_commands_on_one_store_do_each_other_no_harm(cache, tmp_path):
    command = [sys.executable, "-m", "rlkl", "-m", *SMALL, "seed=range(6)"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    both = [subprocess.Popen([*command, f"hydra.sweep.dir={name}"], cwd=tmp_path, env=environment) for name in "ab"]
    assert [process.wait(300) for process in both] == [0, 0]
    assert (tmp_path / "a" / "results.csv").read_bytes() == (tmp_path / "b" / "results.csv").read_bytes()
    assert len(list((tmp_path / "outputs" / ".rlkl" / "runs").iterdir())) == 6


@pytest.mark.slow
def test_wandb_s_own_sweeps_give_overrides_that_are_understood():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    from rlkl.config import overrides

    sweep = yaml.safe_load((overrides.config_directory() / "wandb_sweep.yaml").read_text())
    assert sweep["command"][-1] == "${args_no_hyphens}"
    chosen = {
        name: {"value": given.get("value", given.get("values", [None])[-1])} for name, given in sweep["parameters"].items()
    }
    overrides = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    built = build(compose(overrides))
    assert built.tracking.name == "wandb"
    assert built.run.settings.penalty.beta == sweep["parameters"]["penalty.beta"]["values"][-1]
    assert sweep["metric"] == {"name": "exact/regret", "goal": "minimize"}


def test_summary_is_a_command(rlkl):
    rlkl("-m", *SMALL, "seed=0,1,2", "penalty.beta=0.1,0.2", "hydra.sweep.dir=sweep")
    assert cli.main(["summary", "sweep"]) == 0
    assert cli.main(["summary", "nowhere"]) == 2
    assert cli.main(["summary"]) == 2
    assert cli.main(["summary", "sweep", "penalty.bta"]) == 2


def test_jobs_that_are_tracked_online_are_followed_as_they_train(rlkl, monkeypatch):
    """One tracker a job, opened before it ends, that hears of every row once and of the summary."""
    seen: list[tuple[str, str, object]] = []

    class Recorder(tracker.Tracker):
        def __init__(self, told, folder, warn, draw):
            self.name = Path(folder).name
            assert (told.group, Path(folder).is_dir()) == ("sweep", True)
            seen.append((self.name, "start", None))

        def log(self, columns):
            seen.extend((self.name, "row", int(step)) for step in columns["step"])

        def finish(self, succeeded):
            seen.append((self.name, "finish", succeeded))

    monkeypatch.setattr(tracker, "Tracker", Recorder)
    chosen = ("task=bandit/random", "steps=240", "log_every=10", "seed=0,1", "hydra.sweep.dir=sweep")
    assert rlkl("-m", *chosen, "tracking=wandb", "store=a")[0] == 0
    steps = list(range(0, 241, 10))
    for name in ("0", "1"):
        assert [what[2] for what in seen if what[:2] == (name, "row")] == steps
        assert [what[1] for what in seen if what[0] == name][:: len(steps) + 1] == ["start", "finish"]
    second = seen.index(("1", "row", 10))
    assert seen.index(("0", "row", 240)) > second  # both are heard of while both train


def test_two_jobs_of_one_run_are_logged_once_and_the_sweep_last(rlkl, tmp_path, monkeypatch):
    """Under ids that are the same where the sweep is given again, so that no run is logged twice."""
    seen: list[tuple[str, str, str]] = []

    class Recorder:
        def track(self, told, folder):
            seen.append((told.job_type, folder.name, told.id))

        def close(self):
            pass

    monkeypatch.setattr(tracking_process, "BackgroundTracker", lambda warn, library: Recorder())
    chosen = ("-m", *SMALL[:3], "tracking=wandb_offline", "seed=0,1,0", "hydra.sweep.dir=sweep")
    assert rlkl(*chosen)[0] == 0
    assert [(kind == "sweep", folder) for kind, folder, _ in seen] == [(False, "0"), (False, "1"), (True, "sweep")]
    first = list(seen)
    seen.clear()
    assert rlkl(*chosen)[0] == 0
    assert sorted(seen) == sorted(first)
    seen.clear()
    assert rlkl(*chosen[:-1], "hydra.sweep.dir=other")[0] == 0
    assert not {each[2] for each in seen} & {each[2] for each in first}
