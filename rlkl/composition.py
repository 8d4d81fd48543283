"""The configs of a sweep's jobs: what Hydra composes, in a tenth of its time.

Hydra reads the defaults list anew for every job. Here it does so once a choice of config groups; the values that a job
overrides are then applied to a copy, by Hydra's own function. Jobs with any other kind of override are Hydra's to compose.
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict


class Composer:
    """Composes jobs beside the sweep's own config, `master`."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._searches_elsewhere = bool(OmegaConf.select(master, "hydra.searchpath"))
        self._parse = cache(lambda text: self._parser.parse_overrides([text])[0])
        self._is_group = cache(lambda key: loader.repository.group_exists(key))
        self._base = cache(lambda groups: loader.load_sweep_config(master, list(groups)))
        self._base_task = cache(lambda groups: _task_part(self._base(groups)))

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The job's whole config, as `load_sweep_config` of Hydra's loader gives it."""
        parsed = [self._parse(text) for text in overrides]
        if not all(self._is_quick(each) for each in parsed):
            return self._loader.load_sweep_config(self._master, list(overrides))
        groups, values = self._split(parsed)
        config = copy.deepcopy(self._base(groups))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        names = config.hydra.job.config.override_dirname
        with open_dict(config.hydra):
            config.hydra.overrides.task = [each.input_line for each in parsed]
            config.hydra.job.override_dirname = get_overrides_dirname(
                parsed, names.exclude_keys, item_sep=names.item_sep, kv_sep=names.kv_sep
            )
        return config

    def task(self, overrides: Sequence[str]) -> DictConfig:
        """The job's config without Hydra's own part, unresolved."""
        parsed = [self._parse(text) for text in overrides]
        if not all(self._is_quick(each) for each in parsed):
            return _task_part(self._loader.load_sweep_config(self._master, list(overrides)))
        groups, values = self._split(parsed)
        config = copy.deepcopy(self._base_task(groups))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _is_quick(self, override: Override) -> bool:
        """Whether this is `group=choice` or `key=value`, without a package, an interpolation or Hydra's own keys."""
        if self._searches_elsewhere:
            return False
        plain = override.type == OverrideType.CHANGE and override.package is None and override.value_type == ValueType.ELEMENT
        return plain and not override.is_hydra_override() and "${" not in str(override.input_line)

    def _split(self, parsed: Sequence[Override]) -> tuple[tuple[str, ...], list[Override]]:
        """What chooses config groups, as text, and what gives a value."""
        chooses = [self._is_group(each.key_or_group) and not isinstance(each.value(), dict) for each in parsed]
        groups = tuple(str(each.input_line) for each, group in zip(parsed, chooses, strict=True) if group)
        return groups, [each for each, group in zip(parsed, chooses, strict=True) if not group]


def _task_part(config: DictConfig) -> DictConfig:
    part = copy.deepcopy(config)
    with open_dict(part):
        del part["hydra"]
    return part


def interpolates(values: Any) -> bool:
    """Whether an unresolved config refers to something that is still to be resolved."""
    if isinstance(values, dict):
        return any(map(interpolates, values.values()))
    if isinstance(values, list):
        return any(map(interpolates, values))
    return isinstance(values, str) and "${" in values


def unresolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, its interpolations as they were written."""
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]
