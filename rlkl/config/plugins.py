"""Load users' own Python files, which register divergences, tasks, policies and algorithms."""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkl import algorithms, divergences, policies, tasks
from rlkl.errors import SettingsError
from rlkl.settings import numerics

REGISTRIES: tuple[dict, ...] = (divergences.REGISTRY, tasks.REGISTRY, policies.REGISTRY, algorithms.REGISTRY)
_REGISTERED: dict[str, list[dict]] = {}  # the entries that each file registered, by module name: a file runs once a process


def load(paths: Any) -> list[str]:
    """Run plugin files, register what they define, and return the names of the divergences among it.

    Raises `SettingsError` for a file that is missing or fails, and for a divergence that contradicts itself.
    """
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise SettingsError("plugins", paths, "must be a list of Python files, as in [my_penalty.py]")
    divergence_names: list[str] = []
    for path in paths:
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise SettingsError("plugins", str(path), "no such file")
        name = f"rlkl_plugin_{file.stem}_{hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]}"
        if name not in _REGISTERED:
            _REGISTERED[name] = _run(name, file, str(path))
        for registry, entries in zip(REGISTRIES, _REGISTERED[name], strict=True):
            registry.update(entries)
        divergence_names += _REGISTERED[name][0]
    return divergence_names


def absolute_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the absolute path of each file."""
    return tuple(str(Path(path).expanduser().resolve()) for path in paths)


def digests(files: Sequence[str]) -> list[str]:
    """Return a hash of each file's path and source."""
    return [hashlib.sha256(file.encode() + Path(file).read_bytes()).hexdigest() for file in files]


def _run(name: str, file: Path, path: str) -> list[dict]:
    """Run a file as a module and return what it added to each registry; if it fails, the registries stay as they were.

    name: of the module. path: the file as the user wrote it, for error messages.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SettingsError("plugins", path, "must be a Python file (.py)")
    before = [dict(registry) for registry in REGISTRIES]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
        added = [
            {key: entry for key, entry in registry.items() if old.get(key) is not entry}
            for registry, old in zip(REGISTRIES, before, strict=True)
        ]
        _check(added[0].values())
    except Exception as error:
        for registry, old in zip(REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(old)
        reason = str(error) if isinstance(error, ContradictionError) else f"raised {type(error).__name__}: {error}"
        raise SettingsError("plugins", path, reason) from error
    return added


class ContradictionError(ValueError):
    """A divergence's generator, slope and limits contradict each other."""


def _check(registered) -> None:
    for div in registered:
        with numerics.pinned():
            complaint = divergences.complaint(div)
        if complaint is not None:
            raise ContradictionError(f"divergence {div.name!r}: {complaint}")
