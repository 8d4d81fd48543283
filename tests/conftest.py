"""Tests run in 64 bits, with strict dtype promotion and with rank promotion an error."""

import contextlib
import gc
import io
import logging.config
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

gc.set_threshold(100_000, 50, 50)  # traces allocate much that lives on
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # the Python line of every operation, which no test reads

from rlkl import cli
from rlkl.config import plugins
from rlkl.reports import console
from rlkl.training import blocks, programs

blocks.WIDEST = 16  # most tests hold one run: 63 others beside it, compiled without optimisation, would take their time
SHIPPED = [dict(registry) for registry in plugins.REGISTRIES]


@pytest.fixture(autouse=True)
def registries():
    """What a test's plugins registered is gone after it: other tests speak of what is shipped.

    So is the folder of programs of a command that it ran in this process: other tests replace functions that these call.
    """
    yield
    programs.use_cache(None)
    for registry, shipped in zip(plugins.REGISTRIES, SHIPPED, strict=True):
        registry.clear()
        registry.update(shipped)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """A module's programs go with it once this process has half the mappings that Linux gives it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """One cache folder for a session's tests and commands, shared by pytest's workers: what is the same compiles once."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "cache"
    os.environ["XDG_CACHE_HOME"] = str(folder)  # of commands, in this process or another
    jax.config.update("jax_compilation_cache_dir", str(folder / "rlkl" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture(scope="session")
def command_in(cache):
    """Runs the real command in a folder; returns the finished process."""

    def run(cwd: Path, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
        variables = {**os.environ, "XDG_CACHE_HOME": str(cache), "COLUMNS": "160", **(environment or {})}
        return subprocess.run(
            [sys.executable, "-m", "rlkl", *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def command(tmp_path, command_in):
    """Runs the real command in an empty folder; returns the finished process."""

    def run(*arguments: str, cwd: Path = tmp_path, environment: dict | None = None) -> subprocess.CompletedProcess:
        return command_in(cwd, *arguments, environment=environment)

    return run


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the command's main function in an empty folder, without a process of its own; returns what `command` does."""
    # Hydra configures logging for a whole process, and closes the handlers and streams that it finds.
    monkeypatch.setattr(logging.config.DictConfigurator, "configure", lambda _: None)

    def run(*arguments: str, cwd: Path = tmp_path, width: int = 160) -> subprocess.CompletedProcess:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(console.console, "width", width)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(arguments)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def composer():
    """Composes the jobs of a sweep."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_automatic_config_search_path
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    from rlkl.config.overrides import config_directory
    from rlkl.sweeps.composer import Composer

    version.setbase("1.3")
    setup_globals()
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(config_directory())))
    overrides = ["hydra.sweep.dir=here", "hydra.job.chdir=true", "hydra.mode=MULTIRUN", "seed=1,2"]
    return Composer(loader, loader.load_configuration("config", overrides, RunMode.MULTIRUN))
