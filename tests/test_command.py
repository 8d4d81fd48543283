"""The real command, in an empty folder: its files, its words, its exit statuses."""

import json
import math
import os
import tomllib
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import yaml

import rlkl
from rlkl.runs.folder import files
from tests.helpers import OPTIONAL

SMALL = ("task=bandit/random", "steps=40", "log_every=10", "tracking=none")
SUMMARY = {
    "schema_version",
    "reward",
    "objective",
    "optimal_objective",
    "regret",
    "divergence",
    "divergence_value",
    "kl_pi_ref",
    "kl_ref_pi",
    "kl_pi_optimum",
    "entropy",
    "effective_support",
    "typicality",
    "kl_per_token",
    "length",
    "beta",
    "steps",
    "seconds",
    "dtype",
    "init",
    "restricted",
    "exact",
}


def strict(text: str):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(command_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    done = command_in(folder, *SMALL, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return done, folder / "run"


def test_a_run_leaves_what_the_contract_says(finished):
    _, folder = finished
    assert {".hydra", "summary.json", "history.csv", "outcomes.csv", "checkpoint.npz"} <= set(os.listdir(folder))
    summary = strict((folder / "summary.json").read_text())
    assert set(summary) >= SUMMARY
    history = pd.read_csv(folder / "history.csv")
    assert history.columns[0] == "step"
    assert history["step"].tolist() == [0, 10, 20, 30, 40]
    assert not [column for column in history if "second" in column or "time" in column]
    assert history["regret"].iloc[-1] == summary["regret"]
    outcomes = pd.read_csv(folder / "outcomes.csv")
    assert outcomes.columns.tolist() == ["outcome", "reward", "reference", "policy", "optimum"]
    np.testing.assert_allclose(outcomes[["reference", "policy", "optimum"]].sum(), 1.0, atol=1e-12)
    np.testing.assert_allclose((outcomes["policy"] * outcomes["reward"]).sum(), summary["reward"], atol=1e-12)
    assert summary["regret"] == pytest.approx(summary["optimal_objective"] - summary["objective"], abs=1e-15)
    saved = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert saved["optimizer"]["learning_rate"] == 0.3
    groups = {name: group for name, group in saved.items() if isinstance(group, dict)}
    unset = {f"{name}.{key}" for name, group in groups.items() for key, value in group.items() if value is None}
    unset |= {name for name, value in saved.items() if value is None}
    untracked = {"tracking.project", "tracking.entity", "tracking.notes", "tracking.dir"}
    assert unset <= {"experiment", "batch_size", "task.export", *untracked, *OPTIONAL}


def test_a_run_states_its_objective_its_progress_and_the_optimum(finished):
    done, _ = finished
    assert done.stdout.startswith("maximise E[r] - 0.1 KL(pi‖pi_ref)  (reverse KL)\n")
    assert "step     40  reward" in done.stdout
    assert "exact optimum" in done.stdout
    assert "in run" in done.stdout
    assert done.stderr == ""


def test_loading_a_run_gives_frames_and_its_policy(finished):
    _, folder = finished
    runs = rlkl.load(folder)
    assert runs.summary["regret"].iloc[0] == strict((folder / "summary.json").read_text())["regret"]
    policy = rlkl.load_policy(folder)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.exp(policy.table()[0, 0]), runs.outcomes["policy"], atol=1e-15)
    trained = rlkl.train([*SMALL[:3]])
    assert trained.history["regret"].tolist() == runs.history["regret"].tolist()
    np.testing.assert_array_equal(trained.policy.logits, policy.logits)


def test_training_from_python_leaves_jax_s_settings_alone():
    jax.config.update("jax_enable_x64", False)
    try:
        assert math.isfinite(rlkl.train(["task=bandit/random", "steps=2"]).summary["regret"])
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("plots", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_command_in_two_empty_folders_writes_the_same_bytes(command, tmp_path, plots):
    overrides = ("task=bandit/bimodal", "task.gap=1", "algorithm=rloo", "steps=60", "seed=3")
    files, written = ("history.csv", "outcomes.csv", *(("figure.png", "figure.pdf") if plots else ())), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert command(*overrides, "tracking=none", "hydra.run.dir=run", cwd=tmp_path / name).returncode == 0
        assert not plots or command("plot", "run", cwd=tmp_path / name).returncode == 0
        written.append([(tmp_path / name / "run" / file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_a_sweep_leaves_a_row_a_job(call, tmp_path):
    done = call("-m", *SMALL, "penalty=reverse_kl,forward_kl", "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert len(table) == 4
    assert {"override.penalty", "override.seed", "regret"} <= set(table)
    assert "seconds" not in table
    runs = rlkl.load(tmp_path / "sweep")
    assert len(runs.summary) == 4
    assert call("plot", "sweep").returncode == 0
    assert (tmp_path / "sweep" / "figure.pdf").is_file()
    alone = call(*SMALL, "penalty=forward_kl", "seed=1", "hydra.run.dir=alone")
    assert alone.returncode == 0
    assert (tmp_path / "alone" / "history.csv").read_bytes() == (tmp_path / "sweep" / "3" / "history.csv").read_bytes()


def test_a_sweep_with_bad_jobs_names_them_all_and_trains_nothing(command, tmp_path):
    done = command("-m", *SMALL, "penalty.beta=0.1,-1,0.2", "seed=0,1,-1", "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: jobs 2, 5, 8: seed=-1: must be at least 0",
        "error: jobs 3-4: penalty.beta=-1.0: must be above 0 (penalty=none trains without a penalty)",
    ]
    assert not (tmp_path / "sweep" / "0").exists()
    assert not (tmp_path / "outputs").exists()


def test_one_after_the_other_a_sweep_goes_on_past_a_bad_job(call, tmp_path):
    done = call("-m", *SMALL, "penalty.beta=0.1,-1,0.2", "hydra.sweep.dir=sweep", "hydra/launcher=basic")
    assert done.returncode == 2
    assert "job 1: penalty.beta=-1.0: must be above 0" in done.stderr
    assert len(pd.read_csv(tmp_path / "sweep" / "results.csv")) == 2


BAD = [
    (("penalty.bta=1",), 2, "penalty.bta='1': unknown option; did you mean 'penalty.beta'?"),
    (("taks=bandit/zipf",), 2, "did you mean 'task'?"),
    (("task=bandit/bimdal",), 2, "did you mean 'bandit/bimodal'?"),
    (("penalty=forward",), 2, "did you mean 'forward_kl'?"),
    (("task.gpa=1",), 2, "did you mean 'task.gap'?"),
    (("penalty.beta=0",), 2, "penalty.beta=0.0: must be above 0"),
    (("penalty.beta=[",), 2, ""),
    (
        ("task=bandit/custom", "task.reward=[0,1]", "task.reference=[-1,2]"),
        2,
        "task.reference=[-1, 2]: entry 0 is -1; a probability must",
    ),
    (("task=bandit/custom", "task.reward=[0,1]", "task.reference=[.5,.4]"), 2, "sums to 0.9; must sum to 1"),
    (("task=bandit/custom", "task.reward=[0,1]", "task.reference=[0,0]"), 2, "all are zero"),
    (("task=bandit/custom", "task.reward=[0,nan]", "task.reference=[.5,.5]"), 2, "every number must be finite"),
    (("task=bandit/custom", "task.reward=[0,1]", "task.reference=[1]"), 2, "task.reward has 2"),
    (("task=bandit/custom",), 2, "needs a value"),
    (("task=bandit/words", "task.path=missing.txt"), 2, "task.path='missing.txt': cannot be read"),
    (("task=bandit/words", "task.path=empty.txt"), 2, "is empty"),
    (("task=bandit/words", "task.path=binary.bin"), 2, "is not UTF-8 text"),
    (("hydra.run.dir=empty.txt/run",), 2, "the output folder cannot be written"),
    (("--config-dir", "nowhere"), 2, "nowhere"),
    (("plto", "run"), 2, "plto: is no command"),
    (("penalty.beta=0.1,0.2",), 2, "several values make a sweep: add -m"),
    (("plot", "nowhere"), 2, "is no folder with a finished run"),
    (("task=bandit/random", "optimizer=sgd", "optimizer.learning_rate=1e308", "penalty=neyman"), 1, "the run diverged at step"),
]


@pytest.mark.parametrize(("overrides", "status", "says"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_ends_with_its_status_and_one_line(call, tmp_path, overrides, status, says):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.bin").write_bytes(bytes(range(128, 256)))
    track = () if overrides[0] in ("plot", "plto", "--config-dir") else ("tracking=none",)
    done = call(*overrides, *track)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_a_diverged_run_keeps_what_it_had(command, tmp_path):
    done = command(
        "task=bandit/random",
        "optimizer=sgd",
        "optimizer.learning_rate=1e308",
        "penalty=neyman",
        "tracking=none",
        "hydra.run.dir=run",
    )
    assert done.returncode == 1
    summary = strict((tmp_path / "run" / "summary.json").read_text())
    assert f"at step {summary['diverged_at']}" in done.stderr
    assert summary["steps"] == summary["diverged_at"] - 1
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) >= 1


def test_no_penalty_and_ties_are_null_with_a_reason(call, tmp_path):
    done = call("penalty=none", "task=bandit/bimodal", "steps=2", "tracking=none", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    summary = strict((tmp_path / "run" / "summary.json").read_text())
    assert summary["divergence_value"] is None
    assert summary["divergence_value_reason"]
    assert summary["kl_pi_optimum"] is None
    assert "tied" in summary["kl_pi_optimum_reason"]


def test_infinite_values_are_strings(call, tmp_path):
    done = call("task=bandit/custom", "task.reward=[0,0,1]", "task.reference=[.5,.5,0]", "penalty=hellinger", "steps=2",
                   "tracking=none", "hydra.run.dir=run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = strict((tmp_path / "run" / "summary.json").read_text())
    assert summary["kl_pi_ref"] == "inf"
    assert summary["typicality"] == "-inf"


def test_help_teaches(command):
    shown = command("--help").stdout
    for word in ("task/bandit: bimodal", "Examples:", "rlkl -m ", "outputs/DATE/TIME", "algorithm: "):
        assert word in shown
    assert "complete" in command("-sc", "install=bash").stdout


@pytest.mark.parametrize("name", ["list", "show", "plot", "report", "summary", "audit", "grade", "compare"])
def test_every_command_has_its_help(name, capsys):
    from rlkl import cli

    for arguments in ([name, "--help"], [name, "x", "-h"]):
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.startswith(f"rlkl {name}")


def test_list_names_everything_that_is_registered(call):
    from rlkl import algorithms, divergences, policies, tasks

    shown = call("list", width=250).stdout
    for registry in (tasks.REGISTRY, policies.REGISTRY, divergences.REGISTRY, algorithms.names()):
        assert all(name in shown for name in registry)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "file"
    files.write(target, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_run_says_so(monkeypatch, capsys):
    from rlkl import cli

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_hydra", interrupt)
    assert cli.main(["seed=1"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_python_m_and_the_script_are_the_same_program():
    script = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]["rlkl"]
    assert script == "rlkl.__main__:run"


@pytest.mark.slow
def test_a_run_under_other_flags_of_xla_s_is_another_run(command, tmp_path):
    """What the store has was computed under the flags that a command has, not under any."""
    run = ("task=bandit/random", "algorithm=rloo", "steps=20", "tracking=none", "hydra.run.dir=run")
    flags = os.environ.get("XLA_FLAGS", "")
    for given, reused in ((flags, False), (f"{flags} --xla_cpu_enable_fast_math=true", False), (flags, True)):
        done = command(*run, environment={"XLA_FLAGS": given})
        assert done.returncode == 0, done.stderr
        assert ("reused" in done.stdout) is reused
