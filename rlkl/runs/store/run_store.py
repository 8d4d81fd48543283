"""Runs kept under a fingerprint of all that their numbers depend on: finished ones whole, unfinished ones as their last
chunk left them. Whatever is not what was written is taken to be missing.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlkl.config import machine, plugins
from rlkl.config.build import Built
from rlkl.runs.folder.summary import is_summary
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import DamagedError, Faults
from rlkl.runs.store.fingerprint import fingerprint
from rlkl.training import blocks
from rlkl.training.spec import Run

OPTIMUM = "optimum.json"  # in an entry, beside the run's files


class Entry(NamedTuple):
    """A finished run: the files of its folder, by name, and its optimum's values (as `summary.of_optimum`)."""

    files: dict[str, bytes]
    optimum: dict[str, float | None]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json, read."""
        return json.loads(self.files["summary.json"])


def key(built: Built) -> str:
    """The run's fingerprint: its resolved settings, its task's content (not its path), its plugins' source, the program, and
    what of this machine its numbers depend on.

    What decides how a run is carried out or where it is logged is no part of it.
    """
    aside = {"tracking", "engine", "plugins", *vars(built.execution)}
    resolved = {name: value for name, value in built.resolved.items() if name not in aside}
    resolved["task"] = {name: value for name, value in built.resolved["task"].items() if name not in ("path", "export")}
    return fingerprint(resolved, built.card.digest, plugins.digests(built.plugins), machine.numeric_environment())


def read(root: Path, named: str, names: Sequence[str], faults: Faults) -> Entry | None:
    """The finished run of this key, with files of these names (as `artifacts.names`); None where it is missing or damaged."""
    return checked_files.read(_finished(root, named), lambda content: _entry(content, names), faults)


def put(root: Path, named: str, entry: Entry, faults: Faults) -> None:
    """Keep a finished run, and let go of its chunk."""
    file, out = _finished(root, named), io.BytesIO()
    if sum(map(len, entry.files.values())) > checked_files.LARGEST:
        faults.unwritten(file, "it is too large")
        return
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in ({OPTIMUM: json.dumps(entry.optimum).encode()} | entry.files).items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)
    checked_files.write(file, out.getvalue(), faults)
    with contextlib.suppress(OSError):
        _unfinished(root, named).unlink()


def read_chunk(root: Path, named: str, run: Run, faults: Faults) -> list[np.ndarray] | None:
    """The arrays of an unfinished run, as `put_chunk` took them; None where they are missing or damaged."""
    return checked_files.read(_unfinished(root, named), lambda content: _chunk(content, run), faults)


def put_chunk(root: Path, named: str, leaves: Sequence[np.ndarray], faults: Faults) -> None:
    """Keep where an unfinished run stands."""
    checked_files.write(_unfinished(root, named), checked_files.packed(leaves), faults)


def _entry(content: bytes, names: Sequence[str]) -> Entry:
    files = checked_files.members(content, [OPTIMUM, *names])
    optimum = json.loads(files.pop(OPTIMUM))
    if not (isinstance(optimum, dict) and all(value is None or isinstance(value, float) for value in optimum.values())):
        raise DamagedError("it holds no optimum's values")
    if not is_summary(json.loads(files["summary.json"])):
        raise DamagedError("its summary lacks a field, or has one of another kind")
    return Entry(files, optimum)


def _chunk(content: bytes, run: Run) -> list[np.ndarray]:
    leaves = checked_files.arrays(content)
    checked_files.check_arrays(leaves[:1], [jax.ShapeDtypeStruct((), np.int64)])
    like = blocks.like_kept(run, int(leaves[0]))
    if like is None:
        raise DamagedError("it stands at a step at which nothing is kept")
    checked_files.check_arrays(leaves, like)
    return leaves


def _finished(root: Path, named: str) -> Path:
    return root / "runs" / f"{named}.zip"


def _unfinished(root: Path, named: str) -> Path:
    return root / "unfinished" / f"{named}.npz"
