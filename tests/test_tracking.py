"""wandb: what an offline run holds, read back from its file; and that nothing about wandb stops a training."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

SMALL = ("task=bandit/random", "steps=20", "log_every=10", "hydra.run.dir=run", "tracking.tags=[a,b]")


def read_back(folder: Path) -> tuple[dict, list[dict]]:
    run = next((folder / "wandb").glob("offline-run-*"))
    inspect = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    whole = subprocess.run([*inspect, "--summary", str(run)], capture_output=True, text=True, check=True).stdout
    lines = subprocess.run([*inspect, str(run)], capture_output=True, text=True, check=True).stdout
    return json.loads(whole), [json.loads(line) for line in lines.splitlines()]


def test_an_offline_run_holds_config_history_and_summary(command, tmp_path):
    done = command(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "to upload: wandb sync " in done.stdout
    folder = tmp_path / "run"
    whole, records = read_back(folder)
    saved = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert whole["config"] == {key: value for key, value in saved.items() if key != "experiment"}
    assert whole["config"]["optimizer"]["learning_rate"] == 0.3
    summary = json.loads((folder / "summary.json").read_text())
    assert {key: whole["summary"][key] for key in summary if summary[key] is not None} == {
        key: value for key, value in summary.items() if value is not None
    }
    logged = [record["history"] for record in records if record["type"] == "history"]
    history = pd.read_csv(folder / "history.csv")
    assert len(logged) == len(history)
    for row, (_, expected) in zip(logged, history.iterrows(), strict=True):
        text = json.dumps(row)
        assert f"{expected['regret']!r}" in text or str(expected["regret"]) in text


def test_a_sweep_is_one_group_with_a_job_type_for_each_config(command, tmp_path):
    done = command("-m", *SMALL[:3], "seed=0,1", "penalty.beta=0.1,0.2", "hydra.sweep.dir=my_sweep")
    assert done.returncode == 0, done.stderr
    runs = [
        next(r["run"] for r in read_back(folder)[1] if r["type"] == "run")
        for folder in sorted((tmp_path / "my_sweep").glob("[0-9]"))
    ]
    assert {run["run_group"] for run in runs} == {"my_sweep"}
    assert len({run["job_type"] for run in runs}) == 2
    assert len({run["display_name"] for run in runs}) == 4


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
    def log(self, *_, **__): raise RuntimeError("the disk is full")
def init(**_): return Run()
"""
    (tmp_path / "hidden" / "wandb.py").write_text(stub)
    done = command(*SMALL, environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert done.returncode == 0
    assert "warning: wandb could not log (the disk is full)" in done.stderr
    assert (tmp_path / "run" / "checkpoint.npz").is_file()
