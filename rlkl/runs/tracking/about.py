"""Describe a run to a tracker: its name, its sweep, its config, as plain values that can be pickled."""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlkl.errors import SettingsError
from rlkl.runs.tracking.resolve import OFFLINE, TENSORBOARD
from rlkl.runs.tracking.wandb_log import Server

if TYPE_CHECKING:
    from rlkl.config.build import Built
    from rlkl.settings import Tracking


DATE_AND_TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}/[0-9]{2}(-[0-9]{2}){2}")  # a sweep's default folder, below multirun/
MOST_WORDS = 80  # largest number of characters that say what such a sweep is of; wandb allows 128 for a group


class About(NamedTuple):
    """What a tracker is told of a run when it starts.

    dir: the parent of the tracker's own folder; None: the run's folder. replaces: whether it takes the place of an earlier log
    of the same id. group: the name of the run's sweep, None for a single run.
    """

    tracker: Literal["wandb", "tensorboard"]
    project: str | None
    entity: str | None
    tags: list[str]
    notes: str | None
    dir: str | None
    offline: bool
    id: str
    replaces: bool
    name: str
    group: str | None
    job_type: str
    config: dict[str, Any]
    figures: bool = False
    artifacts: bool = False


def about_run(built: "Built", group: str | None, key: str) -> About:
    """Describe a run. group: the name of its sweep, None for a single run. key: its fingerprint, as from `run_store.key`.

    The id is made from the fingerprint and the group, so that a finished run that is taken from the store again replaces its
    log: a rerun has the same numbers, and users of wandb expect one run of them, and a whole group also where a sweep is given
    again in another folder. With `resume=false` the run trains anew, and is logged as another run.
    A sweep's jobs have names and ids of their own: WANDB_NAME and WANDB_RUN_ID count for a single run only.
    """
    tracking, run_label, variable = built.tracking, label(built), os.environ.get
    name, wandb_group = f"{run_label} seed={built.run.settings.seed}", variable("WANDB_RUN_GROUP") or group
    users_id = variable("WANDB_RUN_ID") if group is None else None
    replaces = users_id is None and built.execution.resume
    return About(
        tracker="tensorboard" if tracking.name == TENSORBOARD else "wandb",
        project=tracking.project,
        entity=tracking.entity,
        tags=list(tracking.tags),
        notes=tracking.notes,
        dir=tracking.dir,
        offline=tracking.name == OFFLINE or Server.fails,
        id=fixed_id(key, wandb_group) if replaces else users_id or secrets.token_hex(8),
        replaces=replaces,
        name=variable("WANDB_NAME") or name if group is None else name,
        group=wandb_group,
        job_type=variable("WANDB_JOB_TYPE") or f"{run_label} {digest(built.resolved)}",
        config=built.resolved,
        figures=tracking.figures,
        artifacts=tracking.artifacts,
    )


def about_sweep(job: About, folder: Path, overrides: Sequence[Mapping[str, str]], failed: int) -> About:
    """Describe a sweep as a run of its own, in the group of its jobs and tracked as they are.

    job: one of its jobs. folder: the sweep's. overrides: those of each finished job, by key. failed: number of failed jobs.
    """
    keys = dict.fromkeys(key for each in overrides for key in each)
    swept = {key: list(dict.fromkeys(each[key] for each in overrides if key in each)) for key in keys}
    return job._replace(
        id=fixed_id("sweep", job.group, str(folder)),
        replaces=True,
        name=job.group or folder.name,
        job_type="sweep",
        config={"overrides": swept, "jobs": len(overrides), "failed": failed},
    )


def about_command(tracking: "Tracking", name: str, job_type: str, config: dict[str, Any]) -> About:
    """Describe what a command measured as a run of its own. tracking: resolved, and of wandb."""
    return About(
        tracker="wandb",
        project=tracking.project,
        entity=tracking.entity,
        tags=list(tracking.tags),
        notes=tracking.notes,
        dir=tracking.dir,
        offline=tracking.name == OFFLINE or Server.fails,
        id=secrets.token_hex(8),
        replaces=False,
        name=os.environ.get("WANDB_NAME") or name,
        group=os.environ.get("WANDB_RUN_GROUP"),
        job_type=job_type,
        config=config,
    )


def sweep_group(folder: Path) -> str:
    """Return the name of a sweep's group: that of its folder.

    The default folder is named by a time. The name is then the sweep's task, the keys that it sweeps, and the date and time.
    """
    if not DATE_AND_TIME.fullmatch(f"{folder.parent.name}/{folder.name}"):
        return folder.name
    of = " ".join(_swept(folder))
    return f"{of if len(of) <= MOST_WORDS else of[: MOST_WORDS - 1] + '…'} {folder.parent.name} {folder.name}".strip()


def _swept(folder: Path) -> list[str]:
    """Return the task of a sweep, where its overrides name one, and the keys that take several values; [] where unknown."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from rlkl.runs.load import hydra_record

    try:
        parsed = OverridesParser.create().parse_overrides(hydra_record(folder / "multirun.yaml")["hydra"]["overrides"]["task"])
    except (SettingsError, HydraException, TypeError, KeyError):  # another sweeper may leave no record, or one of its own
        return []
    tasks = [str(each.value()) for each in parsed if each.key_or_group == "task" and not each.is_sweep_override()]
    keys = [each.key_or_group.replace("/", ".") for each in parsed if each.is_sweep_override()]
    return [*(task.split("/")[-1] for task in tasks), *keys]


def fixed_id(*parts: str | None) -> str:
    """Return an id that is the same for the same parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def label(built: "Built") -> str:
    """Return a readable name of a run, without its seed."""
    run_settings = built.run.settings
    task = str(built.resolved["task"]["name"]).split("/")[-1]
    penalty = run_settings.penalty
    return f"{task} {run_settings.policy.name} {run_settings.algorithm.name} {penalty.divergence} beta={penalty.beta:g}"


def digest(resolved: Mapping[str, Any]) -> str:
    """Return four hexadecimal digits that tell configs of one label apart; they ignore the seed."""
    seedless = {key: value for key, value in resolved.items() if key not in ("seed", "tracking")}
    return hashlib.sha256(json.dumps(seedless, sort_keys=True, default=str).encode()).hexdigest()[:4]
