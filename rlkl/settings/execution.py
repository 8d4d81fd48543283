"""The options of tracking and execution, which change no result."""

import dataclasses
from typing import Any

from rlkl.settings.fields import Resolved, static


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The settings of experiment tracking, which change no result. Null is resolved by `runs.tracking.resolve`."""

    name: Resolved = static(
        None,
        "tracker; null: as wandb's environment variables say, else wandb offline",
        allowed=("wandb_offline", "wandb", "tensorboard", "none"),
    )
    project: str | None = static(None, "project in wandb; null: WANDB_PROJECT, else rlkl", kind=str)
    entity: str | None = static(None, "user or team in wandb; null: WANDB_ENTITY", kind=str)
    tags: tuple = static((), "tags of the run; empty: WANDB_TAGS", kind=tuple)
    notes: str | None = static(None, "notes on the run; null: WANDB_NOTES", kind=str)
    dir: str | None = static(None, "parent of the tracker's folder; null: WANDB_DIR, else the run's own folder", kind=str)
    figures: bool = static(False, "log the run's figure, as `rlkl plot` draws it", kind=bool)
    artifacts: bool = static(False, "log the files of the run's folder, in wandb", kind=bool)


@dataclasses.dataclass(frozen=True)
class Execution:
    """The settings of execution, which change no result. They are top-level keys, as `seed` is."""

    store: str = static("outputs/.rlkl", "folder of finished and unfinished runs, and of pretrained references", kind=str)
    resume: bool = static(True, "reuse runs in the store; false: train anew", kind=bool)
    fail_fast: bool = static(False, "stop a sweep at the first run that diverges", kind=bool)


@dataclasses.dataclass(frozen=True)
class Engine:
    """The settings of where the groups of a sweep are trained."""

    name: str = static(
        "local", "where a sweep is trained: on this machine, or as jobs of a cluster", allowed=("local", "submitit")
    )
    cluster: str | None = static(None, "submitit's executor: slurm, local or debug; null: the one available", kind=str)
    runs_per_job: int = static(64, "number of runs in one cluster job", kind=int, at_least=1)
    parameters: Any = dataclasses.field(
        default_factory=dict, metadata={"about": "parameters of submitit: timeout_min, slurm_partition, ..."}
    )
