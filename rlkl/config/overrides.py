"""Check the command's overrides one by one before Hydra composes anything, and name the one that is refused."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, ValueType
from hydra.errors import HydraException, MissingConfigException

from rlkl import settings
from rlkl.errors import SettingsError, nearest


def config_directory() -> Path:
    """Return the folder of the shipped configs: in the installed package, or at the top of a clone."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


LONGEST_NAME = 200  # characters in the name of a config group's choice, which is a file name


def check_overrides(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Check that Hydra can read each override and that config groups are given names; raises `SettingsError`.

    config_dir: the user's own folder of configs, searched as well as the shipped ones.
    """
    groups = choices(config_dir)
    for text in overrides:
        override = _parsed(text)
        value_text = text.partition("=")[2]
        is_zero = override.value_type == ValueType.ELEMENT and override.value() == 0.0
        if is_zero and set(value_text.lower().split("e")[0]) & set("123456789"):
            raise SettingsError(override.key_or_group, value_text, "is too small: it rounds to 0")
        if override.key_or_group not in groups or override.package is not None:
            continue
        for value in _values(override):
            if not _is_choice(value, override.key_or_group):
                rule = "is a choice by name; " + nearest(str(value), groups[override.key_or_group])
                raise SettingsError(override.key_or_group, value, rule)


def refusal(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> SettingsError:
    """Turn an error of Hydra into a `SettingsError` that names the override at fault.

    That is the first one whose group, choice or key does not exist, else the one that Hydra's message mentions.
    """
    groups, message = choices(config_dir), f"{type(error).__name__}: {error}"
    keys = {*known_keys(), *groups, "task@task.base"}
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if key.startswith("hydra"):
            if isinstance(error, MissingConfigException) and error.missing_cfg_file == f"{key}/{value}":
                return SettingsError(key, value, "unknown choice; " + nearest(value, error.options or ()))
            continue
        if key in groups:
            for choice in (name for each in _values(_parsed(text)) for name in _names(each)):
                if choice not in groups[key]:
                    return SettingsError(key, choice, "unknown choice; " + nearest(choice, groups[key]))
        elif key not in keys and not text.startswith("+"):
            return SettingsError(key, value, "unknown option; " + suggestion(key, keys))
        elif "Ambiguous value" in message and f"'{text}'" in message:
            return SettingsError(key, value, "several values make a sweep: add -m")
    for text in reversed(overrides):
        key, _, value = text.lstrip("+~").partition("=")
        if f"Could not override '{key}'" in message:
            group = key.partition(".")[0]
            return SettingsError(key, value, f"is no option of this {group}; another {group}=... has it (rlkl --help)")
        if text in message or key in message.replace("'", " ").split() or len(overrides) == 1:
            return SettingsError(key, value, f"Hydra refuses it ({message})")
    return SettingsError("overrides", " ".join(overrides), message)


def choices(config_dir: str | None = None) -> dict[str, list[str]]:
    """Return the choices of each config group, by the group's name: shipped ones and those in the user's own folder."""
    names_by_group: dict[str, set[str]] = {}
    for root in (config_directory(), *([Path(config_dir)] if config_dir else [])):
        for group in (path for path in root.iterdir() if path.is_dir() and path.name != "hydra") if root.is_dir() else ():
            names = {str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml")}
            names_by_group.setdefault(group.name, set()).update(names)
    return {group: sorted(names) for group, names in names_by_group.items()}


def known_keys() -> set[str]:
    """Return every key that an override may name, with dots: those of the settings and the options of every shipped task.

    The options are read from the shipped configs, since importing the tasks takes longer than all else that a refusal needs.
    """
    files = (config_directory() / "task").rglob("*.yaml")
    options = {option for file in files for option in yaml.safe_load(file.read_text(encoding="utf-8"))} - {"defaults"}
    return (
        settings.known_keys()
        | {f"task.{option}" for option in options}
        | {f"task.base.{option}" for option in (*options, "name")}
    )


def suggestion(key: str, keys: Iterable[str]) -> str:
    """Return the hint for an unknown key: the keys that have the same last part, else the nearest key."""
    keys = sorted(keys)
    last = key.rpartition(".")[2]
    same_last = [each for each in keys if each.rpartition(".")[2] == last and not each.startswith("task.base.")]
    if last and 1 <= len(same_last) <= 3 and key not in same_last:
        return f"did you mean {' or '.join(map(repr, same_last))}?"
    return nearest(key, keys)


@cache
def _parser() -> Callable[[str], Override]:
    parser = OverridesParser.create()
    return lambda text: parser.parse_overrides([text])[0]


def _parsed(text: str) -> Override:
    """Parse an override as Hydra does; raises `SettingsError` if Hydra cannot read it."""
    key, equals, value = text.lstrip("+~").partition("=")
    if not key or not (equals or text.startswith("~")):
        rule = "is no command (list, show, plot, report, summary, audit, grade, compare) and no override (key=value)"
        raise SettingsError(text or "''", "", rule)
    try:
        return _parser()(text)
    except (HydraException, ValueError) as error:  # a ValueError: a number of more digits than Python reads
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        command_text = shlex.quote(f"{key}={quoted}")
        example = f", as in {command_text}" if len(command_text) <= 100 and command_text.isprintable() else ""
        raise SettingsError(key, value, f"Hydra cannot read this value; quote it{example}") from error


def _values(override: Override) -> list[Any]:
    """Return the values of an override: one, or several where commas make it a sweep."""
    if override.is_delete() or (override.is_sweep_override() and not isinstance(override._value, ChoiceSweep)):
        return []
    return override._value.list if isinstance(override._value, ChoiceSweep) else [override.value()]


def _is_choice(value: Any, group: str) -> bool:
    """Tell whether a config group takes this value.

    It takes the name of a choice, a list of names, a mapping of its keys ({beta:1}), and, for `experiment`, null.
    """
    if isinstance(value, list):
        return all(isinstance(name, (str, QuotedString)) and _is_choice(name, group) for name in value)
    if isinstance(value, (str, QuotedString)):
        return 0 < len(_name(value)) <= LONGEST_NAME and _name(value).isprintable()
    return isinstance(value, dict) or (value is None and group == "experiment")


def _names(value: Any) -> list[str]:
    """Return the names of choices in a value."""
    values = value if isinstance(value, list) else [value]
    return [_name(each) for each in values if isinstance(each, (str, QuotedString))]


def _name(value: str | QuotedString) -> str:
    return value.text if isinstance(value, QuotedString) else value
