"""Gather what a report on a run or a sweep shows: its tables, settings, versions, command and citation."""

from pathlib import Path
from typing import Any, NamedTuple

import rlkl
from rlkl.errors import visible
from rlkl.reports import over_seeds, show, tables
from rlkl.reports.one_page import citation, provenance
from rlkl.reports.one_page.provenance import Setting
from rlkl.reports.outcomes import COLUMNS
from rlkl.reports.sheet import Sheet
from rlkl.runs import load

LONGEST_NAME = 80  # characters of an outcome
MOST_GROUPS = 20  # rows of the table over seeds that fit on the page


class Contents(NamedTuple):
    """What a report shows; None stands for what the folder does not record.

    settings: all, in the config's order. versions: those that the runs were made with, by name.
    """

    title: str
    lines: list[str]
    runs: load.Runs
    sheets: list[Sheet]
    settings: list[Setting] | None
    command: str | None
    versions: dict[str, str | None]
    citation: str | None
    folder: str
    written_by: str

    @property
    def changed(self) -> list[Setting]:
        """The settings that differ from their defaults."""
        return [setting for setting in self.settings or () if setting.changed]


def gather(folder: str | Path) -> Contents:
    """Gather the report on a folder; raises `SettingsError` if it holds no finished run, or a damaged file."""
    root, finished = Path(folder), load.finished(folder)
    summaries = [load.summary(path) for path in finished]
    runs = load.load(folder)
    alone = finished == [root]
    return Contents(
        title=_title(summaries),
        lines=_run_lines(summaries[0]) if alone else [show.counts(root, finished, summaries), _objectives(summaries)],
        runs=runs,
        sheets=_run_sheets(root, summaries[0]) if alone else [_groups_sheet(runs)],
        settings=provenance.recorded_settings(finished),
        command=provenance.command(root, finished),
        versions=provenance.recorded_versions(finished),
        citation=citation.bibtex(citation.citation_file()),
        folder=root.resolve().name,
        written_by=f"rlkl {rlkl.__version__}",
    )


def _title(summaries: list[dict[str, Any]]) -> str:
    tasks = list(dict.fromkeys(summary["task"] for summary in summaries))
    named = ", ".join(tasks[:3]) + (", ..." if len(tasks) > 3 else "")
    return named if len(summaries) == 1 else f"{len(summaries)} runs on {named}"


def _run_lines(summary: dict[str, Any]) -> list[str]:
    return [f"maximise {tables.objective(summary)}", tables.headline(summary)]


def _objectives(summaries: list[dict[str, Any]]) -> str:
    objectives = list(dict.fromkeys(tables.objective(summary) for summary in summaries))
    more = f" and {len(objectives) - 4} more" if len(objectives) > 4 else ""
    return f"maximise {'; '.join(objectives[:4])}{more}"


def _run_sheets(root: Path, summary: dict[str, Any]) -> list[Sheet]:
    title = f"Result after {summary['steps']} steps, in nats per sequence"
    result = Sheet(title, 1, ("", "policy", "exact optimum"), tables.result_rows(summary), tables.no_optimum(summary) or "")
    moved = show.moved_in(root)
    rows = [(_cut(outcome.name), *outcome.cells) for outcome in moved.outcomes]
    title = f"Outcomes that moved most: {moved.title}"
    return [result, *([Sheet(title, 1, ("outcome", *COLUMNS), rows, moved.note)] if rows else [])]


def _cut(name: str) -> str:
    """Return an outcome's name, with an ellipsis where it is long, and with what does not print escaped."""
    line = visible(name)
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def _groups_sheet(runs: load.Runs) -> Sheet:
    """Return the table over seeds, as `rlkl summary` prints it."""
    groups = over_seeds.group_runs(runs.summary)
    keys, diverged = tuple(groups[0].overrides), any(group.diverged for group in groups)
    columns = (*keys, "runs", *(("diverged",) if diverged else ()), *tables.SEEDS_MEASURES.values())
    rows = []
    for group in groups[:MOST_GROUPS]:
        counts = (str(group.runs), *((str(group.diverged),) if diverged else ()))
        spreads = (" ".join(tables.spread(group.spreads[key])) for key in tables.SEEDS_MEASURES)
        rows.append((*group.overrides.values(), *counts, *spreads))
    left_out = len(groups) - len(rows)
    note = f"{left_out} more rows; rlkl summary prints all" if left_out else ""
    return Sheet("Interquartile means over seeds, with 95% bootstrap intervals", len(keys), columns, rows, note)
