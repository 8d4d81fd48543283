"""wandb: what an offline run holds, read back from its file; and that nothing about wandb stops a training."""

import importlib.util
import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from rlkl.runs.tracking import names, results
from tests.helpers import CLONE

SMALL = ("task=bandit/random", "steps=20", "log_every=10", "hydra.run.dir=run", "tracking.tags=[a,b]")


def read_back(run: Path) -> tuple[dict, list[dict]]:
    """What `wandb leet inspect` prints of a run; its own program is called, without the second that Python's part takes."""
    (package,) = importlib.util.find_spec("wandb").submodule_search_locations
    (file,) = run.glob("*.wandb")
    inspect = [f"{package}/bin/wandb-core", "leet", "inspect", "--no-observability", "--json", "--run-file", str(file)]
    whole = subprocess.run([*inspect, "--summary", str(run.parent)], capture_output=True, text=True, check=True).stdout
    lines = subprocess.run([*inspect, str(run.parent)], capture_output=True, text=True, check=True).stdout
    return json.loads(whole), [json.loads(line) for line in lines.splitlines()]


def flat(values: dict) -> dict:
    """Values under their names in summary.json and history.csv, without what wandb adds."""
    values = {key: value for key, value in values.items() if not key.startswith(("_", "tables/"))}
    plain = {key.split("/")[-1]: value for key, value in values.items()}
    assert len(plain) == len(values)
    return plain


@pytest.fixture(scope="module")
def folder(command_in, tmp_path_factory) -> Path:
    """The folder of a run that is tracked offline."""
    root = tmp_path_factory.mktemp("offline")
    done = command_in(root, *SMALL, "tracking.notes='why this run'")
    assert done.returncode == 0, done.stderr
    assert "to upload: wandb sync " in done.stdout
    return root / "run"


def test_an_offline_run_holds_config_history_and_summary(folder):
    whole, records = read_back(next((folder / "wandb").glob("offline-run-*")))
    saved = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert whole["config"] == {key: value for key, value in saved.items() if key != "experiment"}
    assert whole["config"]["optimizer"]["learning_rate"] == 0.3
    assert whole["notes"] == "why this run"
    summary = json.loads((folder / "summary.json").read_text())
    logged = flat(whole["summary"])
    assert {key: logged[key] for key in summary if summary[key] is not None} == {
        key: value for key, value in summary.items() if value is not None
    }
    rows = [record["history"] for record in records if record["type"] == "history"]
    history = pd.read_csv(folder / "history.csv")
    assert len(rows) == len(history)
    for row, (_, expected) in zip(rows, history.iterrows(), strict=True):
        assert flat(row["item"]) == dict(expected)
        assert {"step", "exact/regret", "train/gradient_norm", "train/beta", "train/batch_reward"} <= set(row["item"])


def table(run: Path, name: str) -> tuple[list, list]:
    """The columns and rows of a table that a run holds."""
    (path,) = (run / "files" / "media" / "table" / "tables").glob(f"{name}_*.table.json")
    content = json.loads(path.read_text())
    return content["columns"], content["data"]


def test_a_run_holds_tables_of_its_outcomes_samples_and_positions(command, tmp_path):
    """As its files have them: the likeliest outcomes, the sequences side by side, entropy and KL at each position."""
    done = command("task=sequence/motif", *SMALL[1:], environment={"XDG_DATA_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    run = next((folder / "wandb").glob("offline-run-*"))
    last = [record["history"]["item"] for record in read_back(run)[1] if record["type"] == "history"][-1]
    assert last["step"] == 20
    assert {last[f"tables/{name}._type"] for name in ("outcomes", "samples", "positions")} == {"table-file"}
    assert not (tmp_path / "home").exists()  # wandb's copies are in the run's folder
    columns, rows = table(run, "outcomes")
    outcomes = pd.read_csv(folder / "outcomes.csv", comment="#", dtype={"outcome": str}, keep_default_na=False)
    assert columns == list(outcomes)
    assert rows == outcomes.to_numpy().tolist()
    columns, rows = table(run, "samples")
    lines = [line for row in rows for line in (*(f"{name:<10}{text}" for name, text in zip(columns, row, strict=True)), "")]
    assert (columns, "\n".join(lines)) == (["reference", "policy", "optimum"], (folder / "samples.txt").read_text())
    columns, rows = table(run, "positions")
    positions = pd.read_csv(folder / "positions.csv")
    assert columns == [name for name in positions if not name.endswith(".alive")]
    assert pd.DataFrame(rows, columns=columns).astype(float).equals(positions[columns].astype(float))


def test_only_the_likeliest_outcomes_are_logged(tmp_path):
    rows = [f"{i},0.5,{p},{0.0},{'' if i else 999.5}" for i, p in enumerate(np.random.default_rng(0).permutation(1000))]
    (tmp_path / "outcomes.csv").write_text("\n".join(["outcome,reward,reference,policy,optimum", *rows, "# a note", ""]))
    kept = results._outcomes(tmp_path / "outcomes.csv").rows
    assert len(kept) == results.MOST_OUTCOMES
    assert kept[0][0] == "0"  # by its optimum
    assert sorted((row[2] for row in kept[1:]), reverse=True) == list(range(999, 800, -1))
    assert [int(row[0]) for row in kept] == sorted(int(row[0]) for row in kept)


def test_a_column_of_a_table_is_of_one_kind():
    assert results._values("outcome", ["1", "2"]) == ["1", "2"]
    assert results._values("x", ["1", None, "inf"]) == [1.0, None, None]
    assert results._values("x", ["True", None]) == [True, None]
    assert results._values("x", ["1", "two"]) == ["1", "two"]


def test_the_step_is_the_x_axis_of_every_metric(folder):
    _, records = read_back(next((folder / "wandb").glob("offline-run-*")))
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert {each["glob_name"]: each["step_metric"] for each in metrics if "glob_name" in each} == dict.fromkeys(
        ("train/*", "exact/*", "estimate/*"), "step"
    )


def test_a_metric_is_named_by_what_it_is():
    """What training sees, what is exact, and what is estimated, also where it has no standard error of its own."""
    assert list(names.group_rows({"step": [0], "reward": [0.1], "beta": [0.1], "batch_k1": [0.2]})) == [
        "step", "exact/reward", "train/beta", "train/batch_k1",
    ]  # fmt: skip
    assert set(names.group_rows({"reward": [0.1], "reward_stderr": [0.01]})) == {"estimate/reward", "estimate/reward_stderr"}
    sampled = {
        "reward": 0.1, "reward_stderr": 0.01, "reward_q05": 0.0, "optimal_objective": 1.0, "regret": None,
        "regret_reason": "why", "kl_pi_ref": "inf", "task": "inf", "seconds": 0.5, "distinct_1": 0.2, "decoded_reward": 0.3,
        "exact": False,
    }  # fmt: skip
    assert names.group_summary(sampled, {"reward", "reward_q05", "regret", "kl_pi_ref", "distinct_1"}) == {
        "estimate/reward": 0.1, "estimate/reward_stderr": 0.01, "estimate/reward_q05": 0.0, "exact/optimal_objective": 1.0,
        "estimate/regret": None, "estimate/regret_reason": "why", "estimate/kl_pi_ref": float("inf"), "task": "inf",
        "seconds": 0.5, "estimate/distinct_1": 0.2, "exact/decoded_reward": 0.3, "exact": False,
    }  # fmt: skip
    exact = names.group_summary(sampled | {"exact": True, "decoded_reward_stderr": 0.1}, {"reward_q05", "distinct_1"})
    assert {"exact/reward_q05", "estimate/distinct_1", "estimate/decoded_reward", "estimate/decoded_reward_stderr"} <= set(
        exact
    )


@pytest.mark.slow
def test_a_run_that_is_given_again_is_logged_once(command, tmp_path):
    """Its one log is the last command's; with resume=false it is another run."""
    runs = lambda: list((tmp_path / "run" / "wandb").glob("offline-run-*"))  # noqa: E731
    command(*SMALL)
    (first,) = runs()
    assert "reused" in command(*SMALL, "tracking.notes=more").stdout
    (second,) = runs()
    assert first.name.split("-")[-1] == second.name.split("-")[-1]
    whole, records = read_back(second)
    assert (whole["notes"], whole["state"]) == ("more", "finished")
    assert len([record for record in records if record["type"] == "history"]) == 3
    command(*SMALL, "resume=false")
    assert len(runs()) == 2


def images(run: Path) -> list[tuple[int, int]]:
    """The sizes of the figures that a run holds, in pixels."""
    paths = (run / "files" / "media" / "images").glob("figure_*.png")
    return [Image.open(io.BytesIO(path.read_bytes())).size for path in paths]


def artifacts(records: list[dict]) -> list[set[str]]:
    """The names of the files of each artifact, but for those that wandb makes of tables."""
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    return [{entry["path"] for entry in each["manifest"]["contents"]} for each in found if each["type"] == "folder"]


def test_a_sweep_is_one_group_with_a_job_type_for_each_config(command, tmp_path):
    """Where WANDB_DIR says; WANDB_NAME and WANDB_RUN_ID, of one run, are of no sweep's jobs. The sweep is a run of its own."""
    said = {"WANDB_DIR": "beside", "WANDB_PROJECT": "theirs", "WANDB_NAME": "one", "WANDB_RUN_ID": "one"}
    chosen = ("seed=0,1", "penalty.beta=0.1,0.2", "hydra.sweep.dir=my_sweep", "hydra.job.chdir=true", "tracking.tags=[7]")
    done = command("-m", *SMALL[:3], *chosen, "tracking.figures=true", "tracking.artifacts=true", environment=said)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "to upload: wandb sync beside/wandb/offline-run-*\n" in done.stdout
    found = {run: read_back(run) for run in (tmp_path / "beside" / "wandb").glob("offline-run-*")}
    runs = {run: next(record["run"] for record in records if record["type"] == "run") for run, (_, records) in found.items()}
    (sweep,) = (run for run, about in runs.items() if about["job_type"] == "sweep")
    assert {(run["project"], *run["tags"]) for run in runs.values()} == {("theirs", "7")}
    assert {run["run_group"] for run in runs.values()} == {"my_sweep"}
    about = runs.pop(sweep)
    assert about["display_name"] == "my_sweep"
    assert len({run["job_type"] for run in runs.values()}) == 2
    assert len({run["display_name"] for run in runs.values()}) == 4
    whole, records = found.pop(sweep)
    assert (whole["config"]["overrides"]["penalty.beta"], whole["config"]["jobs"]) == (["0.1", "0.2"], 4)
    columns, rows = table(sweep, "results")
    results_csv = pd.read_csv(tmp_path / "my_sweep" / "results.csv")
    assert columns == list(results_csv)
    assert [row[columns.index("exact")] for row in rows] == [True] * 4
    assert [row[columns.index("regret")] for row in rows] == list(results_csv["regret"])
    assert [row[columns.index("override.seed")] for row in rows] == [0, 0, 1, 1]
    assert len(images(sweep)) == 1
    assert artifacts(records) == [{"results.csv", "multirun.yaml"}]
    for run, (_, records) in found.items():
        assert [width > 500 for width, _ in images(run)] == [True]
        (names,) = artifacts(records)
        assert {"summary.json", "checkpoint.npz", "history.csv", ".hydra/config.yaml"} <= names


@pytest.mark.slow
def test_figures_and_artifacts_are_logged_only_where_they_are_wanted(command, folder, tmp_path):
    """And a figure that cannot be drawn costs a warning, and nothing else of the log."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert (images(run), artifacts(read_back(run)[1])) == ([], [])
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "matplotlib.py").write_text("raise ImportError('no matplotlib here')\n")
    done = command(*SMALL, "tracking.figures=true", environment={"PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{CLONE}"})
    assert done.stderr == "warning: the figure could not be drawn (no matplotlib here); it is logged without\n"
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert images(run) == []
    assert table(run, "outcomes")[1]


def test_a_missing_wandb_costs_a_warning_only(command, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "wandb.py").write_text("raise ImportError('no wandb here')\n")
    done = command(*SMALL, environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "warning: wandb could not start (no wandb here)" in done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_wandb_that_fails_later_costs_a_warning_only(command, tmp_path):
    (tmp_path / "hidden").mkdir()
    stub = """
class Settings:
    def __init__(self, **_): pass
class Run:
    def define_metric(self, *_, **__): pass
    def log(self, *_, **__): raise RuntimeError("the disk is full")
def init(**_): return Run()
"""
    (tmp_path / "hidden" / "wandb.py").write_text(stub)
    done = command(*SMALL, environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.returncode == 0
    assert "warning: wandb could not log (the disk is full)" in done.stderr
    assert (tmp_path / "run" / "checkpoint.npz").is_file()
