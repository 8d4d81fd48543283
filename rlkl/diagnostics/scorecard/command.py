"""`rlkl grade`: a penalty's scores beside the shipped ones', as a table, CSVs and a radar figure."""

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
    Named,
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


OWN = ("penalty", "algorithm", "optimizer", "plugins", "store")  # what an override may set; the rest is the suite's
NAMES = ("penalty", "penalty.divergence")  # the overrides that name a penalty
Part = Callable[[str, str], None]  # hears of (penalty, what is done)


class Scorecard(NamedTuple):
    """Frames. scores: a row a penalty, as in grade.csv; details: a row a measured number, as in details.csv."""

    scores: "pd.DataFrame"
    details: "pd.DataFrame"


def grade(
    arguments: Sequence[str] = (),
    size: Size = suite.FULL,
    shipped: Sequence[str] = SHIPPED,
    on_part: Part | None = None,
) -> Scorecard:
    """Grade penalties on the suite: rlkl.grade(["my_penalty.py"]).scores, or rlkl.grade(["penalty=trl_grpo"]).

    arguments: as of the command: a plugin's file, of which every divergence is graded, and overrides. Those of `penalty` are
    the candidate's; `algorithm`, `optimizer`, `plugins` and `store` hold for every row. size: how much of the suite; grades of
    different sizes cannot be compared. shipped: the presets that are graded beside. Raises `SettingsError` for a bad argument.
    jax's global settings are left as they were.
    """
    return frames(graded_penalties(arguments, size, shipped, on_part or (lambda name, part: None)))


def graded_penalties(arguments: Sequence[str], size: Size, shipped: Sequence[str], on_part: Part) -> list[GradedPenalty]:
    """The candidates, then the shipped penalties that are none of them, in order."""
    named, files, shared = entrants(arguments, shipped)
    with numerics.pinned():
        built = [(each, *entrant(each, files, shared)) for each in named]  # all of them first: a bad one is refused at once
        once = {grade_fingerprint(chosen, size): each for each, chosen, *_ in reversed(built)}
        entries, faults = [], Faults(warn)
        for each, chosen, store, runs in built:
            if each in once.values():
                found, reused = grade_entrant(chosen, size, store, functools.partial(on_part, each.name), faults)
                descends = (describe.descends(runs[0]), describe.descends(runs[1]))
                caveats = tuple(dict.fromkeys(said for run in runs for said in describe.caveats(run)))
                entries.append(GradedPenalty(each, found, descends, caveats, reused))
        faults.close()
    return entries


def entrants(arguments: Sequence[str], shipped: Sequence[str]) -> tuple[list[Named], list[str], list[str]]:
    """The penalties that the arguments name, the plugins' files, and the overrides that hold for every row."""
    if isinstance(arguments, str):
        raise SettingsError("arguments", arguments, "must be a list of strings, as in ['my_penalty.py']")
    files = [argument for argument in arguments if argument.endswith(".py") and "=" not in argument]
    overrides = [argument for argument in arguments if argument not in files]
    compose(overrides)  # refuses what is no override of anything
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "penalty.beta":
            betas = ", ".join(f"{beta:g}" for beta in suite.FULL.betas)
            raise SettingsError(key, value, f"every penalty is graded at the same coefficients: {betas}")
        if key.split(".")[0] not in OWN:
            raise SettingsError(key, value, "is fixed, so that grades can be compared; rlkl grade takes " + ", ".join(OWN))
    registered = plugins.load(files)
    own = [override for override in overrides if _key(override).split(".")[0] == "penalty"]
    shared = [override for override in overrides if override not in own]
    if any(_key(override) in NAMES for override in own):
        found = [own]
    elif files:
        if not registered:
            raise SettingsError("plugins", files[0], "registers no divergence: there is no penalty in it to grade")
        found = [[f"penalty.divergence={name}", *own] for name in dict.fromkeys(registered)]
    else:
        found = [["penalty=reverse_kl", *own]] if own else []
    candidates = [Named(_label(each), tuple(each), True) for each in found]
    beside = [Named(preset, (f"penalty={preset}",), False) for preset in shipped]
    return [*candidates, *beside], files, shared


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _label(overrides: Sequence[str]) -> str:
    """The penalty's name, and what else was set."""
    pairs = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    names = [value for key, value in pairs if key in NAMES]
    return " ".join(names[-1:] + [f"{key.removeprefix('penalty.')}={value}" for key, value in pairs if key not in NAMES])


def entrant(each: Named, files: Sequence[str], shared: Sequence[str]) -> tuple[Entrant, Path, tuple[spec.Run, spec.Run]]:
    """A penalty's settings on bandits and on sequences, the store, and a run of either."""
    sampled = [] if any(_key(override) in ("algorithm", "algorithm.name") for override in shared) else ["algorithm=rloo"]

    def built(task: str) -> Built:
        values = compose([f"task={task}", *sampled, *shared, *each.overrides])
        return build(values | {"plugins": [*(values.get("plugins") or []), *files]})

    bandit, sequence = built("bandit/random"), built("sequence/brackets")
    chosen = bandit.run.settings
    if chosen.penalty.controller != "fixed":
        raise SettingsError("penalty.controller", chosen.penalty.controller, "penalties are graded at fixed coefficients")
    return Entrant(chosen, sequence.run.settings), bandit.store, (bandit.run, sequence.run)


def frames(entries: Sequence[GradedPenalty]) -> Scorecard:
    """The frames of graded penalties."""
    import pandas as pd

    def row(entry: GradedPenalty) -> dict[str, Any]:
        reasons = "; ".join(f"{name}: {why}" for name, why in entry.grade.reasons.items())
        first = {"penalty": entry.named.name, "candidate": entry.named.candidate}
        on = {"descends_on_bandits": entry.descends[0].says, "descends_on_sequences": entry.descends[1].says}
        return first | entry.grade.scores | on | {"undefined": reasons}

    columns = ["penalty", *ScoreDetail._fields]
    details = [(entry.named.name, *detail) for entry in entries for detail in entry.grade.details]
    return Scorecard(pd.DataFrame([row(entry) for entry in entries]), pd.DataFrame(details, columns=columns))


def run_grade(arguments: Sequence[str], folder: Path = FOLDER, size: Size = suite.FULL) -> None:
    """Grade, print the table, and write grade.csv, details.csv and the figure."""
    with grading_progress() as on_part:
        entries = graded_penalties(arguments, size, SHIPPED, on_part)
    console.print(scorecard_table(entries))
    for line in notes(entries):
        console.print(line, markup=False)
    reused = sum(entry.reused for entry in entries)
    if reused:
        console.print(f"{reused} of {len(entries)} grades were in the store", markup=False)
    found = frames(entries)
    for name, frame in (("grade", found.scores), ("details", found.details)):
        write(folder / f"{name}.csv", csv_text.dumps(list(frame.columns), frame.itertuples(index=False)))
    paths = [folder / "grade.csv", folder / "details.csv", *plots.save(radar_figure(entries), folder / "grade")]
    console.print("wrote " + ", ".join(map(str, paths)), markup=False)


@contextlib.contextmanager
def grading_progress() -> Iterator[Part]:
    """A callable that hears of each part: a line that changes on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield lambda name, part: console.print(f"grading {name}: {part}", markup=False)
        return
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("composing the penalties", total=None)
        yield lambda name, part: bar.update(shown, description=f"grading {visible(name)}: {part}")


def scorecard_table(entries: Sequence[GradedPenalty]) -> Table:
    """A row a penalty, the candidates first and bold; a dash where a score is undefined."""
    shown = Table("penalty", title="scores from 0 to 1, 1 the best", title_justify="left")
    for name in SCORES:
        shown.add_column(HEADINGS[name], justify="right")
    for entry in entries:
        cells = ["-" if np.isnan(value) else f"{value:.2f}" for value in entry.grade.scores.values()]
        mark = " *" if entry.biased else ""
        shown.add_row(entry.named.name + mark, *cells, style="bold" if entry.named.candidate else "")
    return shown


def notes(entries: Sequence[GradedPenalty]) -> Iterator[str]:
    """What a reader of the table must know: what biased penalties descend, what went wrong, why a score is undefined."""
    for entry in entries:
        if entry.biased:
            bandit, sequence = (each.says for each in entry.descends)
            where = bandit if bandit == sequence else f"{bandit}, on sequences {sequence}"
            yield f"* {entry.named.name} descends {where}"
        yield from (f"! {entry.named.name}: {said}" for said in entry.caveats)
        steps = [detail.value for detail in entry.grade.details if detail.measure == "steps"]
        stopped = sum(taken < max(steps) for taken in steps)
        if stopped:
            yield f"! {entry.named.name}: {stopped} of {len(steps)} runs stopped, their gradients not being finite"
        for name, why in entry.grade.reasons.items():
            yield f"- {entry.named.name}, {HEADINGS[name]}".replace("\n", " ") + f": undefined ({why})"
