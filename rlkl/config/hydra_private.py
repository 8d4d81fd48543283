"""Wrap the private functions of Hydra that rlkl uses because no public function does the same.

`hydra-core` is pinned to the minor version that has them.
"""

import argparse
import contextlib
import copy
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import version
from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.hydra import Hydra
from hydra.core import utils as core_utils
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

VERSION_BASE = "1.3"  # version of Hydra whose behaviour is wanted
_LOCK = threading.RLock()


def compose(folder: Path, name: str, overrides: Sequence[str]) -> Any:
    """Compose the config `name` of a folder as `hydra.compose` does, and keep Hydra's own part in it.

    `hydra.compose` needs the global Hydra of the process, which may belong to the caller. This function leaves that,
    `HydraConfig`, the resolvers and the version base as they are. It is thread-safe and reads nothing from the caller's
    `ConfigStore`. Raises what Hydra raises.
    """
    base = version.VersionBase.instance()
    with _LOCK:
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


def without_hydra(config: Any, resolve: bool) -> dict[str, Any]:
    """Return a composed config as plain values, without Hydra's own part."""
    masked = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    masked._set_parent(config)  # absolute interpolations may lead into Hydra's part
    return OmegaConf.to_container(masked, resolve=resolve)  # type: ignore[return-value]


def apply_values(config: Any, values: Sequence[Override], overrides: Sequence[Override]) -> None:
    """Apply the overrides `values` to a composed config, and record all of the job's `overrides` in Hydra's part of it."""
    ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
    names = config.hydra.job.config.override_dirname
    with open_dict(config.hydra):
        config.hydra.overrides.task = [each.input_line for each in overrides]
        config.hydra.job.override_dirname = get_overrides_dirname(
            list(overrides), names.exclude_keys, item_sep=names.item_sep, kv_sep=names.kv_sep
        )


def arguments_parser() -> argparse.ArgumentParser:
    """Return the parser of Hydra's command line that `hydra.main` uses."""
    return utils.get_args_parser()


def run(
    arguments: argparse.Namespace, parser: argparse.ArgumentParser, task: Callable[[Any], Any], folder: Path, name: str
) -> None:
    """Run a task function with the config `name` of a folder, as `hydra.main` does.

    Errors are raised instead of printed if the environment has HYDRA_FULL_ERROR=1.
    """
    version.setbase(VERSION_BASE)
    with _no_mode() if _leaves_mode_unset(arguments) else contextlib.nullcontext():
        utils._run_hydra(arguments, parser, task, str(folder), name)


def _leaves_mode_unset(arguments: argparse.Namespace) -> bool:
    """Tell whether `hydra.mode` is certainly unset, as it is in the shipped configs."""
    keys = [text.lstrip("+~").partition("=")[0] for text in arguments.overrides]
    only_shipped = (arguments.config_dir, arguments.config_name, arguments.config_path) == (None, None, None)
    return only_shipped and not any(key in ("hydra", "hydra.mode", "hydra.searchpath") or "/" in key for key in keys)


@contextlib.contextmanager
def _no_mode() -> Iterator[None]:
    """A context in which Hydra takes `hydra.mode` to be unset, and does not compose the whole config to find that out."""
    get_mode = Hydra.get_mode
    Hydra.get_mode = lambda self, config_name, overrides: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


@contextlib.contextmanager
def quick_jobs(save_config: Callable[[Any, str, Path], None]) -> Iterator[None]:
    """A context in which Hydra's `run_job` pickles configs to copy them, and writes them by `save_config`.

    save_config: writes (config, file name, folder). Both take a fraction of the time of what Hydra does.
    """
    module: Any = core_utils
    before = module.copy, module._save_config
    module.copy = SimpleNamespace(deepcopy=lambda config: pickle.loads(pickle.dumps(config)))
    module._save_config = save_config
    try:
        yield
    finally:
        module.copy, module._save_config = before


def basic_sweeper() -> type:
    """Return the class of Hydra's own sweeper."""
    Plugins.instance()  # scans for plugins, which executes their modules anew: import the class after it
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper
