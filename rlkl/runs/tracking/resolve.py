"""Resolve how a run is tracked: its settings, else wandb's environment variables, else rlkl's defaults."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkl import errors, settings
from rlkl.errors import SettingsError

if TYPE_CHECKING:
    from rlkl.config.build import Built


ONLINE, OFFLINE, TENSORBOARD = "wandb", "wandb_offline", "tensorboard"
LATER = {OFFLINE: "wandb", TENSORBOARD: "tensorboardX"}  # logs that are read later, and their libraries
MODES = {"online": ONLINE, "run": ONLINE, "shared": ONLINE, "offline": OFFLINE, "dryrun": OFFLINE, "disabled": "none"}
FORBIDDEN = "/\\#?%:"  # characters that wandb refuses in the name of a project


def resolved(built: "Built") -> "Built":
    """Return the run with its tracking settings resolved; raises `SettingsError` as `resolved_tracking` does."""
    tracking = resolved_tracking(built.tracking)
    plain = dataclasses.asdict(tracking) | {"tags": list(tracking.tags)}
    return built._replace(tracking=tracking, resolved=built.resolved | {"tracking": plain})


def resolved_tracking(tracking: settings.Tracking) -> settings.Tracking:
    """Return tracking settings with what is null resolved.

    Raises `SettingsError` for a mode, project, entity or tag that wandb would refuse.
    """
    name = tracker_name(tracking.name)
    if name == "none":
        return dataclasses.replace(tracking, name=name)
    of_wandb: Mapping[str, str] = {} if name == TENSORBOARD else os.environ
    folder = tracking.dir or of_wandb.get("WANDB_DIR")
    return dataclasses.replace(
        tracking,
        name=name,
        project=_text("project", tracking, of_wandb) or "rlkl",
        entity=_text("entity", tracking, of_wandb),
        tags=tuple(map(_tag, tracking.tags)),
        notes=tracking.notes or of_wandb.get("WANDB_NOTES") or None,
        dir=str(Path(folder).expanduser().absolute()) if folder else None,
    )


def tracker_name(setting: str | None) -> str:
    """Return the name of the tracker; the environment can overrule `wandb` alone. Raises `SettingsError` for its value."""
    if setting in (OFFLINE, TENSORBOARD, "none"):
        return setting
    mode = os.environ.get("WANDB_MODE", "")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        mode = "disabled"
    if mode and mode not in MODES:
        raise SettingsError("WANDB_MODE", mode, errors.nearest(mode, MODES))
    return MODES[mode] if mode else setting or OFFLINE


def _text(key: str, tracking: settings.Tracking, environment: Mapping[str, str]) -> str | None:
    """Return the project or the entity, from the setting or the environment; raises `SettingsError` for a bad one."""
    source, value = f"tracking.{key}", getattr(tracking, key)
    if value is None:
        source = f"WANDB_{key.upper()}"
        value = environment.get(source) or None
    if value is not None and (not 0 < len(value) <= 128 or any(character in FORBIDDEN for character in value)):
        raise SettingsError(source, value or "''", f"must be 1 to 128 characters, none of them one of {FORBIDDEN}")
    return value


def _tag(value: Any) -> str:
    """Return a tag as text; raises `SettingsError` for one that wandb would refuse."""
    text = value if isinstance(value, str) else json.dumps(value)
    if not isinstance(value, (str, int, float)) or not 0 < len(text) <= 64:
        raise SettingsError("tracking.tags", text or "''", "each tag must be text of 1 to 64 characters")
    return text
