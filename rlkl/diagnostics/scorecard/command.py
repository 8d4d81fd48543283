"""`rlkl grade`: the scores of penalties and, for comparison, of shipped ones, as a table, CSVs and a radar figure."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rlkl.config import plugins
from rlkl.config.build import Built, build
from rlkl.config.compose import compose
from rlkl.diagnostics.scorecard import suite
from rlkl.diagnostics.scorecard.grade import (
    HEADINGS,
    SCORES,
    Entrant,
    GradedPenalty,
    NamedPenalty,
    ScoreDetail,
    grade_entrant,
    grade_fingerprint,
)
from rlkl.diagnostics.scorecard.radar import radar_figure
from rlkl.diagnostics.scorecard.suite import Size
from rlkl.errors import SettingsError, visible
from rlkl.reports import plots
from rlkl.reports.console import console, warn
from rlkl.runs.folder import csv_text
from rlkl.runs.folder.files import write
from rlkl.runs.store.checked_files import Faults
from rlkl.settings import numerics
from rlkl.training import describe, spec

if TYPE_CHECKING:
    import pandas as pd


FOLDER = Path("outputs") / "grade"
SHIPPED = ("reverse_kl", "forward_kl", "mixed", "hellinger", "trl_grpo", "trl_grpo_k3")


ALLOWED = ("penalty", "algorithm", "optimizer", "plugins", "store")  # groups that overrides may set; the suite fixes the others
NAMES = ("penalty", "penalty.divergence")  # the overrides that name a penalty
Part = Callable[[str, str], None]  # progress callback: (penalty, part of the suite)


class Scorecard(NamedTuple):
    """Grades as data frames. scores: a row for each penalty, as in grade.csv; details: a row for each measured number."""

    scores: "pd.DataFrame"
    details: "pd.DataFrame"


def grade(
    arguments: Sequence[str] = (),
    size: Size = suite.FULL,
    shipped: Sequence[str] = SHIPPED,
    on_part: Part | None = None,
) -> Scorecard:
    """Grade penalties on the suite: rlkl.grade(["my_penalty.py"]).scores, or rlkl.grade(["penalty=trl_grpo"]).

    arguments: as on the command line. A plugin file is graded with every divergence that it registers. Overrides of `penalty`
    apply to the candidates alone; those of `algorithm`, `optimizer`, `plugins` and `store` apply to every row.
    size: the size of the suite; grades of different sizes cannot be compared.
    shipped: the penalty presets that are graded for comparison.
    Raises `SettingsError` for a bad argument. jax's global settings are left unchanged.
    """
    return frames(graded_penalties(arguments, size, shipped, on_part or (lambda name, part: None)))


def graded_penalties(arguments: Sequence[str], size: Size, shipped: Sequence[str], on_part: Part) -> list[GradedPenalty]:
    """The grades of the candidates and then of the shipped penalties that differ from them, in order."""
    to_grade, files, shared = entrants(arguments, shipped)
    with numerics.pinned():
        built = [(each, *entrant(each, files, shared)) for each in to_grade]  # all before grading: a bad one is refused at once
        first_of = {grade_fingerprint(settings, size): each for each, settings, *_ in reversed(built)}
        entries, faults = [], Faults(warn)
        for each, settings, store, runs in built:
            if each in first_of.values():
                result, reused = grade_entrant(settings, size, store, functools.partial(on_part, each.name), faults)
                descends = (describe.descends(runs[0]), describe.descends(runs[1]))
                caveats = tuple(dict.fromkeys(caveat for run in runs for caveat in describe.caveats(run)))
                entries.append(GradedPenalty(each, result, descends, caveats, reused))
        faults.close()
    return entries


def entrants(arguments: Sequence[str], shipped: Sequence[str]) -> tuple[list[NamedPenalty], list[str], list[str]]:
    """Parse the arguments: the penalties to grade, the plugin files, and the overrides that apply to every penalty."""
    if isinstance(arguments, str):
        raise SettingsError("arguments", arguments, "must be a list of strings, as in ['my_penalty.py']")
    files = [argument for argument in arguments if argument.endswith(".py") and "=" not in argument]
    overrides = [argument for argument in arguments if argument not in files]
    compose(overrides)  # raises for overrides of unknown keys
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "penalty.beta":
            betas = ", ".join(f"{beta:g}" for beta in suite.FULL.betas)
            raise SettingsError(key, value, f"every penalty is graded at the same coefficients: {betas}")
        if key.split(".")[0] not in ALLOWED:
            raise SettingsError(key, value, "is fixed, so that grades can be compared; rlkl grade takes " + ", ".join(ALLOWED))
    registered = plugins.load(files)
    candidate_overrides = [override for override in overrides if _key(override).split(".")[0] == "penalty"]
    shared = [override for override in overrides if override not in candidate_overrides]
    if any(_key(override) in NAMES for override in candidate_overrides):
        penalties = [candidate_overrides]
    elif files:
        if not registered:
            raise SettingsError("plugins", files[0], "registers no divergence: there is no penalty in it to grade")
        penalties = [[f"penalty.divergence={name}", *candidate_overrides] for name in dict.fromkeys(registered)]
    else:
        penalties = [["penalty=reverse_kl", *candidate_overrides]] if candidate_overrides else []
    candidates = [NamedPenalty(_label(each), tuple(each), True) for each in penalties]
    shipped_penalties = [NamedPenalty(preset, (f"penalty={preset}",), False) for preset in shipped]
    return [*candidates, *shipped_penalties], files, shared


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _label(overrides: Sequence[str]) -> str:
    """The label of a penalty: its name and its other settings."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    names = [value for key, value in pairs if key in NAMES]
    return " ".join(names[-1:] + [f"{key.removeprefix('penalty.')}={value}" for key, value in pairs if key not in NAMES])


def entrant(each: NamedPenalty, files: Sequence[str], shared: Sequence[str]) -> tuple[Entrant, Path, tuple[spec.Run, spec.Run]]:
    """Resolve a penalty: its settings on bandits and on sequences, the store, and a run of each."""
    algorithm = [] if any(_key(override) in ("algorithm", "algorithm.name") for override in shared) else ["algorithm=rloo"]

    def built(task: str) -> Built:
        values = compose([f"task={task}", *algorithm, *shared, *each.overrides])
        return build(values | {"plugins": [*(values.get("plugins") or []), *files]})

    bandit, sequence = built("bandit/random"), built("sequence/brackets")
    settings = bandit.run.settings
    if settings.penalty.controller != "fixed":
        raise SettingsError("penalty.controller", settings.penalty.controller, "penalties are graded at fixed coefficients")
    return Entrant(settings, sequence.run.settings), bandit.store, (bandit.run, sequence.run)


def frames(entries: Sequence[GradedPenalty]) -> Scorecard:
    """The data frames of graded penalties."""
    import pandas as pd

    def row(entry: GradedPenalty) -> dict[str, Any]:
        reasons = "; ".join(f"{name}: {why}" for name, why in entry.grade.reasons.items())
        label = {"penalty": entry.penalty.name, "candidate": entry.penalty.candidate}
        descends = {"descends_on_bandits": entry.descends[0].says, "descends_on_sequences": entry.descends[1].says}
        return label | entry.grade.scores | descends | {"undefined": reasons}

    columns = ["penalty", *ScoreDetail._fields]
    details = [(entry.penalty.name, *detail) for entry in entries for detail in entry.grade.details]
    return Scorecard(pd.DataFrame([row(entry) for entry in entries]), pd.DataFrame(details, columns=columns))


def run_grade(arguments: Sequence[str], folder: Path = FOLDER, size: Size = suite.FULL) -> None:
    """Grade penalties, print the table, and write grade.csv, details.csv and the figure."""
    with grading_progress() as on_part:
        entries = graded_penalties(arguments, size, SHIPPED, on_part)
    console.print(scorecard_table(entries))
    for line in notes(entries):
        console.print(line, markup=False)
    reused = sum(entry.reused for entry in entries)
    if reused:
        console.print(f"{reused} of {len(entries)} grades were in the store", markup=False)
    scorecard = frames(entries)
    for name, frame in (("grade", scorecard.scores), ("details", scorecard.details)):
        write(folder / f"{name}.csv", csv_text.dumps(list(frame.columns), frame.itertuples(index=False)))
    paths = [folder / "grade.csv", folder / "details.csv", *plots.save(radar_figure(entries), folder / "grade")]
    console.print("wrote " + ", ".join(map(str, paths)), markup=False)


@contextlib.contextmanager
def grading_progress() -> Iterator[Part]:
    """A progress callback: it updates one line on a terminal and prints plain lines elsewhere."""
    if not console.is_terminal:
        yield lambda name, part: console.print(f"grading {name}: {part}", markup=False)
        return
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("composing the penalties", total=None)
        yield lambda name, part: bar.update(task, description=f"grading {visible(name)}: {part}")


def scorecard_table(entries: Sequence[GradedPenalty]) -> Table:
    """The table of scores, with the candidates first and bold; a dash stands for an undefined score."""
    table = Table("penalty", title="scores from 0 to 1, 1 the best", title_justify="left")
    for name in SCORES:
        table.add_column(HEADINGS[name], justify="right")
    for entry in entries:
        cells = ["-" if np.isnan(value) else f"{value:.2f}" for value in entry.grade.scores.values()]
        mark = " *" if entry.biased else ""
        table.add_row(entry.penalty.name + mark, *cells, style="bold" if entry.penalty.candidate else "")
    return table


def notes(entries: Sequence[GradedPenalty]) -> Iterator[str]:
    """Notes below the table: what biased penalties descend, caveats, stopped runs, and reasons of undefined scores."""
    for entry in entries:
        if entry.biased:
            bandit, sequence = (each.says for each in entry.descends)
            where = bandit if bandit == sequence else f"{bandit}, on sequences {sequence}"
            yield f"* {entry.penalty.name} descends {where}"
        yield from (f"! {entry.penalty.name}: {caveat}" for caveat in entry.caveats)
        steps = [detail.value for detail in entry.grade.details if detail.measure == "steps"]
        stopped = sum(taken < max(steps) for taken in steps)
        if stopped:
            yield f"! {entry.penalty.name}: {stopped} of {len(steps)} runs stopped, their gradients not being finite"
        for name, why in entry.grade.reasons.items():
            yield f"- {entry.penalty.name}, {HEADINGS[name]}".replace("\n", " ") + f": undefined ({why})"
