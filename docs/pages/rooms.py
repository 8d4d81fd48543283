"""The picture of the rooms, from the import contract in pyproject.toml."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def layers() -> list[list[str]]:
    """The floors of the house from the top, each with its packages and modules."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [[name.strip() for name in floor.replace("|", ":").split(":")] for floor in contract["layers"]]


def rooms() -> str:
    """A table of the floors, with what each room says of itself."""
    rows = (
        f"| {'<br>'.join(f'`{name}`' for name in floor)} | {'<br>'.join(_summary(name) for name in floor)} |"
        for floor in layers()
    )
    return "\n".join(["| room | what it holds |", "|---|---|", *rows])


def _summary(name: str) -> str:
    path = ROOT / "rlkl" / name / "__init__.py"
    path = path if path.exists() else ROOT / "rlkl" / f"{name}.py"
    return " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
