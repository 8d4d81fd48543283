"""Tables of a run: its header, its result beside the exact optimum, and interquartile means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from rlkl import settings
from rlkl.config.build import Built
from rlkl.errors import visible
from rlkl.reports.console import number
from rlkl.training import describe


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


def seeds_table(groups: Sequence[Any]) -> Table:
    """What `over_seeds.grouped` found: each measure's interquartile mean, and below it its interval."""
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


def brief(graded: Mapping[str, Any]) -> str:
    """One job of a sweep in one line."""
    return (
        f"reward {number(graded['reward'])}  objective {number(graded['objective'])}  optimum "
        f"{number(graded['optimal_objective'])}  regret {number(graded['regret'])}  ({graded['seconds']:.1f} s)"
    )
