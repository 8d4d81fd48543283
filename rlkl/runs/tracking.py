"""Track runs with wandb. A failure of wandb gives a warning and never stops training.

wandb is imported only where it is used.
"""

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
TIMEOUT = 15.0  # seconds to wait for the server, unless WANDB_INIT_TIMEOUT says otherwise
FORBIDDEN = "/\\#?%:"  # characters that wandb refuses in the name of a project


def resolved(built: "Built") -> "Built":
    """Resolve how the run is tracked: its settings, else wandb's environment variables, else rlkl's defaults.

    Raises `SettingsError` for a mode, project, entity or tag that wandb would refuse.
    """
    tracking, name = built.tracking, _name(built.tracking.name)
    if name == "none":
        tracking = dataclasses.replace(tracking, name=name)
    else:
        project, entity, tags = _text("project", tracking) or "rlkl", _text("entity", tracking), map(_tag, tracking.tags)
        folder = tracking.dir or os.environ.get("WANDB_DIR")
        folder = str(Path(folder).expanduser().absolute()) if folder else None
        tracking = settings.Tracking(name, project, entity, tuple(tags), folder)
    plain = dataclasses.asdict(tracking) | {"tags": list(tracking.tags)}
    return built._replace(tracking=tracking, resolved=built.resolved | {"tracking": plain})


def _name(setting: str | None) -> str:
    """Return `wandb`, `wandb_offline` or `none`; the environment cannot overrule the last two."""
    if setting in (OFFLINE, "none"):
        return setting
    mode = os.environ.get("WANDB_MODE", "")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    if mode and mode not in MODES:
        raise SettingsError("WANDB_MODE", mode, errors.nearest(mode, MODES))
    return MODES[mode] if mode else setting or OFFLINE


def _text(key: str, tracking: settings.Tracking) -> str | None:
    """Return the project or the entity, from the setting or the environment; raises `SettingsError` for a bad one."""
    source, value = f"tracking.{key}", getattr(tracking, key)
    if value is None:
        source = f"WANDB_{key.upper()}"
        value = os.environ.get(source) or None
    if value is not None and (not 0 < len(value) <= 128 or any(character in FORBIDDEN for character in value)):
        raise SettingsError(source, value or "''", f"must be 1 to 128 characters, none of them one of {FORBIDDEN}")
    return value


def _tag(value: Any) -> str:
    """Return a tag as text; raises `SettingsError` for one that wandb would refuse."""
    text = value if isinstance(value, str) else json.dumps(value)
    if not isinstance(value, (str, int, float)) or not 0 < len(text) <= 64:
        raise SettingsError("tracking.tags", text or "''", "each tag must be text of 1 to 64 characters")
    return text


class WandbRun(NamedTuple):
    """The arguments of `wandb.init` for one run, as plain values that can be pickled."""

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


def wandb_run(built: "Built", group: str | None) -> WandbRun:
    """Return the arguments of `wandb.init` for a run; `group` is the name of its sweep, None for a single run.

    A sweep's jobs have names and ids of their own: WANDB_NAME and WANDB_RUN_ID count for a single run only.
    """
    tracking, run_label, variable = built.tracking, label(built), os.environ.get
    name = f"{run_label} seed={built.run.settings.seed}"
    return WandbRun(
        project=tracking.project,
        entity=tracking.entity,
        tags=list(tracking.tags),
        dir=tracking.dir,
        offline=tracking.name == OFFLINE or _Server.fails,
        id=None if group is None else secrets.token_hex(8),
        name=variable("WANDB_NAME") or name if group is None else name,
        group=variable("WANDB_RUN_GROUP") or group,
        job_type=variable("WANDB_JOB_TYPE") or f"{run_label} {digest(built.resolved)}",
        config=built.resolved,
    )


class _Server:
    """State of wandb's server in this process. fails: it was out of reach or there was no login, so nobody tries it again."""

    lock = threading.Lock()
    fails = False


class Tracker:
    """Logs one run to wandb: rows while it trains, and the summary at the end.

    After a failure it warns once and logs nothing more. If the server fails, this run and all later ones are logged offline.
    folder: wandb's, unless `tracking.dir` names another.
    """

    def __init__(self, arguments: WandbRun, folder: Path, warn: Callable[[str], None]):
        self._warn = warn
        self._run: Any = None
        self._guarded("start", lambda: self._start(arguments, folder))

    def _start(self, arguments: WandbRun, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        folder = Path(arguments.dir or folder)
        folder.mkdir(parents=True, exist_ok=True)  # wandb would use a temporary folder if this one did not exist
        if not arguments.offline:
            with _Server.lock:
                try:
                    self._run = None if _Server.fails else _start_online(arguments, folder)
                except Exception as error:
                    _Server.fails = True
                    reason = _reason(error).partition(" Consider ")[0]
                    self._warn(f"wandb logs offline, its server cannot be used ({reason}); wandb sync uploads the runs")
                    arguments = arguments._replace(id=secrets.token_hex(8))  # wandb keeps the failed run's id
        if self._run is None:
            self._run = _start_run(arguments, folder, "offline")

    def log(self, columns: Mapping[str, Any]) -> None:
        """Log rows, given as columns by name, one of which is `step`."""

        def send():
            names = [name for name in columns if name != "step"]
            for i, step in enumerate(columns["step"]):
                self._run.log({name: float(columns[name][i]) for name in names}, step=int(step))

        if self._run is not None:
            self._guarded("log", send)

    def finish(self, summary: Mapping[str, Any] | None) -> str | None:
        """Close the run, as failed if `summary` is None; returns the command that uploads it if it is offline."""
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


def _start_online(arguments: WandbRun, folder: Path) -> Any:
    """Start a run on wandb's server; raises `RuntimeError` if there is no login (wandb would prompt for one)."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no login: `wandb login`, or WANDB_API_KEY")
    timeout = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": TIMEOUT}
    return _start_run(arguments, folder, "online", **timeout)


def _start_run(arguments: WandbRun, folder: Path, mode: Literal["online", "offline"], **more: Any) -> Any:
    """Start a run of this mode."""
    import wandb

    return wandb.init(
        project=arguments.project,
        entity=arguments.entity,
        tags=arguments.tags or None,
        id=arguments.id,
        name=arguments.name,
        group=arguments.group,
        job_type=arguments.job_type,
        config=arguments.config,
        dir=str(folder),
        reinit="create_new",  # a sweep's jobs train and log at the same time
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
    """Return an error's message in one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__


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
