"""Environments of the libraries that are run live: one each, since their requirements exclude each other."""

import re
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
REQUIREMENTS = FOLDER / "live" / "requirements"
BUILD = ROOT / "build" / "conformance"


def environment(name: str) -> Path:
    """The Python of a library's environment, made from its requirements unless it stands with these already."""
    folder, library, dependencies = BUILD / name, REQUIREMENTS / f"{name}.txt", REQUIREMENTS / f"{name}-deps.txt"
    python, stamp = folder / "bin" / "python", folder / "requirements"
    wanted = "".join(file.read_text() for file in (dependencies, library) if file.exists())
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    own = ["-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)]
    if dependencies.exists():  # the library asks for what cannot be installed beside it
        subprocess.run([*pip, "-r", str(dependencies), "-e", str(ROOT)], check=True, cwd=ROOT)
        subprocess.run([*pip, "--no-deps", "-r", str(library)], check=True, cwd=ROOT)
    else:
        subprocess.run([*pip, "-r", str(library), *own], check=True, cwd=ROOT)
    stamp.write_text(wanted)
    return python


def live_names() -> list[str]:
    """The names of all environments: a library, or a library and a release of it, releases in their order."""
    names = [path.stem for path in REQUIREMENTS.glob("*.txt") if not path.stem.endswith("-deps")]
    return sorted(names, key=lambda name: (name.partition("-")[0], [int(part) for part in re.findall(r"\d+", name)]))


def write_rows(python: Path, module: str, output: Path) -> None:
    """Write the rows of a module, run by this Python."""
    arguments = ["-m", "experiments.conformance.run", module, str(output)]
    subprocess.run([str(python), *arguments], check=True, cwd=ROOT, stdout=sys.stderr)
