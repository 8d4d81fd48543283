"""wandb, imported only where it is asked for; whatever happens to it costs a warning, never the training."""

import dataclasses
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlkl import errors, settings
from rlkl.errors import SettingsError

if TYPE_CHECKING:
    from rlkl.config.build import Built


ONLINE, OFFLINE = "wandb", "wandb_offline"
MODES = {"online": ONLINE, "run": ONLINE, "shared": ONLINE, "offline": OFFLINE, "dryrun": OFFLINE, "disabled": "none"}
PATIENCE = 15.0  # seconds until a server counts as out of reach, unless WANDB_INIT_TIMEOUT says otherwise
REFUSED = "/\\#?%:"  # by wandb, in the name of a project


def resolved(built: "Built") -> "Built":
    """The run tracked as its settings say, else as wandb's variables of the environment do, else by rlkl's defaults.

    Raises `SettingsError` for a mode, project, entity or tag that wandb would refuse.
    """
    given, name = built.tracking, _name(built.tracking.name)
    if name == "none":
        chosen = dataclasses.replace(given, name=name)
    else:
        project, entity, tags = _text("project", given) or "rlkl", _text("entity", given), tuple(map(_tag, given.tags))
        folder = given.dir or os.environ.get("WANDB_DIR")
        chosen = settings.Tracking(name, project, entity, tags, str(Path(folder).expanduser().absolute()) if folder else None)
    plain = dataclasses.asdict(chosen) | {"tags": list(chosen.tags)}
    return built._replace(tracking=chosen, resolved=built.resolved | {"tracking": plain})


def _name(given: str | None) -> str:
    """How the run is tracked: `wandb_offline` and `none` are the user's last word."""
    if given in (OFFLINE, "none"):
        return given
    mode = os.environ.get("WANDB_MODE", "")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    if mode and mode not in MODES:
        raise SettingsError("WANDB_MODE", mode, errors.nearest(mode, MODES))
    return MODES[mode] if mode else given or OFFLINE


def _text(key: str, given: settings.Tracking) -> str | None:
    """The project or the entity."""
    named, value = f"tracking.{key}", getattr(given, key)
    if value is None:
        named = f"WANDB_{key.upper()}"
        value = os.environ.get(named) or None
    if value is not None and (not 0 < len(value) <= 128 or any(character in REFUSED for character in value)):
        raise SettingsError(named, value or "''", f"must be 1 to 128 characters, none of them one of {REFUSED}")
    return value


def _tag(given: Any) -> str:
    """A tag as wandb takes it."""
    text = given if isinstance(given, str) else json.dumps(given)
    if not isinstance(given, (str, int, float)) or not 0 < len(text) <= 64:
        raise SettingsError("tracking.tags", text or "''", "each tag must be text of 1 to 64 characters")
    return text


class About(NamedTuple):
    """What wandb is told of a run at its start; plain values."""

    project: str | None
    entity: str | None
    tags: list[str]
    dir: str | None
    offline: bool
    id: str | None
    name: str
    group: str | None
    job_type: str
    config: dict[str, Any]


def about(built: "Built", group: str | None) -> About:
    """A run as wandb is told of it; `group` is its sweep's name. Of wandb's variables of the environment, those that name one
    run are for a run alone: a sweep's jobs have names and identities of their own."""
    chosen, named, says = built.tracking, label(built), os.environ.get
    name = f"{named} seed={built.run.settings.seed}"
    return About(
        project=chosen.project,
        entity=chosen.entity,
        tags=list(chosen.tags),
        dir=chosen.dir,
        offline=chosen.name == OFFLINE or _Server.fails,
        id=None if group is None else secrets.token_hex(8),
        name=says("WANDB_NAME") or name if group is None else name,
        group=says("WANDB_RUN_GROUP") or group,
        job_type=says("WANDB_JOB_TYPE") or f"{named} {digest(built.resolved)}",
        config=built.resolved,
    )


class _Server:
    """wandb's, as this process knows it: once it was out of reach, or there was no login, nobody waits for it again."""

    lock = threading.Lock()
    fails = False


class Tracker:
    """One wandb run: rows as they come, the summary at the end. After a failure it warns once and stays silent. Where the
    server fails, this run and the later ones are offline."""

    def __init__(self, told: About, folder: Path, warn: Callable[[str], None]):
        self._warn = warn
        self._run: Any = None
        self._guarded("start", lambda: self._start(told, folder))

    def _start(self, told: About, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        where = Path(told.dir or folder)
        where.mkdir(parents=True, exist_ok=True)  # wandb would take a temporary folder in place of one that is missing
        if not told.offline:
            with _Server.lock:
                try:
                    self._run = None if _Server.fails else _online(told, where)
                except Exception as error:
                    _Server.fails = True
                    reason = _reason(error).partition(" Consider ")[0]
                    self._warn(f"wandb logs offline, its server cannot be used ({reason}); wandb sync uploads the runs")
                    told = told._replace(id=secrets.token_hex(8))  # wandb still holds the identity of the run that failed
        if self._run is None:
            self._run = _started(told, where, "offline")

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
            self._warn(f"wandb could not {what} ({_reason(error)}); training goes on untracked, its folder has everything")
            return None


def _online(told: About, where: Path) -> Any:
    """wandb's run on its server; raises where there is no login (wandb itself would ask for one), and what wandb raises."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no login: `wandb login`, or WANDB_API_KEY")
    patience = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": PATIENCE}
    return _started(told, where, "online", **patience)


def _started(told: About, where: Path, mode: Literal["online", "offline"], **more: Any) -> Any:
    """wandb's run of this mode."""
    import wandb

    return wandb.init(
        project=told.project,
        entity=told.entity,
        tags=told.tags or None,
        id=told.id,
        name=told.name,
        group=told.group,
        job_type=told.job_type,
        config=told.config,
        dir=str(where),
        reinit="create_new",  # a sweep's jobs train, and are followed, together
        mode=mode,
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            **more,
        ),
    )


def _reason(error: Exception) -> str:
    """An error in at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def label(built: "Built") -> str:
    """A readable name of a run but for its seed."""
    chosen = built.run.settings
    task = str(built.resolved["task"]["name"]).split("/")[-1]
    return f"{task} {chosen.policy.name} {chosen.algorithm.name} {chosen.penalty.divergence} beta={chosen.penalty.beta:g}"


def digest(resolved: Mapping[str, Any]) -> str:
    """Four hexadecimal digits of a config without its seed, so that two configs of one label stay apart."""
    seedless = {key: value for key, value in resolved.items() if key not in ("seed", "tracking")}
    return hashlib.sha256(json.dumps(seedless, sort_keys=True, default=str).encode()).hexdigest()[:4]
