"""Reading back what runs and sweeps left in their folders."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl.errors import SettingsError, damaged, directory
from rlkl.runs.folder import csv_text

if TYPE_CHECKING:
    import pandas as pd


NUMBERS = (
    "reward", "objective", "optimal_objective", "regret", "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum",
    "entropy", "effective_support", "typicality", "kl_per_token", "length", "beta", "steps", "seconds", "diverged_at",
)  # fmt: skip
NAMES = ("task", "policy", "algorithm", "divergence", "formula", "dtype", "init")
TEXT = ("outcome", "metric")  # the columns of a CSV that are not numbers
INFINITE = {"inf": float("inf"), "-inf": float("-inf")}


class Runs(NamedTuple):
    """Frames of one run or of every job of a sweep; the column `run` is the job's folder (`.` for a single run).

    summary: a row a run, with columns `override.<key>`; history: a row a logged step; outcomes: a row an end state;
    diversity: a row a metric. root: what was loaded, so that `root / run` is a run's folder.

    `outcome` is always text, as the task names its end states: `outcomes["outcome"].astype(float)` where those are numbers.
    """

    summary: "pd.DataFrame"
    history: "pd.DataFrame"
    outcomes: "pd.DataFrame"
    diversity: "pd.DataFrame"
    root: Path


def folders(root: Path) -> list[Path]:
    """The finished runs at or below a folder, in the order of their job numbers."""

    def order(path: Path):
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.relative_to(root).parts]

    return sorted((path.parent for path in root.rglob("summary.json")), key=order)


def overrides(folder: Path) -> dict[str, str]:
    """The overrides that a job was given, as Hydra recorded them; raises `SettingsError` for a damaged record."""
    record = folder / ".hydra" / "overrides.yaml"
    if not record.exists():
        return {}
    import yaml

    try:
        found = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise damaged(record, error) from None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise damaged(record, "it is no list of overrides")
    return split(found)


def split(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides (`key=value`) by key."""
    pairs = (entry.lstrip("+").partition("=") for entry in overrides)
    return {key: value for key, _, value in pairs}


def record(run: str, overrides: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, Any]:
    """A finished run as one row: its folder, its overrides as `override.<key>`, its summary."""
    return {"run": run} | {f"override.{key}": value for key, value in overrides.items()} | dict(summary)


def summary(folder: Path) -> dict[str, Any]:
    """A run's summary, its infinities as numbers; raises `SettingsError` for a summary.json that is not whole."""
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(found, dict):
        raise damaged(path, "it holds no JSON object")
    found |= {key: INFINITE[value] for key, value in found.items() if key not in NAMES and value in ("inf", "-inf")}
    for keys, kinds, what in ((NUMBERS, (int, float, type(None)), "no number"), (NAMES, (str,), "no text")):
        for key in keys:
            if key not in found:
                raise damaged(path, f"it lacks {key!r}")
            if not isinstance(found[key], kinds) or isinstance(found[key], bool):
                raise damaged(path, f"its {key!r} is {what}")
    return found


def frame(path: Path) -> "pd.DataFrame":
    """A CSV of a run's folder: text as it was, numbers to the last bit, NaN where a cell is empty.

    Raises `SettingsError` for a file that is missing or not whole.
    """
    import pandas as pd

    def column(name: str, cells: list[str | None]) -> list:
        if name in TEXT:
            return cells
        return [int(cell or "nan") for cell in cells] if name == "step" else csv_text.numbers(cells)

    try:
        read = {name: column(name, cells) for name, cells in csv_text.loads(path.read_bytes().decode()).items()}
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    return pd.DataFrame(read)


def load(folder: str | Path) -> Runs:
    """What a run or a sweep left, as pandas frames.

    Raises `SettingsError` where there is nothing to load, and, naming the file, where one is missing or damaged.
    """
    import pandas as pd

    root = directory(folder)
    records = [record(str(path.relative_to(root)), overrides(path), summary(path)) for path in folders(root)]
    if not records:
        raise SettingsError("folder", str(folder), "is no folder with a finished run (a summary.json) in it or below it")

    def joined(name: str) -> "pd.DataFrame":
        parts = [frame(root / record["run"] / name) for record in records]
        for part, record in zip(parts, records, strict=True):
            part.insert(0, "run", record["run"])
        return pd.concat(parts, ignore_index=True)

    return Runs(pd.DataFrame(records), joined("history.csv"), joined("outcomes.csv"), joined("diversity.csv"), root)
