"""Read how the runs of a folder were made: their command, settings and versions, as far as the folder records them."""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkl import settings
from rlkl.config.compose import compose
from rlkl.config.overrides import choices
from rlkl.errors import SettingsError, damaged
from rlkl.runs import load
from rlkl.runs.folder import versions

# Settings that say where and how runs are executed, and that no number depends on.
EXECUTION = {"task.export", *(field.name for field in dataclasses.fields(settings.Execution))}
EXECUTION_GROUPS = ("tracking.", "engine.")


class Setting(NamedTuple):
    """A setting: its distinct values over the jobs and its default, as text; changed: it is not left at its default."""

    key: str
    values: tuple[str, ...]
    default: str
    changed: bool


def command(root: Path, finished: Sequence[Path]) -> str | None:
    """Return the command that made the runs, from the overrides that Hydra recorded; None where there is no record."""
    if finished == [root]:
        overrides = load.override_list(root)
        return None if overrides is None else shlex.join(["rlkl", *overrides])
    path = root / "multirun.yaml"
    record = load.hydra_record(path)
    if record is None:
        return None
    try:
        overrides = record["hydra"]["overrides"]["task"]
        return shlex.join(["rlkl", "-m", *overrides])
    except (KeyError, TypeError):
        raise damaged(path, "it holds no overrides") from None


def recorded_versions(finished: Iterable[Path]) -> dict[str, str | None]:
    """Return the versions that the runs were made with, by name: None where no run's folder says, all where they differ."""
    records = [_mapping(path / ".hydra" / versions.FILE) or {} for path in finished]
    joined = {}
    for name in ("rlkl", *versions.LIBRARIES):
        known = dict.fromkeys(str(record[name]) if name in record else "unknown" for record in records)
        joined[name] = None if list(known) == ["unknown"] else ", ".join(known)
    return joined


def recorded_settings(finished: Sequence[Path]) -> list[Setting] | None:
    """Return the resolved settings of the runs, None where a run's folder has no record of them.

    A setting that is unset by default, and that rlkl chose for the task, algorithm and policy, counts as left at its default.
    """
    configs = [_mapping(path / ".hydra" / "config.yaml") for path in finished]
    if None in configs:
        return None
    by_job = [leaves(config) for config in configs if config is not None]
    defaults = leaves(compose())
    chosen = _chosen([load.override_list(path) or [] for path in finished])
    listed = []
    for key in dict.fromkeys(key for job in by_job for key in job):
        values = tuple(dict.fromkeys(_text(job.get(key)) for job in by_job))
        default = _text(defaults.get(key))
        unset = defaults.get(key) is None and key in defaults
        changed = values != (default,) and (not unset or key in chosen) and not _is_execution(key)
        listed.append(Setting(key, values, default if key in defaults else "", changed))
    return listed


def _is_execution(key: str) -> bool:
    return key in EXECUTION or key.startswith(EXECUTION_GROUPS)


def _chosen(overrides_by_job: Sequence[Sequence[str]]) -> set[str]:
    """Return the keys that the jobs' overrides, or the presets that they name, give a value."""
    keys = {key for overrides in overrides_by_job for key in load.split(overrides)}
    groups = choices()
    for presets in {tuple(each for each in job if next(iter(load.split([each]))) in groups) for job in overrides_by_job}:
        try:
            keys |= {key for key, value in leaves(compose(presets)).items() if value is not None}
        except SettingsError:  # a preset of a folder of configs that this command was not given
            continue
    return keys


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested config by key, with dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _mapping(path: Path) -> dict[str, Any] | None:
    record = load.hydra_record(path)
    if record is not None and not isinstance(record, dict):
        raise damaged(path, "it is no mapping")
    return record
