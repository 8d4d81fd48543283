"""Files written whole: a run's folder is filled in the order of its names, and no other process sees half a file."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlkl.runs.folder import csv_text


def write(path: Path, content: str | bytes) -> None:
    """A file written beside its place and moved there, so that no reader ever sees half of it; an `OSError` names it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's dumper, in C where it has one, that quotes text which Hydra would read as a number."""


def _quoted(dumper, text: str):
    try:
        float(text.replace("_", ""))
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _quoted)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that Hydra reads back as they are."""
    return yaml.dump(dict(values), Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def fill(folder: Path, kept: Mapping[str, bytes]) -> None:
    """Write a run's files into its folder, in their order; what a killed command left half-written there goes."""
    for beside in folder.glob(".*.part"):
        beside.unlink(missing_ok=True)
    for name, content in kept.items():
        write(folder / name, content)


def columns_of(history_csv: bytes) -> dict[str, list[float]]:
    """The columns of a history.csv, NaN where a cell is empty."""
    return {name: csv_text.numbers(cells) for name, cells in csv_text.loads(history_csv.decode()).items()}
