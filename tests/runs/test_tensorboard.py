"""TensorBoard: what a run's event file holds, read back from it; and what a missing tensorboardX costs."""

import json
import os
import struct
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import CLONE

SMALL = ("task=bandit/random", "steps=20", "log_every=10", "tracking=tensorboard")


def events(folder: Path) -> list:
    """The values of a folder's only event file, with their steps."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events.out.tfevents.*")
    content, position, found = path.read_bytes(), 0, []
    while position < len(content):  # each record: its length, a checksum of that, itself, its checksum
        (length,) = struct.unpack_from("<Q", content, position)
        found.append(Event.FromString(content[position + 12 : position + 12 + length]))
        position += length + 16
    return [(event.step, value) for event in found for value in event.summary.value]


def texts(folder: Path) -> dict[str, str]:
    return {value.tag: value.tensor.string_val[0].decode() for _, value in events(folder) if value.tensor.string_val}


def test_an_event_file_holds_rows_results_and_hyperparameters(command, tmp_path):
    pytest.importorskip("tensorboardX")
    for _ in range(2):  # given again, it replaces its log
        done = command(*SMALL, "hydra.run.dir=run", "tracking.notes=why", "tracking.figures=true")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    folder = tmp_path / "run" / "tensorboard"
    assert f"to view: tensorboard --logdir {folder}" in done.stdout
    found = events(folder)
    history, summary = (
        pd.read_csv(tmp_path / "run" / "history.csv"),
        json.loads((tmp_path / "run" / "summary.json").read_text()),
    )
    for name in ("exact/regret", "exact/kl_pi_ref", "train/gradient_norm", "train/beta"):
        logged = [(step, value.simple_value) for step, value in found if value.tag == name]
        assert logged == [
            (step, pytest.approx(x)) for step, x in zip(history["step"], history[name.split("/")[1]], strict=True)
        ]
    assert [(step, value.simple_value) for step, value in found if value.tag == "exact/tv_optimum"] == [
        (20, pytest.approx(summary["tv_optimum"]))
    ]
    assert texts(folder)["notes/text_summary"] == "why"
    outcomes = texts(folder)["tables/outcomes/text_summary"].splitlines()
    assert outcomes[0] == "| outcome | reward | reference | policy | optimum |"
    assert len(outcomes) == 2 + len(pd.read_csv(tmp_path / "run" / "outcomes.csv"))
    assert [value.image.width > 500 for _, value in found if value.tag == "figure"] == [True]
    (start,) = (value.metadata.plugin_data.content for _, value in found if value.tag == "_hparams_/session_start_info")
    assert all(key in start for key in (b"penalty.beta", b"seed", b"optimizer.learning_rate"))


def test_a_sweep_s_jobs_have_a_folder_each_and_the_sweep_has_one(call, tmp_path):
    pytest.importorskip("tensorboardX")
    done = call("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.stderr == ""
    assert "to view: tensorboard --logdir sweep\n" in done.stdout
    assert texts(tmp_path / "sweep" / "tensorboard")["tables/results/text_summary"].count("\n") == 3
    for job in ("0", "1"):
        assert [step for step, value in events(tmp_path / "sweep" / job / "tensorboard") if value.tag == "exact/regret"] == [
            0, 10, 20,
        ]  # fmt: skip
    call("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep", "tracking.dir=all")
    names = sorted(folder.name.rpartition(" ")[0] for folder in (tmp_path / "all" / "sweep").iterdir())
    assert names == [
        "random tabular exact kl_pi_ref beta=0.1 seed=0",
        "random tabular exact kl_pi_ref beta=0.1 seed=1",
        "sweep",
    ]


def test_a_missing_tensorboardx_costs_a_warning_only(command, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "tensorboardX.py").write_text("raise ImportError('no tensorboardX here')\n")
    environment = {"PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{CLONE}"}
    done = command(*SMALL, "hydra.run.dir=run", environment=environment)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "tensorboard could not start (no tensorboardX here: pip install 'rlkl[tensorboard]')" in done.stderr
    assert (tmp_path / "run" / "summary.json").is_file()
