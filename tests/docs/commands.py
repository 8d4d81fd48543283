"""The commands that the README and the pages show, and a quick check of each: no run is trained."""

import functools
import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.diagnostics.check import command as check_command
from rlkl.diagnostics.compare import command as compare_command
from rlkl.diagnostics.diagnose import command as diagnose_command
from rlkl.errors import SettingsError, nearest
from tests.helpers import CHAIN, CLONE

PAGES = [CLONE / "README.md", *sorted((CLONE / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "_notebooks"} & set(page.parts)]
ON_FOLDERS = ("plot", "summary", "show", "report")
EXPERIMENTS = {path.parent.name for path in (CLONE / "experiments").glob("*/figure.py")} | {"all", "page"}
TARGETS = set(re.findall(r"^([a-z-]+):", (CLONE / "Makefile").read_text(), re.M))


def commands(text: str) -> list[list[str]]:
    """The commands of the console blocks of a page, each as its words; a line that ends in a backslash goes on."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    lines = [line[2:] for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    return [shlex.split(line.replace(".venv/bin/", ""), comments=True) for line in lines]


def write_files(folder: Path) -> None:
    """Write the files that the pages speak of into a folder: a Python block that begins with `# NAME.py` is such a file."""
    for page in PAGES:
        for block in re.findall(r"```python\n(# \w+\.py\n.*?)```", page.read_text(encoding="utf-8"), re.S):
            folder.joinpath(block.split()[1]).write_text(block)
    folder.joinpath("my.txt").write_text("all you need is love and a cat that loves the lazy dog near the river\n" * 40)
    folder.joinpath("mine.json").write_text(CHAIN.read_text())


def check(words: list[str]) -> None:
    """Check a command as far as it can be without running it; raises `SettingsError` for a bad one."""
    program, arguments = words[0], words[1:]
    if program == "make":
        _among("make", arguments[:1], TARGETS)
    elif words[:3] == ["python", "-m", "experiments"]:
        _among("experiments", [name for name in words[3:] if not name.startswith("-")], EXPERIMENTS)
    elif program == "rlkl":
        _check_rlkl(arguments)


def _check_rlkl(arguments: list[str]) -> None:
    command = arguments[0] if arguments else ""
    if command in ("list", "--help"):
        return
    if command == "compare":
        compare_command.parse(arguments[1:])
        return
    if command in ("check", "diagnose"):
        {"check": check_command, "diagnose": diagnose_command}[command].parse(arguments[1:])
        return
    if command in ON_FOLDERS:
        if len(arguments) == 1:
            raise SettingsError(command, "", "needs a folder")
        return
    overrides = [word for word in arguments if "=" in word and not word.startswith(("-", "hydra"))]
    overrides = [word for word in overrides if word.partition("=")[0] not in ("out", "experiment")]
    sampled = ["algorithm=rloo"] if command == "grade" and not any(word.startswith("algorithm=") for word in overrides) else []
    _check_build((*sampled, *map(_first_value, overrides)))


@functools.cache
def _check_build(overrides: tuple[str, ...]) -> None:
    """Build a run's task and policy; many commands stand on several pages."""
    build(compose(overrides))


def _first_value(text: str) -> str:
    """An override; of a sweep its first value."""
    override = OverridesParser.create().parse_override(text)
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}" if override.is_sweep_override() else text


def _among(what: str, names: list[str], allowed: set[str]) -> None:
    for name in names:
        if name not in allowed:
            raise SettingsError(what, name, nearest(name, allowed))
