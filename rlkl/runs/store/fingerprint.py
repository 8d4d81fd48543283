"""Fingerprints of runs: a hash of their settings, of the package's source and of the versions that compute."""

import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-like values, of the package's source, and of the versions of what computes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode() + _program()).hexdigest()[:24]


@functools.cache
def _program() -> bytes:
    """A hash of what computes, as this process loaded it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[2].rglob("*.py")):
        digest.update(path.read_bytes())
    for name in ("jax", "jaxlib", "numpy", "scipy", "optax", "equinox"):
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.digest()
