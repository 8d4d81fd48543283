"""Runs kept under a fingerprint of all that their numbers depend on: finished ones whole, unfinished ones as their last
chunk left them. Whatever is not whole is taken to be missing.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlkl import plugins, settings
from rlkl.config import Built
from rlkl.records import write

OPTIMUM = "optimum.json"  # in an entry, beside the run's files
BROKEN = (OSError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Entry(NamedTuple):
    """A finished run: the files of its folder, by name, and its optimum's values (as `report.of_optimum`)."""

    files: dict[str, bytes]
    optimum: dict[str, float | None]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json, read."""
        return json.loads(self.files["summary.json"])


def key(built: Built) -> str:
    """The run's fingerprint: its resolved settings, its task's content (not its path), its plugins' source, the program.

    What decides how a run is carried out or where it is logged is no part of it.
    """
    aside = {"tracking", "engine", "plugins", *vars(built.execution)}
    resolved = {name: value for name, value in built.resolved.items() if name not in aside}
    resolved["task"] = {name: value for name, value in built.resolved["task"].items() if name not in ("path", "export")}
    return settings.fingerprint(resolved, built.card.digest, plugins.digest(built.plugins))


def read(root: Path, named: str) -> Entry | None:
    """The finished run of this key, or None."""
    try:
        with zipfile.ZipFile(_finished(root, named)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        optimum = json.loads(files.pop(OPTIMUM))
        json.loads(files["summary.json"])
        return Entry(files, optimum)
    except BROKEN:
        return None


def put(root: Path, named: str, entry: Entry) -> None:
    """Keep a finished run, and let go of its chunk."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in ({OPTIMUM: json.dumps(entry.optimum).encode()} | entry.files).items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)
    write(_finished(root, named), out.getvalue())
    _unfinished(root, named).unlink(missing_ok=True)


def read_chunk(root: Path, named: str) -> list[np.ndarray] | None:
    """The arrays of an unfinished run, or None."""
    try:
        with np.load(io.BytesIO(_unfinished(root, named).read_bytes()), allow_pickle=False) as kept:
            return [kept[f"leaf_{i}"] for i in range(len(kept.files))]
    except BROKEN:
        return None


def put_chunk(root: Path, named: str, leaves: Sequence[np.ndarray]) -> None:
    """Keep where an unfinished run stands."""
    out = io.BytesIO()
    arrays: Mapping[str, Any] = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    np.savez(out, **arrays)
    write(_unfinished(root, named), out.getvalue())


def _finished(root: Path, named: str) -> Path:
    return root / "runs" / f"{named}.zip"


def _unfinished(root: Path, named: str) -> Path:
    return root / "unfinished" / f"{named}.npz"
