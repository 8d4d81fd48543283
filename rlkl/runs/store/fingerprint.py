"""Fingerprint a run: hash its settings, the package's source and the versions of the libraries that compute."""

import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rlkl.runs.folder.versions import LIBRARIES


def fingerprint(*parts: Any) -> str:
    """Hash JSON-like values together with the package's source and the versions of the libraries that compute."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode() + program_hash()).hexdigest()[:24]


@functools.cache
def program_hash() -> bytes:
    """Hash the package's source and the versions of the libraries that compute; once a process, as it was loaded."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[2].rglob("*.py")):
        digest.update(path.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.digest()
