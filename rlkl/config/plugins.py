"""Users' own files: divergences, tasks, policies and algorithms, registered as the shipped ones are."""

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
_REGISTERED: dict[str, list[dict]] = {}  # what each file, by its content, registered: it is run once a process


def load(paths: Any) -> list[str]:
    """Register what these files define; returns the divergences among it. Raises `SettingsError` for a file that is missing,
    fails or contradicts itself."""
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise SettingsError("plugins", paths, "must be a list of Python files, as in [my_penalty.py]")
    found: list[str] = []
    for path in paths:
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise SettingsError("plugins", str(path), "no such file")
        name = f"rlkl_plugin_{file.stem}_{hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:12]}"
        if name not in _REGISTERED:
            _REGISTERED[name] = _run(name, file, str(path))
        for registry, entries in zip(REGISTRIES, _REGISTERED[name], strict=True):
            registry.update(entries)
        found += _REGISTERED[name][0]
    return found


def places(paths: Sequence[str]) -> tuple[str, ...]:
    """The files' absolute paths."""
    return tuple(str(Path(path).expanduser().resolve()) for path in paths)


def digest(files: Sequence[str]) -> list[str]:
    """A hash of each file's place and source."""
    return [hashlib.sha256(file.encode() + Path(file).read_bytes()).hexdigest() for file in files]


def _run(name: str, file: Path, shown: str) -> list[dict]:
    """Run one file as a module; returns what it put into each registry, and leaves nothing behind where it fails."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SettingsError("plugins", shown, "must be a Python file (.py)")
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
        said = str(error) if isinstance(error, ContradictionError) else f"raised {type(error).__name__}: {error}"
        raise SettingsError("plugins", shown, said) from error
    return added


class ContradictionError(ValueError):
    """A divergence whose generator, slope and limits do not fit together."""


def _check(added) -> None:
    for div in added:
        with numerics.pinned():
            wrong = divergences.complaint(div)
        if wrong is not None:
            raise ContradictionError(f"divergence {div.name!r}: {wrong}")
