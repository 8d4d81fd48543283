"""Reading back what runs and sweeps left in their folders."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl.settings import SettingsError

if TYPE_CHECKING:
    import pandas as pd


class Runs(NamedTuple):
    """Frames of one run or of every job of a sweep; the column `run` is the job's folder (`.` for a single run).

    summary: a row a run, with columns `override.<key>`; history: a row a logged step; outcomes: a row an end state;
    diversity: a row a metric. root: what was loaded, so that `root / run` is a run's folder.
    """

    summary: "pd.DataFrame"
    history: "pd.DataFrame"
    outcomes: "pd.DataFrame"
    diversity: "pd.DataFrame"
    root: Path


def folders(root: Path) -> list[Path]:
    """The finished runs at or below a folder, in the order of their job numbers."""

    def order(path: Path):
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.relative_to(root).parts]

    return sorted((path.parent for path in root.rglob("summary.json")), key=order)


def overrides(folder: Path) -> dict[str, str]:
    """The overrides that a job was given, as Hydra recorded them."""
    record = folder / ".hydra" / "overrides.yaml"
    if not record.is_file():
        return {}
    from omegaconf import OmegaConf

    return split(map(str, OmegaConf.load(record)))


def split(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides (`key=value`) by key."""
    pairs = (entry.lstrip("+").partition("=") for entry in overrides)
    return {key: value for key, _, value in pairs}


def record(run: str, overrides: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, Any]:
    """A finished run as one row: its folder, its overrides as `override.<key>`, its summary."""
    return {"run": run} | {f"override.{key}": value for key, value in overrides.items()} | dict(summary)


def summaries(root: Path) -> list[dict[str, Any]]:
    """One record a finished run: its folder, its overrides, its summary."""
    return [
        record(str(folder.relative_to(root)), overrides(folder), json.loads((folder / "summary.json").read_text()))
        for folder in folders(root)
    ]


def load(folder: str | Path) -> Runs:
    """What a run or a sweep left, as pandas frames; raises `SettingsError` where there is nothing to load."""
    import pandas as pd

    root = Path(folder)
    records = summaries(root)
    if not records:
        raise SettingsError("folder", str(folder), "is no folder with a finished run (a summary.json) in it or below it")
    infinite = {"inf": float("inf"), "-inf": float("-inf")}
    numbers = [
        {key: infinite.get(value, value) if isinstance(value, str) else value for key, value in record.items()}
        for record in records
    ]

    def joined(name: str) -> "pd.DataFrame":
        parts = [pd.read_csv(root / record["run"] / name, comment=None if name == "history.csv" else "#") for record in records]
        for part, record in zip(parts, records, strict=True):
            part.insert(0, "run", record["run"])
        return pd.concat(parts, ignore_index=True)

    return Runs(pd.DataFrame(numbers), joined("history.csv"), joined("outcomes.csv"), joined("diversity.csv"), root)
