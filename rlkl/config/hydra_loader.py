"""Configs by Hydra's own loader, beside whatever Hydra its caller has."""

import copy
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

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


def own(config: Any, resolve: bool) -> dict[str, Any]:
    """A whole config as plain values, without Hydra's own part."""
    part = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    part._set_parent(config)  # absolute interpolations may lead into Hydra's part
    return OmegaConf.to_container(part, resolve=resolve)  # type: ignore[return-value]
