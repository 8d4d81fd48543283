"""Overrides as they are given to the command: read one by one before Hydra composes anything, and refused by name.

No jax is loaded here before something is refused.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, ValueType
from hydra.errors import HydraException, MissingConfigException

from rlkl import settings
from rlkl.errors import SettingsError, nearest


def config_directory() -> Path:
    """Where the shipped configs lie: in an installed package, or at the top of a clone."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


LONGEST_NAME = 200  # of a config group's choice, which is a file's name


def check_overrides(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Refuse an override that Hydra cannot read, or that gives a config group what is no name; raises `SettingsError`.

    config_dir: the user's own folder of configs, beside the shipped ones.
    """
    groups = choices(config_dir)
    for text in overrides:
        override = _parsed(text)
        typed = text.partition("=")[2]
        is_zero = override.value_type == ValueType.ELEMENT and override.value() == 0.0
        if is_zero and set(typed.lower().split("e")[0]) & set("123456789"):
            raise SettingsError(override.key_or_group, typed, "is too small: it rounds to 0")
        if override.key_or_group not in groups or override.package is not None:
            continue
        for value in _elements(override):
            if not _is_choice(value, override.key_or_group):
                rule = "is a choice by name; " + nearest(str(value), groups[override.key_or_group])
                raise SettingsError(override.key_or_group, value, rule)


def refusal(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> SettingsError:
    """What Hydra refused, as one line: the first override that names no group, choice or key, else the one that its words
    speak of."""
    groups, said = choices(config_dir), f"{type(error).__name__}: {error}"
    keys = {*known_keys(), *groups, "task@task.base"}
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if key.startswith("hydra"):
            if isinstance(error, MissingConfigException) and error.missing_cfg_file == f"{key}/{value}":
                return SettingsError(key, value, "unknown choice; " + nearest(value, error.options or ()))
            continue
        if key in groups:
            for choice in (name for each in _elements(_parsed(text)) for name in _names(each)):
                if choice not in groups[key]:
                    return SettingsError(key, choice, "unknown choice; " + nearest(choice, groups[key]))
        elif key not in keys and not text.startswith("+"):
            return SettingsError(key, value, "unknown option; " + suggestion(key, keys))
        elif "Ambiguous value" in said and f"'{text}'" in said:
            return SettingsError(key, value, "several values make a sweep: add -m")
    for text in reversed(overrides):
        key, _, value = text.lstrip("+~").partition("=")
        if f"Could not override '{key}'" in said:
            group = key.partition(".")[0]
            return SettingsError(key, value, f"is no option of this {group}; another {group}=... has it (rlkl --help)")
        if text in said or key in said.replace("'", " ").split() or len(overrides) == 1:
            return SettingsError(key, value, f"Hydra refuses it ({said})")
    return SettingsError("overrides", " ".join(overrides), said)


def choices(config_dir: str | None = None) -> dict[str, list[str]]:
    """The names of each config group's choices, the shipped ones and those in the user's own folder."""
    found: dict[str, set[str]] = {}
    for root in (config_directory(), *([Path(config_dir)] if config_dir else [])):
        for group in (path for path in root.iterdir() if path.is_dir() and path.name != "hydra") if root.is_dir() else ():
            found.setdefault(group.name, set()).update(str(p.relative_to(group).with_suffix("")) for p in group.rglob("*.yaml"))
    return {group: sorted(names) for group, names in found.items()}


def known_keys() -> set[str]:
    """Every dotted key: those of the settings, and the options of every task."""
    from rlkl import tasks  # which loads jax

    options = {option for name in tasks.REGISTRY for option in tasks.options(name)}
    return (
        settings.known_keys()
        | {f"task.{option}" for option in options}
        | {f"task.base.{option}" for option in (*options, "name")}
    )


def suggestion(key: str, keys: Iterable[str]) -> str:
    """The hint that follows an unknown key: the keys whose last part it is, else the nearest one."""
    keys = sorted(keys)
    last = key.rpartition(".")[2]
    ends = [known for known in keys if known.rpartition(".")[2] == last and not known.startswith("task.base.")]
    if last and 1 <= len(ends) <= 3 and key not in ends:
        return f"did you mean {' or '.join(map(repr, ends))}?"
    return nearest(key, keys)


@cache
def _parser() -> Callable[[str], Override]:
    parser = OverridesParser.create()
    return lambda text: parser.parse_overrides([text])[0]


def _parsed(text: str) -> Override:
    """The override as Hydra reads it."""
    key, equals, value = text.lstrip("+~").partition("=")
    if not key or not (equals or text.startswith("~")):
        rule = "is no command (list, plot, summary, audit, grade, compare) and no override (key=value)"
        raise SettingsError(text or "''", "", rule)
    try:
        return _parser()(text)
    except (HydraException, ValueError) as error:  # a ValueError: a number of more digits than Python reads
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        shown = shlex.quote(f"{key}={quoted}")
        example = f", as in {shown}" if len(shown) <= 100 and shown.isprintable() else ""
        raise SettingsError(key, value, f"Hydra cannot read this value; quote it{example}") from error


def _elements(override: Override) -> list[Any]:
    """The values that an override gives: one, or those of a sweep by commas."""
    if override.is_delete() or (override.is_sweep_override() and not isinstance(override._value, ChoiceSweep)):
        return []
    return override._value.list if isinstance(override._value, ChoiceSweep) else [override.value()]


def _is_choice(value: Any, group: str) -> bool:
    """Whether this is what a config group may be given: a choice's name, some of them, nothing at all (`experiment=null`), or
    keys of the group with their values ({beta:1})."""
    if isinstance(value, list):
        return all(isinstance(name, (str, QuotedString)) and _is_choice(name, group) for name in value)
    if isinstance(value, (str, QuotedString)):
        return 0 < len(_name(value)) <= LONGEST_NAME and _name(value).isprintable()
    return isinstance(value, dict) or (value is None and group == "experiment")


def _names(value: Any) -> list[str]:
    """The choices that a value names."""
    values = value if isinstance(value, list) else [value]
    return [_name(each) for each in values if isinstance(each, (str, QuotedString))]


def _name(value: str | QuotedString) -> str:
    return value.text if isinstance(value, QuotedString) else value
