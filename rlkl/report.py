"""What a person sees of a run: its objective, its progress, and its result beside the exact optimum."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rlkl import settings
from rlkl.config.build import Built
from rlkl.errors import visible
from rlkl.evaluation import metrics
from rlkl.records import history
from rlkl.training import describe
from rlkl.training.blocks import Trained
from rlkl.training.loop import Row


class Plain(Console):
    """A console that shows text as it is: no markup and no emoji's names, control characters and what its encoding lacks
    escaped before anything is laid out."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by rich for each text that it is to show."""
        shown = "\n".join(map(visible, text.split("\n")))
        return super().render_str(shown.encode(self.encoding, "backslashreplace").decode(self.encoding), **options)


PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
console = Plain(**PLAIN, width=shutil.get_terminal_size((120, 25)).columns)
errors = Plain(**PLAIN, stderr=True)


def warn(message: str) -> None:
    """A warning, on standard error."""
    errors.print(f"warning: {message}", markup=False)


def header(built: Built) -> str:
    """The objective in full, and how it is pursued."""
    chosen, automaton = built.run.settings, built.run.task.automaton
    size = f"{automaton.vocabulary} arms" if automaton.horizon == 1 else repr(automaton)
    held = "" if chosen.reference.name == "task" else f", held to a {chosen.policy.name} pretrained on it"
    sampled = "" if chosen.batch_size is None else f", batches of {chosen.batch_size}"
    sampled_penalty = chosen.batch_size is not None and chosen.penalty.divergence != "none"
    enters = f", penalty: {describe.entrance(chosen.penalty)}" if sampled_penalty else ""
    found = describe.descends(built.run)
    if chosen.penalty.controller in settings.SCHEDULES:
        enters += f", beta {chosen.penalty.controller} to {chosen.penalty.beta_end:g}"
    elif chosen.penalty.controller != "fixed":
        enters += f", beta steered to KL(pi‖pi_ref) = {chosen.penalty.target_kl:g} ({chosen.penalty.controller})"
    if chosen.reference.update != "none":
        by = f", by {chosen.reference.mixup_alpha:g}" if chosen.reference.update == "ema" else ""
        held += f", whose copy moves to the policy every {chosen.reference.sync_steps} steps ({chosen.reference.update}{by})"
    biased = "" if found.kind == "exact" else f"\nbiased: this penalty descends {found.says}"
    return (
        f"{describe.statement(chosen.penalty, chosen.penalty.beta)}\n"
        f"task {built.resolved['task']['name']} ({size}){held}, policy {chosen.policy.name} "
        f"(init={chosen.policy.init}, support={chosen.policy.support})\n"
        f"{chosen.algorithm.name}, {chosen.steps} steps{sampled}{enters}, {chosen.optimizer.name} at "
        f"{chosen.optimizer.learning_rate:g}, {chosen.dtype}, seed {chosen.seed}{biased}"
        + "".join(f"\n{said}" for said in describe.caveats(built.run))
    )


def line(columns: Mapping[str, Any]) -> str:
    """The last row of a chunk, in one line."""
    last = {key: float(np.asarray(column)[-1]) for key, column in columns.items()}
    return (
        f"step {int(last['step']):>6}  reward {last['reward']:z.4f}  objective {last['objective']:z.4f}  "
        f"regret {_power(last['regret'])}  KL(pi‖pi_ref) {last['kl_pi_ref']:z.4f}  KL(pi_ref‖pi) {last['kl_ref_pi']:z.4f}  "
        f"entropy {last['entropy']:z.4f}"
    )


def _power(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2e}"


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Any]:
    """A callable that takes each chunk's rows: a bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield lambda rows: console.print(line(history(rows)), markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("training", total=steps)

        def update(rows: Row):
            regret = _power(float(rows.report.regret[-1]))
            bar.update(shown, completed=int(rows.step[-1]), description=f"regret {regret}")

        yield update


EVERY = 10.0  # seconds between two lines on a sweep's progress, where there is no terminal


@contextlib.contextmanager
def sweep_progress(runs: int, steps: int, names: Mapping[str, str]) -> Iterator[Any]:
    """A callable that takes what `sweeps.train` tells of `runs` runs of `steps` steps together: a bar on a terminal, a line
    now and then elsewhere. names: the jobs' numbers, by key. Called from several threads."""
    lock, said = threading.Lock(), time.perf_counter()
    done, finished, since = 0, 0, None  # since: when, and after how many steps, the first chunk was there (it compiled, too)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}% of the steps"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    shown = bar.add_task(f"0 of {runs} runs", total=steps)

    def tell(told: Any) -> None:
        nonlocal done, finished, said, since
        with lock:
            done, finished = done + told.steps, finished + told.finished
            for key, step in told.diverged:
                console.print(f"job {names[key]} diverged at step {step}", markup=False)
            bar.update(shown, completed=done, description=f"{finished} of {runs} runs")
            now = time.perf_counter()
            since = since or ((now, done) if told.steps else None)
            if console.is_terminal or now - said < EVERY or since is None or not since[1] < done < steps:
                return
            said = now
            left = (now - since[0]) * (steps - done) / (done - since[1])
            console.print(f"{finished} of {runs} runs, {done:,} of {steps:,} steps, about {_span(left)} left", markup=False)

    with bar:
        yield tell


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def result(graded: Mapping[str, Any], optimum: Mapping[str, float | None]) -> Table:
    """The closing table: the policy beside the exact optimum. Nats, per sequence."""
    unknown = graded.get("optimal_objective_reason")
    reason = None if unknown is None else f"no optimum is known: {unknown}"
    shown = Table(title=f"after {graded['steps']} steps", title_justify="left", caption=reason, caption_justify="left")
    for name in ("", "policy", "exact optimum"):
        shown.add_column(name, justify="left" if not name else "right")
    none = "0" if unknown is None else "-"
    labels = {
        "reward": "E[r]",
        "objective": "objective E[r] - beta D",
        "divergence_value": f"D = {graded['formula']}",
        "kl_pi_ref": "KL(pi‖pi_ref)",
        "kl_ref_pi": "KL(pi_ref‖pi)",
        "entropy": "entropy",
        "effective_support": "effective support",
    }
    for key, name in labels.items():
        if key == "divergence_value" and graded["divergence"] in ("none", "kl_pi_ref", "kl_ref_pi"):
            continue
        shown.add_row(name, _measured(graded, key), number(optimum.get(key)))
    if "gold_reward" in graded:
        shown.add_row("E[gold]", _measured(graded, "gold_reward"), number(graded["optimum_gold_reward"]))
    shown.add_row("KL(pi‖pi*)", _measured(graded, "kl_pi_optimum"), none)
    shown.add_row("regret", _measured(graded, "regret"), none)
    if "gold_regret" in graded:
        shown.add_row("gold regret (against the gold reward's own optimum)", _measured(graded, "gold_regret"), "")
    if "regret_in_family" in graded:
        shown.add_row("regret against the family's best", number(graded["regret_in_family"]), "")
    return shown


def _measured(graded: Mapping[str, Any], key: str) -> str:
    """A value, and its standard error where it was estimated."""
    error = graded.get(f"{key}_stderr") if graded[key] is not None else None
    return number(graded[key]) + ("" if error is None else f" ± {number(error)}")


def of_optimum(built: Built, trained: Trained) -> dict[str, float | None]:
    """The optimum's values under the summary's names; None where there is none."""
    values, objective = trained.closing.optimum_values, float(trained.optimum.objective)
    if values is None:
        return {"objective": None if np.isnan(objective) else objective}
    named: dict[str, Any] = {
        "reward": values.reward,
        "objective": objective,
        "divergence_value": values.divergence,
        "kl_pi_ref": values.kl_pi_ref,
        "kl_ref_pi": values.kl_ref_pi,
        "entropy": values.entropy,
        "effective_support": np.exp(values.entropy),
    }
    clipped = {key: float(metrics.unrounded(key, value)) for key, value in named.items()}
    return {key: None if np.isnan(objective) or np.isnan(value) else value for key, value in clipped.items()}


def over_seeds(groups: Sequence[Any]) -> Table:
    """What `statistics.grouped` found: each measure's interquartile mean, and below it its interval."""
    names = list(groups[0].overrides)
    labels = {"regret": "regret", "reward": "E[r]", "kl_pi_ref": "KL(pi‖pi_ref)", "entropy": "entropy"}
    diverged = any(group.diverged for group in groups)
    title = "interquartile means over seeds, with 95% bootstrap intervals"
    shown = Table(title=title, title_justify="left")
    for name in names:
        shown.add_column(name, overflow="fold")
    for name in ("runs", *(["diverged"] if diverged else []), *labels.values()):
        shown.add_column(name, justify="right", overflow="fold")
    for group in groups:
        counts = [str(group.runs), *([str(group.diverged)] if diverged else [])]
        shown.add_row(*map(visible, group.overrides.values()), *counts, *(_spread(group.spreads[key]) for key in labels))
    return shown


def _spread(found: Any) -> str:
    if found is None:
        return "-"
    interval = "" if np.isnan(found.low) else f"\n{number(found.low)}..{number(found.high)}"
    return number(found.mean) + interval


ROUNDING = 1e-9  # of the optimum's objective, or of 1: how far below 0 an exact regret may be


def doubt(graded: Mapping[str, Any]) -> str | None:
    """Warning where the policy is better than the optimum that it was graded against, by more than rounding; else None."""
    for regret, optimum in (
        ("regret", "optimal_objective"),
        ("decoded_regret", "optimal_objective"),
        ("gold_regret", "gold_optimal_objective"),
    ):
        value, best = graded.get(regret), graded.get(optimum)
        estimated = f"{regret}_stderr" in graded or f"{optimum}_stderr" in graded
        if isinstance(value, float) and isinstance(best, float) and not estimated and value < -ROUNDING * max(1.0, abs(best)):
            return (
                f"{regret} is {value:.3g}, below 0: the optimum shown was found with rounding errors of that size, so this "
                "run's grade is not to be relied on (rewards and coefficient may be too far apart)"
            )
    return None


def number(value: Any) -> str:
    """A number for a table: four digits, small and large ones in powers of ten, a dash for the undefined."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if abs(value) >= 1e5:
        return f"{value:.3e}"
    return f"{value:z.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def brief(graded: Mapping[str, Any]) -> str:
    """One job of a sweep in one line."""
    return (
        f"reward {number(graded['reward'])}  objective {number(graded['objective'])}  optimum "
        f"{number(graded['optimal_objective'])}  regret {number(graded['regret'])}  ({graded['seconds']:.1f} s)"
    )
