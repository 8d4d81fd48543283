"""What an experiment's files came from: sweeps, versions, revision, and hashes of code, data and results."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from rlkl.runs.store.fingerprint import fingerprint

HERE = Path(__file__).parent.parent  # one folder an experiment
PACKAGES = ("rlkl", "jax", "jaxlib", "numpy", "optax", "equinox", "scipy", "pandas", "matplotlib")
KEPT = ("figure.csv", "figure.pdf", "figure.png", "figure.svg", "claims.json")


def manifest(name: str, sweeps: list[list[str]], quick: bool, out: Path) -> dict[str, Any]:
    """What is known of the files in `out`, without how long they took: the same on a second build.

    configs: the override lists, each one `rlkl -m`. inputs: hashes of what made the numbers. drawn_by: of the code that drew
    them, which a redrawing changes alone.
    """
    made = inputs(name)
    return {
        "experiment": name,
        "quick": quick,
        "configs": sweeps,
        "versions": {"python": platform.python_version()} | {each: importlib.metadata.version(each) for each in PACKAGES},
        "revision": revision(),
        "inputs": made,
        "drawn_by": made["code"],
        "files": files(out),
    }


def inputs(name: str) -> dict[str, str]:
    """Hashes of what an experiment's numbers depend on: its sweeps, its code, and rlkl with the versions of what computes."""
    return {"sweep.yaml": _hash([HERE / name / "sweep.yaml"]), "code": code(name), "package": fingerprint()}


def code(name: str) -> str:
    """A hash of an experiment's own code and data, and of the code that all of them share."""
    own = [path for path in (HERE / name).rglob("*") if path.suffix in (".py", ".json", ".txt", ".yaml")]
    return _hash([path for path in own if path.name != "sweep.yaml"] + list((HERE / "harness").glob("*.py")))


def files(out: Path) -> dict[str, str]:
    """Hashes of the files that a build leaves."""
    return {name: _hash([out / name]) for name in KEPT}


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def revision() -> str | None:
    """The commit that this is, with `-dirty` where files differ from it; None outside of a repository."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
