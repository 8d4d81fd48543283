"""Checks of settings against their declarations."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlkl.errors import SettingsError, nearest
from rlkl.settings.execution import Engine, Execution, Tracking
from rlkl.settings.options import GROUPS, Settings
from rlkl.settings.penalty import BETA_LIMITS, SCHEDULES, PenaltySettings


def check(key: str, value: Any, field: dataclasses.Field) -> Any:
    """`value` converted to the field's type; raises `SettingsError` if it is not allowed."""
    rules = field.metadata
    if value is None:
        if field.default is None:
            return None
        raise SettingsError(f"{key}=null", "", "must have a value")
    allowed, kind = rules.get("allowed"), rules.get("kind")
    if allowed is not None and value not in allowed:
        raise SettingsError(key, value, nearest(str(value), map(str, allowed)))
    if kind is bool and not isinstance(value, bool):
        raise SettingsError(key, value, "must be true or false")
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            raise SettingsError(key, value, "must be a list, as in [a,b]")
        return tuple(value)
    if kind is str and not isinstance(value, str):
        raise SettingsError(key, value, "must be a name")
    if kind in (int, float):
        value = _number(key, value, kind)
        limits = {
            "above": ("above", value.__gt__),
            "at_least": ("at least", value.__ge__),
            "below": ("below", value.__lt__),
            "at_most": ("at most", value.__le__),
        }
        for rule, (words, holds) in limits.items():
            bound = rules.get(rule)
            if bound is not None and not holds(kind(bound)):
                raise SettingsError(key, value, f"must be {words} {bound if isinstance(bound, int) else format(bound, 'g')}")
    return value


def _number(key, value, kind):
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(key, value, f"must be {expected}")
    if not abs(value) <= sys.float_info.max:
        raise SettingsError(key, value, "must be finite")
    if kind is int and value != int(value):
        raise SettingsError(key, value, f"must be {expected}")
    return kind(value)


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build the settings class `cls` from a mapping; raises `SettingsError` for unknown keys and bad values."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise SettingsError(prefix + key, values[key], "unknown option; " + nearest(key, fields))
    return cls(**{key: check(prefix + key, value, fields[key]) for key, value in values.items()})


class Checked(NamedTuple):
    """The settings of a config, each allowed by its declaration; nulls are not resolved yet."""

    run: Settings
    tracking: Tracking
    execution: Execution
    engine: Engine


def check_settings(config: Mapping[str, Any]) -> Checked:
    """Return the settings of a plain config; raises `SettingsError` at the first unknown key or bad value."""
    groups = {name: from_mapping(cls, group(config, name), f"{name}.") for name, cls in GROUPS.items()}
    execution_keys = {field.name for field in dataclasses.fields(Execution)}
    other_keys = {"task", "tracking", "plugins", "engine"} | execution_keys
    keys = {field.name for field in dataclasses.fields(Settings)} | other_keys
    for key in config:
        if key not in keys:
            raise SettingsError(key, config[key], "unknown option; " + nearest(key, keys))
    top_level = {key: config[key] for key in config if key in keys - other_keys - set(groups)}
    checked = Checked(
        dataclasses.replace(from_mapping(Settings, top_level), **groups),
        from_mapping(Tracking, group(config, "tracking"), "tracking."),
        from_mapping(Execution, {key: config[key] for key in execution_keys if key in config}),
        from_mapping(Engine, group(config, "engine"), "engine."),
    )
    check_penalty(checked.run.penalty)
    return checked


def check_penalty(penalty: PenaltySettings) -> None:
    """Check the penalty's coefficient and its controller; raises `SettingsError`."""
    if penalty.divergence == "none":
        if penalty.beta != 0.0:
            raise SettingsError("penalty.beta", penalty.beta, "must be 0 without a penalty (penalty=reverse_kl has one)")
    elif penalty.beta <= 0.0:
        raise SettingsError("penalty.beta", penalty.beta, "must be above 0 (penalty=none trains without a penalty)")
    else:
        _check_beta("penalty.beta", penalty.beta)
    if penalty.controller != "fixed":
        if penalty.divergence == "none":
            raise SettingsError("penalty.controller", penalty.controller, "there is no penalty for it to steer")
        scheduled = penalty.controller in SCHEDULES
        key, what = ("beta_end", "coefficient that it ends at") if scheduled else ("target_kl", "KL that it steers to")
        if getattr(penalty, key) is None:
            raise SettingsError(f"penalty.{key}", "null", f"controller={penalty.controller} needs the {what}")
        if scheduled:
            _check_beta("penalty.beta_end", penalty.beta_end)


def _check_beta(key: str, beta: float) -> None:
    least, most = BETA_LIMITS
    if not least <= beta <= most:
        rule = f"must be between {least:g} and {most:g}: beyond, rounding and not the penalty decides what is optimal"
        raise SettingsError(key, beta, rule)


def group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the config of one config group; raises `SettingsError` for what is no group."""
    values = config.get(name)
    if values is not None and not isinstance(values, Mapping):
        raise SettingsError(name, values, f"must be a choice by name, or keys below it, as in {name}.name=...")
    return values or {}


def known_keys() -> set[str]:
    """All dotted keys of the configuration, except a task's own options."""
    nested = {f"{group}.{field.name}" for group, cls in GROUPS.items() for field in dataclasses.fields(cls)}
    tracking = {f"tracking.{field.name}" for field in dataclasses.fields(Tracking)}
    top = {field.name for field in dataclasses.fields(Settings) if field.name not in GROUPS}
    execution = {field.name for field in dataclasses.fields(Execution)}
    engine = {f"engine.{field.name}" for field in dataclasses.fields(Engine)}
    return nested | tracking | top | execution | engine | {"task.name", "task.export", "plugins"}
