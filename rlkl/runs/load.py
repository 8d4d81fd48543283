"""Load the folders of runs and sweeps."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkl.errors import SettingsError, damaged, directory
from rlkl.runs.folder import csv_text

if TYPE_CHECKING:
    import pandas as pd


NUMBER_KEYS = (
    "reward", "objective", "optimal_objective", "regret", "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum",
    "entropy", "effective_support", "typicality", "kl_per_token", "length", "beta", "steps", "seconds", "diverged_at",
)  # fmt: skip
TEXT_KEYS = ("task", "policy", "algorithm", "divergence", "formula", "dtype", "init")
TEXT_COLUMNS = ("outcome", "metric", "prompt")  # of a CSV; the others are numbers
INFINITE = {"inf": float("inf"), "-inf": float("-inf")}


class Runs(NamedTuple):
    """Data frames of one run or of all jobs of a sweep; the column `run` is the job's folder (`.` for a single run).

    summary: one row per run, with columns `override.<key>`; history: one row per logged step; outcomes: one row per end state;
    diversity: one row per metric; prompts: one row per prompt of the tasks that have several. root: the folder that was loaded,
    so `root / run` is a run's folder.

    The column `outcome` is always text; use `outcomes["outcome"].astype(float)` where end states are named by numbers.
    """

    summary: "pd.DataFrame"
    history: "pd.DataFrame"
    outcomes: "pd.DataFrame"
    diversity: "pd.DataFrame"
    prompts: "pd.DataFrame"
    root: Path


def folders(root: Path) -> list[Path]:
    """Return the folders of the finished runs at or below a folder, in the order of their job numbers."""

    def order(path: Path):
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.relative_to(root).parts]

    return sorted((path.parent for path in root.rglob("summary.json")), key=order)


def finished(folder: str | Path) -> list[Path]:
    """Return the folders of the finished runs as `folders` does; raises `SettingsError` where there is none."""
    paths = folders(directory(folder))
    if not paths:
        raise SettingsError("folder", str(folder), "is no folder with a finished run (a summary.json) in it or below it")
    return paths


def hydra_record(path: Path) -> Any:
    """Return the content of a YAML file that a command left, None where there is none; raises `SettingsError` if damaged."""
    if not path.exists():
        return None
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise damaged(path, error) from None


def override_list(folder: Path) -> list[str] | None:
    """Return a job's overrides as Hydra recorded them, None where it did not; raises `SettingsError` for a damaged record."""
    record = folder / ".hydra" / "overrides.yaml"
    entries = hydra_record(record)
    if record.exists() and not (isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)):
        raise damaged(record, "it is no list of overrides")
    return entries


def overrides(folder: Path) -> dict[str, str]:
    """Return a job's overrides by key; raises `SettingsError` for a damaged record."""
    return split(override_list(folder) or ())


def split(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides (`key=value`) by key."""
    pairs = (entry.lstrip("+").partition("=") for entry in overrides)
    return {key: value for key, _, value in pairs}


def record(run: str, overrides: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finished run as one row: its folder, its overrides as `override.<key>`, and its summary."""
    return {"run": run} | {f"override.{key}": value for key, value in overrides.items()} | dict(summary)


def summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary, with infinities as floats; raises `SettingsError` for a damaged or incomplete summary.json."""
    path = folder / "summary.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(values, dict):
        raise damaged(path, "it holds no JSON object")
    values |= {key: INFINITE[value] for key, value in values.items() if key not in TEXT_KEYS and value in ("inf", "-inf")}
    for keys, kinds, what in ((NUMBER_KEYS, (int, float, type(None)), "no number"), (TEXT_KEYS, (str,), "no text")):
        for key in keys:
            if key not in values:
                raise damaged(path, f"it lacks {key!r}")
            if not isinstance(values[key], kinds) or isinstance(values[key], bool):
                raise damaged(path, f"its {key!r} is {what}")
    return values


def frame(path: Path) -> "pd.DataFrame":
    """Read a CSV of a run's folder into a data frame: numbers are exact to the last bit, empty cells are NaN.

    Raises `SettingsError` for a file that is missing or incomplete.
    """
    import pandas as pd

    def column(name: str, cells: list[str | None]) -> list:
        if name in TEXT_COLUMNS:
            return cells
        return [int(cell or "nan") for cell in cells] if name == "step" else csv_text.numbers(cells)

    try:
        columns = {name: column(name, cells) for name, cells in csv_text.loads(path.read_bytes().decode()).items()}
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    return pd.DataFrame(columns)


def load(folder: str | Path) -> Runs:
    """Load the folder of a run or of a sweep into pandas data frames.

    Raises `SettingsError` if there is no finished run in it, or if a file is missing or damaged (the message names it).
    """
    import pandas as pd

    root = Path(folder)
    records = [record(str(path.relative_to(root)), overrides(path), summary(path)) for path in finished(folder)]

    def joined(name: str, runs: Sequence[str]) -> "pd.DataFrame":
        parts = [frame(root / run / name) for run in runs]
        for part, run in zip(parts, runs, strict=True):
            part.insert(0, "run", run)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"run": []})

    runs = [record["run"] for record in records]
    with_prompts = [run for run in runs if (root / run / "prompts.csv").exists()]
    history, outcomes, diversity = (joined(name, runs) for name in ("history.csv", "outcomes.csv", "diversity.csv"))
    return Runs(pd.DataFrame(records), history, outcomes, diversity, joined("prompts.csv", with_prompts), root)
