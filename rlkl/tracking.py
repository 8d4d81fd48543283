"""wandb, imported only where it is asked for; whatever happens to it costs a warning, never the training."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rlkl.config import Built


class About(NamedTuple):
    """What wandb is told of a run at its start; plain values."""

    project: str | None
    entity: str | None
    tags: list[str]
    offline: bool
    name: str
    group: str | None
    job_type: str
    config: dict[str, Any]


def about(built: "Built", group: str | None) -> About:
    """A run as wandb is told of it; `group` is its sweep's name."""
    chosen, named = built.tracking, label(built)
    job_type = f"{named} {digest(built.resolved)}"
    name = f"{named} seed={built.run.settings.seed}"
    offline = chosen.name == "wandb_offline"
    return About(chosen.project, chosen.entity, list(chosen.tags), offline, name, group, job_type, built.resolved)


class Tracker:
    """One wandb run: rows as they come, the summary at the end. After a failure it warns once and stays silent."""

    def __init__(self, told: About, folder: Path, warn: Callable[[str], None]):
        self._warn = warn
        self._run: Any = None
        self._guarded("start", lambda: self._start(told, folder))

    def _start(self, told: About, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._run = wandb.init(
            project=told.project,
            entity=told.entity,
            tags=told.tags or None,
            name=told.name,
            group=told.group,
            job_type=told.job_type,
            config=told.config,
            dir=str(folder),
            reinit="create_new",  # a sweep's jobs train, and are followed, together
            mode="offline" if told.offline else "online",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, columns: Mapping[str, Any]) -> None:
        """Log the rows of a table of columns, `step` among them."""

        def send():
            names = [name for name in columns if name != "step"]
            for i, step in enumerate(columns["step"]):
                self._run.log({name: float(columns[name][i]) for name in names}, step=int(step))

        if self._run is not None:
            self._guarded("log", send)

    def finish(self, summary: Mapping[str, Any] | None) -> str | None:
        """Close the run; returns the line that would upload an offline one."""
        if self._run is None:
            return None

        def close():
            offline = self._run.settings.mode == "offline"
            line = f"wandb sync {Path(self._run.settings.sync_dir)}" if offline else None
            self._run.summary.update(dict(summary or {}))
            self._run.finish(exit_code=0 if summary else 1)
            return line

        return self._guarded("finish", close)

    def _guarded(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._run = None
            reason = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"wandb could not {what} ({reason[:200]}); training goes on untracked, its folder has everything")
            return None


def label(built: "Built") -> str:
    """A readable name of a run but for its seed."""
    chosen = built.run.settings
    task = str(built.resolved["task"]["name"]).split("/")[-1]
    return f"{task} {chosen.policy.name} {chosen.algorithm.name} {chosen.penalty.divergence} beta={chosen.penalty.beta:g}"


def digest(resolved: Mapping[str, Any]) -> str:
    """Four hexadecimal digits of a config without its seed, so that two configs of one label stay apart."""
    seedless = {key: value for key, value in resolved.items() if key not in ("seed", "tracking")}
    return hashlib.sha256(json.dumps(seedless, sort_keys=True, default=str).encode()).hexdigest()[:4]
