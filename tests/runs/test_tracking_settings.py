"""How a run is tracked, as overrides and wandb's environment say; and what becomes of it where wandb's server fails."""

import json
import sys
import types

import pytest

from rlkl.config.build import Built, build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.runs.tracking import resolve, wandb_log
from rlkl.runs.tracking.about import MOST_WORDS, about_run, sweep_group
from rlkl.runs.tracking.tracker import Tracker

SMALL = ("task=bandit/random", "steps=20", "log_every=10")


@pytest.fixture
def environment(monkeypatch):
    """Sets wandb's variables of the environment, those alone."""

    def given(**variables: str) -> None:
        for name in ("MODE", "DISABLED", "DIR", "PROJECT", "ENTITY", "NAME", "RUN_GROUP", "JOB_TYPE"):
            monkeypatch.delenv(f"WANDB_{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"WANDB_{name}", value)

    given()
    return given


@pytest.fixture(scope="module")
def composed() -> dict:
    return compose(["task=bandit/random"])


def resolved(composed: dict, **chosen) -> Built:
    return resolve.resolved(build(composed | {"tracking": composed["tracking"] | chosen}))


@pytest.mark.parametrize(
    ("name", "variables", "expected"),
    [
        (None, {}, "wandb_offline"),
        (None, {"MODE": "online"}, "wandb"),
        (None, {"MODE": "dryrun"}, "wandb_offline"),
        (None, {"MODE": "disabled"}, "none"),
        (None, {"DISABLED": "true", "MODE": "online"}, "none"),
        (None, {"DISABLED": "false"}, "wandb_offline"),
        ("wandb", {}, "wandb"),
        ("wandb", {"MODE": "offline"}, "wandb_offline"),
        ("wandb", {"DISABLED": "1"}, "none"),
        ("wandb_offline", {"MODE": "online"}, "wandb_offline"),
        ("wandb_offline", {"DISABLED": "1"}, "wandb_offline"),
        ("none", {"MODE": "online"}, "none"),
        ("tensorboard", {"DISABLED": "1", "PROJECT": "a/b"}, "tensorboard"),
    ],
)
def test_a_run_is_tracked_as_override_environment_and_default_say(environment, composed, name, variables, expected):
    environment(**variables)
    built = resolved(composed, name=name)
    assert (built.tracking.name, built.resolved["tracking"]["name"]) == (expected, expected)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=bandit/zipf", "algorithm=rloo", "penalty.beta=0.1,0.2", "seed=range(5)"], "zipf penalty.beta seed "),
        (["task=bandit/zipf,bandit/random", "+penalty.alpha=choice(0.1,0.2)"], "task penalty.alpha "),
        (["task.reward=[0,1]", "hydra/launcher=basic"], ""),
        (["steps=20"], ""),
        ([f"penalty.{'x' * MOST_WORDS}=1,2"], f"penalty.{'x' * (MOST_WORDS - 9)}… "),
    ],
    ids=str,
)
def test_a_sweep_whose_folder_is_named_by_a_time_is_called_by_what_it_sweeps(tmp_path, overrides, says):
    for name in ("2026-03-01/14-05-33", "mine/14-05-33", "mine"):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": overrides}}}))
    assert sweep_group(tmp_path / "2026-03-01" / "14-05-33") == f"{says}2026-03-01 14-05-33"
    assert sweep_group(tmp_path / "mine" / "14-05-33") == "14-05-33"
    assert sweep_group(tmp_path / "mine") == "mine"


@pytest.mark.parametrize("record", [None, "", "hydra: 1", "[", "hydra: {overrides: {task: ['=,=']}}"])
def test_a_sweep_without_a_record_of_its_overrides_is_called_by_its_time(tmp_path, record):
    folder = tmp_path / "2026-03-01" / "14-05-33"
    folder.mkdir(parents=True)
    if record is not None:
        (folder / "multirun.yaml").write_text(record)
    assert sweep_group(folder) == "2026-03-01 14-05-33"


def test_an_override_wins_over_the_environment_and_that_over_the_default(environment, composed, tmp_path, monkeypatch):
    assert resolved(composed).tracking.project == "rlkl"
    environment(PROJECT="theirs", ENTITY="team", DIR="kept", NAME="one", RUN_GROUP="all", JOB_TYPE="try")
    monkeypatch.chdir(tmp_path)
    built = resolved(composed)
    assert built.resolved["tracking"] == {
        "name": "wandb_offline", "project": "theirs", "entity": "team", "tags": [], "notes": None,
        "figures": False, "artifacts": False,
        "dir": str(tmp_path / "kept"),
    }  # fmt: skip
    alone, job = about_run(built, None, "key"), about_run(built, "sweep", "key")
    assert (alone.name, alone.group, alone.job_type, alone.id) == ("one", "all", "try", job.id)
    assert (job.group, job.job_type) == ("all", "try")
    assert job.name != "one"
    assert job.id != about_run(built, "sweep", "another").id
    chosen = resolved(composed, project="ours", entity="us", dir="/there", tags=[1, 2.5, True, "a"]).tracking
    assert (chosen.project, chosen.entity, chosen.dir, chosen.tags) == ("ours", "us", "/there", ("1", "2.5", "true", "a"))


@pytest.mark.parametrize(
    ("chosen", "variables", "named"),
    [
        *(({"tags": [tag]}, {}, r"tracking\.tags") for tag in ("", None, "x" * 65, ["a"], {"a": 1})),
        *(({"project": project}, {}, r"tracking\.project") for project in ("", "a/b", "a:b", "x" * 129)),
        ({"entity": "a/b"}, {}, r"tracking\.entity"),
        ({}, {"PROJECT": "a#b"}, "WANDB_PROJECT"),
        ({}, {"MODE": "onlin"}, r"WANDB_MODE='onlin': did you mean 'online'"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_training(environment, composed, chosen, variables, named):
    environment(**variables)
    with pytest.raises(SettingsError, match=named) as refused:
        resolved(composed, **chosen)
    assert len(str(refused.value)) < 300
    assert resolved(composed, **chosen, name="none").tracking.name == "none"


class Wandb(types.ModuleType):
    """wandb, with a server that fails or a user who has no login."""

    def __init__(self, login: bool):
        super().__init__("wandb")
        self.modes: list[str] = []
        self.login = lambda **_: login
        self.Settings = dict

    def init(self, mode: str, settings: dict, **_):
        self.modes.append(mode)
        if mode == "online":
            raise OSError(f"timed out after {settings['init_timeout']:g} seconds. Consider increasing it")
        chosen = types.SimpleNamespace(mode=mode, sync_dir="there")
        return types.SimpleNamespace(
            settings=chosen, summary={}, id="id", finish=lambda exit_code: None, define_metric=lambda *_, **__: None
        )


@pytest.mark.parametrize(
    ("login", "modes", "reason"),
    [
        (True, ["online", "offline", "offline"], "timed out after 15 seconds."),
        (False, ["offline", "offline"], "no login: `wandb login`, or WANDB_API_KEY"),
    ],
)
def test_a_server_that_fails_is_waited_for_once(environment, composed, tmp_path, monkeypatch, login, modes, reason):
    fake = Wandb(login)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(wandb_log.Server, "fails", False)
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    built, said = resolved(composed, name="wandb"), []
    about = about_run(built, None, "key")
    trackers = [Tracker(about, tmp_path, said.append) for _ in range(2)]
    assert fake.modes == modes
    assert said == [f"wandb logs offline, its server cannot be used ({reason}); wandb sync uploads the runs"]
    assert [each.finish(succeeded=False) for each in trackers] == ["to upload: wandb sync there"] * 2
    assert about_run(built, None, "key").offline


def test_a_run_that_was_deleted_on_the_server_is_logged_under_another_id(environment, composed, tmp_path, monkeypatch):
    """wandb gives a deleted run's id never again, and a rerun has the id of the run before."""
    fake, ids = Wandb(login=True), []

    def init(mode: str, id: str, **_):
        ids.append((mode, id))
        if len(ids) == 1:
            raise OSError("run p/x was previously created and deleted; try a new run name")
        return types.SimpleNamespace(define_metric=lambda *_, **__: None)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(wandb_log.Server, "fails", False)
    told = about_run(resolved(composed, name="wandb"), None, "key")
    Tracker(told, tmp_path, pytest.fail)
    assert [mode for mode, _ in ids] == ["online", "online"]
    assert ids[0][1] == told.id != ids[1][1]


@pytest.mark.slow
def test_a_server_out_of_reach_costs_its_sweep_one_wait_and_no_run(command, tmp_path):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}
    done = command("-m", *SMALL, "seed=range(4)", "tracking=wandb", "hydra.sweep.dir=sweep", environment=nowhere)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("warning: wandb logs offline, its server cannot be used (")
    assert "to upload: wandb sync sweep/*/wandb/offline-run-*" in done.stdout
    assert len(list(tmp_path.glob("sweep/*/wandb/offline-run-*"))) == 4
