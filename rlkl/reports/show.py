"""Print what a finished run or sweep came to, from its files alone (`rlkl show`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkl.errors import damaged
from rlkl.reports import tables
from rlkl.reports.console import console
from rlkl.reports.outcomes import Moved, most_moved, outcomes_table
from rlkl.runs import load


def show(folder: str | Path) -> None:
    """Print the run in a folder, or the table of the jobs below it; raises `SettingsError` if there is no finished run."""
    root, finished = Path(folder), load.finished(folder)
    if finished == [root]:
        _show_run(root)
    else:
        _show_sweep(root, finished)


def _show_run(folder: Path) -> None:
    summary = load.summary(folder)
    console.print(f"{tables.objective(summary)}\n{tables.headline(summary)}", markup=False)
    console.print_table(tables.result(summary))
    moved = moved_in(folder)
    if moved.outcomes:
        console.print_table(outcomes_table(moved, console))


def _show_sweep(root: Path, finished: Sequence[Path]) -> None:
    summaries = [load.summary(path) for path in finished]
    console.print_table(tables.jobs_table(jobs(root, finished, summaries)))
    console.print(counts(root, finished, summaries), markup=False)


def moved_in(folder: Path) -> Moved:
    """Return the outcomes of a run's folder that moved most; raises `SettingsError` for a damaged outcomes.csv."""
    path = folder / "outcomes.csv"
    try:
        return most_moved(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def jobs(root: Path, finished: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> list[tuple[str, dict, dict[str, Any]]]:
    """Return the rows of `tables.jobs_table`: each job's name, the overrides in which jobs differ, and its summary."""
    overrides = [load.overrides(path) for path in finished]
    keys = dict.fromkeys(key for each in overrides for key in each)
    differing = [key for key in keys if len({each.get(key) for each in overrides}) > 1]
    return [
        (str(path.relative_to(root)), {key: each.get(key, "") for key in differing}, summary)
        for path, each, summary in zip(finished, overrides, summaries, strict=True)
    ]


def counts(root: Path, finished: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> str:
    """Return how many jobs finished, diverged, and were begun and did not end."""
    diverged = sum(summary["diverged_at"] is not None for summary in summaries)
    started = {path.parent.parent for path in root.rglob(".hydra/config.yaml")} - set(finished)
    parts = [f"{len(finished) - diverged} finished", f"{diverged} diverged" if diverged else ""]
    parts += [f"{len(started)} began and did not finish" if started else ""]
    total = len(finished) + len(started)
    return f"{total} job{'' if total == 1 else 's'}: " + ", ".join(filter(None, parts))
