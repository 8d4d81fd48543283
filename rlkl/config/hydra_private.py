"""All that rlkl uses of Hydra's private modules, each where no public function does the same.

`hydra-core` is pinned to the minor version whose private modules these are.
"""

import argparse
import copy
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
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
    loader = ConfigLoaderImpl(utils.create_automatic_config_search_path(None, None, str(folder)))
    source: Any = loader.repository.get_schema_source()
    source.store = copy.copy(source.store)
    source.store.repo = {"hydra": source.store.repo["hydra"]}
    return loader


def own(config: Any, resolve: bool) -> dict[str, Any]:
    """A whole config as plain values, without Hydra's own part."""
    part = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    part._set_parent(config)  # absolute interpolations may lead into Hydra's part
    return OmegaConf.to_container(part, resolve=resolve)  # type: ignore[return-value]


def apply_values(config: Any, values: Sequence[Override], overrides: Sequence[Override]) -> None:
    """Apply overrides that give values to a composed config, and record all of a job's overrides in Hydra's own part of it."""
    ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
    names = config.hydra.job.config.override_dirname
    with open_dict(config.hydra):
        config.hydra.overrides.task = [each.input_line for each in overrides]
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), names.exclude_keys, item_sep=names.item_sep, kv_sep=names.kv_sep
        )


def arguments_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's own command line, as `hydra.main` makes it."""
    return utils.get_args_parser()


def run(
    arguments: argparse.Namespace, parser: argparse.ArgumentParser, task: Callable[[Any], Any], folder: Path, name: str
) -> None:
    """Run a task function under the config of this name in a folder, as `hydra.main` does.

    Errors are raised, not printed, where the environment has HYDRA_FULL_ERROR=1.
    """
    version.setbase(VERSION_BASE)
    utils._run_hydra(arguments, parser, task, str(folder), name)


def basic_sweeper() -> type:
    """Hydra's own sweeper. Scanning for plugins executes their modules anew: only then is it the class that it will be."""
    Plugins.instance()
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper
