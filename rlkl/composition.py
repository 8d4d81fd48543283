"""Configs by Hydra's own loader: one beside whatever Hydra its caller has, and those of a sweep's jobs in a tenth of the time.

Of a sweep Hydra reads the defaults list anew for every job. Here it does so once a choice of config groups; the values that a
job overrides are then applied to a copy, by Hydra's own function. Jobs with any other kind of override are Hydra's to compose.
"""

import copy
import pickle
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

VERSION_BASE = "1.3"  # of the behaviour that Hydra is to have
_ALONE = threading.RLock()


def compose(folder: Path, name: str, overrides: Sequence[str]) -> Any:
    """The config of this name in a folder, as `hydra.compose` gives it, but with Hydra's own part.

    Hydra's compose needs the process's one global Hydra, which may be the caller's. Here that, `HydraConfig`, the resolvers and
    the version base stay as they are, threads can compose, and no config of the caller's `ConfigStore` takes part. Raises what
    Hydra raises.
    """
    base = version.VersionBase.instance()
    with _ALONE:
        before = base.version_base
        version.setbase(VERSION_BASE)
        try:
            return _loader(folder).load_configuration(name, list(overrides), RunMode.RUN, from_shell=False)
        finally:
            base.version_base = before


@cache
def _loader(folder: Path) -> ConfigLoaderImpl:
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(folder)))
    source: Any = loader.repository.get_schema_source()
    source.store = copy.copy(source.store)
    source.store.repo = {"hydra": source.store.repo["hydra"]}
    return loader


class Composer:
    """Composes jobs beside the sweep's own config, `master`."""

    def __init__(self, loader: ConfigLoaderImpl, master: Any):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._searches_elsewhere = bool(OmegaConf.select(master, "hydra.searchpath"))
        self._parse = cache(lambda text: self._parser.parse_overrides([text])[0])
        self._is_group = cache(lambda key: loader.repository.group_exists(key))
        # Pickled: reading it anew takes a quarter of the time of a copy.
        self._base = cache(lambda groups: pickle.dumps(loader.load_sweep_config(master, list(groups))))
        self._base_values = cache(lambda groups: own(pickle.loads(self._base(groups)), resolve=False))

    def __call__(self, overrides: Sequence[str]) -> Any:
        """The job's whole config, as `load_sweep_config` of Hydra's loader gives it."""
        parsed = [self._parse(text) for text in overrides]
        if not all(self._is_quick(each) for each in parsed):
            return self._loader.load_sweep_config(self._master, list(overrides))
        groups, values = self._split(parsed)
        config = pickle.loads(self._base(groups))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        names = config.hydra.job.config.override_dirname
        with open_dict(config.hydra):
            config.hydra.overrides.task = [each.input_line for each in parsed]
            config.hydra.job.override_dirname = get_overrides_dirname(
                parsed, names.exclude_keys, item_sep=names.item_sep, kv_sep=names.kv_sep
            )
        return config

    def values(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        """The job's config without Hydra's own part, as plain values; None where only the whole config can tell (it
        interpolates, or an override is of another kind, or wrong)."""
        parsed = [self._parse(text) for text in overrides]
        if not all(self._is_quick(each) for each in parsed):
            return None
        groups, given = self._split(parsed)
        base = self._base_values(groups)
        values = None if _interpolates(base) else copy.deepcopy(base)
        for each in given:
            values = None if values is None else _with(values, each.key_or_group.split("."), each.value())
        return values

    def _is_quick(self, override: Override) -> bool:
        """Whether this is `group=choice` or `key=value`, without a package, an interpolation or Hydra's own keys."""
        if self._searches_elsewhere:
            return False
        plain = override.type == OverrideType.CHANGE and override.package is None and override.value_type == ValueType.ELEMENT
        return plain and not override.is_hydra_override() and "$" not in str(override.input_line)

    def _split(self, parsed: Sequence[Override]) -> tuple[tuple[str, ...], list[Override]]:
        """What chooses config groups, as text, and what gives a value."""
        chooses = [self._is_group(each.key_or_group) and not isinstance(each.value(), dict) for each in parsed]
        groups = tuple(str(each.input_line) for each, group in zip(parsed, chooses, strict=True) if group)
        return groups, [each for each, group in zip(parsed, chooses, strict=True) if not group]


def _with(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any] | None:
    """The values with one that is no mapping in the place of another, or None."""
    at: Any = values
    for key in path[:-1]:
        at = at.get(key) if isinstance(at, dict) else None
    if not isinstance(at, dict) or path[-1] not in at or isinstance(at[path[-1]], dict) or isinstance(value, dict):
        return None
    at[path[-1]] = value
    return values


def _interpolates(values: Any) -> bool:
    if isinstance(values, (dict, list)):
        return any(map(_interpolates, values.values() if isinstance(values, dict) else values))
    return isinstance(values, str) and "${" in values


def own(config: Any, resolve: bool) -> dict[str, Any]:
    """A whole config as plain values, without Hydra's own part."""
    part = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    part._set_parent(config)  # absolute interpolations may lead into Hydra's part
    return OmegaConf.to_container(part, resolve=resolve)  # type: ignore[return-value]
