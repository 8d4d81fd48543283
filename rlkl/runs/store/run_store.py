"""Store runs under a fingerprint of all that their numbers depend on.

A finished run is stored with all its files, an unfinished one as its last chunk left it. A damaged file counts as missing.
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
from rlkl.runs.folder.files import pack_arrays
from rlkl.runs.folder.summary import is_summary
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import DamagedError, Faults
from rlkl.runs.store.fingerprint import fingerprint
from rlkl.training import blocks
from rlkl.training.spec import Run


class Entry(NamedTuple):
    """A finished run: the files of its folder, by name."""

    files: dict[str, bytes]

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return json.loads(self.files["summary.json"])


def key(built: Built) -> str:
    """Return the run's fingerprint, which covers all that its numbers depend on.

    That is its resolved settings, its task's content (not its path), its plugins' source, rlkl's source, library versions, and
    this machine's numeric environment. Settings of execution and tracking are left out.
    """
    left_out = {"tracking", "engine", "plugins", *vars(built.execution)}
    resolved = {name: value for name, value in built.resolved.items() if name not in left_out}
    resolved["task"] = {name: value for name, value in built.resolved["task"].items() if name not in ("path", "export")}
    return fingerprint(resolved, built.card.digest, plugins.digests(built.plugins), machine.numeric_environment())


def read(root: Path, run_key: str, names: Sequence[str], faults: Faults) -> Entry | None:
    """Read a finished run with files of these `names` (see `artifacts.names`); returns None where it is missing or damaged."""
    return checked_files.read(_finished_path(root, run_key), lambda content: _parse_entry(content, names), faults)


def put(root: Path, run_key: str, entry: Entry, faults: Faults) -> None:
    """Store a finished run, and delete its chunk."""
    file, out = _finished_path(root, run_key), io.BytesIO()
    if sum(map(len, entry.files.values())) > checked_files.LARGEST:
        faults.unwritten(file, "it is too large")
        return
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in entry.files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)
    checked_files.write(file, out.getvalue(), faults)
    with contextlib.suppress(OSError):
        _chunk_path(root, run_key).unlink()


def read_chunk(root: Path, run_key: str, run: Run, faults: Faults) -> list[np.ndarray] | None:
    """Read the arrays of an unfinished run; returns None where they are missing or damaged."""
    return checked_files.read(_chunk_path(root, run_key), lambda content: _parse_chunk(content, run), faults)


def put_chunk(root: Path, run_key: str, leaves: Sequence[np.ndarray], faults: Faults) -> None:
    """Store the arrays from which an unfinished run can continue."""
    checked_files.write(_chunk_path(root, run_key), pack_arrays(leaves), faults)


def _parse_entry(content: bytes, names: Sequence[str]) -> Entry:
    files = checked_files.members(content, names)
    if not is_summary(json.loads(files["summary.json"])):
        raise DamagedError("its summary lacks a field, or has one of another kind")
    return Entry(files)


def _parse_chunk(content: bytes, run: Run) -> list[np.ndarray]:
    leaves = checked_files.unpack_arrays(content)
    checked_files.check_arrays(leaves[:1], [jax.ShapeDtypeStruct((), np.int64)])
    like = blocks.checkpoint_shapes(run, int(leaves[0]))
    if like is None:
        raise DamagedError("it stands at a step at which nothing is kept")
    checked_files.check_arrays(leaves, like)
    return leaves


def _finished_path(root: Path, run_key: str) -> Path:
    return root / "runs" / f"{run_key}.zip"


def _chunk_path(root: Path, run_key: str) -> Path:
    return root / "unfinished" / f"{run_key}.npz"
