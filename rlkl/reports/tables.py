"""Format a run's header, its result beside the exact optimum, and interquartile means over seeds."""

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
    """Return the lines printed before training: the objective in full, the task, the policy, the algorithm and caveats."""
    run_settings, automaton = built.run.settings, built.run.task.automaton
    size = f"{automaton.vocabulary} arms" if automaton.horizon == 1 else repr(automaton)
    reference = "" if run_settings.reference.name == "task" else f", reference: a {run_settings.policy.name} pretrained on it"
    sampled = "" if run_settings.batch_size is None else f", batches of {run_settings.batch_size}"
    sampled_penalty = run_settings.batch_size is not None and run_settings.penalty.divergence != "none"
    penalty = f", penalty: {describe.entrance(run_settings.penalty)}" if sampled_penalty else ""
    gradient = describe.descends(built.run)
    if run_settings.penalty.controller in settings.SCHEDULES:
        penalty += f", beta {run_settings.penalty.controller} to {run_settings.penalty.beta_end:g}"
    elif run_settings.penalty.controller != "fixed":
        penalty += f", beta steered to KL(pi‖pi_ref) = {run_settings.penalty.target_kl:g} ({run_settings.penalty.controller})"
    if run_settings.reference.update != "none":
        by = f", by {run_settings.reference.mixup_alpha:g}" if run_settings.reference.update == "ema" else ""
        update = f"{run_settings.reference.update}{by}"
        reference += f", penalising reference moved to the policy every {run_settings.reference.sync_steps} steps ({update})"
    biased = "" if gradient.kind == "exact" else f"\nbiased: this penalty descends {gradient.says}"
    return (
        f"{describe.statement(run_settings.penalty, run_settings.penalty.beta)}\n"
        f"task {built.resolved['task']['name']} ({size}){reference}, policy {run_settings.policy.name} "
        f"(init={run_settings.policy.init}, support={run_settings.policy.support})\n"
        f"{run_settings.algorithm.name}, {run_settings.steps} steps{sampled}{penalty}, {run_settings.optimizer.name} at "
        f"{run_settings.optimizer.learning_rate:g}, {run_settings.dtype}, seed {run_settings.seed}{biased}"
        + "".join(f"\n{caveat}" for caveat in describe.caveats(built.run))
    )


def result(summary: Mapping[str, Any], optimum: Mapping[str, float | None]) -> Table:
    """Return the final table of a run: the policy beside the exact optimum, in nats per sequence.

    optimum: the optimum's values, under the summary's names.
    """
    reason = summary.get("optimal_objective_reason")
    caption = None if reason is None else f"no optimum is known: {reason}"
    table = Table(title=f"after {summary['steps']} steps", title_justify="left", caption=caption, caption_justify="left")
    for name in ("", "policy", "exact optimum"):
        table.add_column(name, justify="left" if not name else "right")
    of_optimum = "0" if reason is None else "-"
    labels = {
        "reward": "E[r]",
        "objective": "objective E[r] - beta D",
        "divergence_value": f"D = {summary['formula']}",
        "kl_pi_ref": "KL(pi‖pi_ref)",
        "kl_ref_pi": "KL(pi_ref‖pi)",
        "entropy": "entropy",
        "effective_support": "effective support",
    }
    for key, name in labels.items():
        if key == "divergence_value" and summary["divergence"] in ("none", "kl_pi_ref", "kl_ref_pi"):
            continue
        table.add_row(name, _measured(summary, key), number(optimum.get(key)))
    if "gold_reward" in summary:
        table.add_row("E[gold]", _measured(summary, "gold_reward"), number(summary["optimum_gold_reward"]))
    table.add_row("KL(pi‖pi*)", _measured(summary, "kl_pi_optimum"), of_optimum)
    table.add_row("regret", _measured(summary, "regret"), of_optimum)
    if "gold_regret" in summary:
        table.add_row("gold regret (against the gold reward's own optimum)", _measured(summary, "gold_regret"), "")
    if "regret_in_family" in summary:
        table.add_row("regret against the family's best", number(summary["regret_in_family"]), "")
    return table


def _measured(summary: Mapping[str, Any], key: str) -> str:
    """Format a value, with its standard error if it was estimated."""
    error = summary.get(f"{key}_stderr") if summary[key] is not None else None
    return number(summary[key]) + ("" if error is None else f" ± {number(error)}")


def seeds_table(groups: Sequence[Any]) -> Table:
    """Return the table of `over_seeds.group_runs`: each measure's interquartile mean, and below it its interval."""
    names = list(groups[0].overrides)
    labels = {"regret": "regret", "reward": "E[r]", "kl_pi_ref": "KL(pi‖pi_ref)", "entropy": "entropy"}
    diverged = any(group.diverged for group in groups)
    title = "interquartile means over seeds, with 95% bootstrap intervals"
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("runs", *(["diverged"] if diverged else []), *labels.values()):
        table.add_column(name, justify="right", overflow="fold")
    for group in groups:
        counts = [str(group.runs), *([str(group.diverged)] if diverged else [])]
        table.add_row(*map(visible, group.overrides.values()), *counts, *(_spread(group.spreads[key]) for key in labels))
    return table


def _spread(spread: Any) -> str:
    if spread is None:
        return "-"
    interval = "" if np.isnan(spread.low) else f"\n{number(spread.low)}..{number(spread.high)}"
    return number(spread.mean) + interval


def brief(summary: Mapping[str, Any]) -> str:
    """Return the result of one job of a sweep as one line."""
    return (
        f"reward {number(summary['reward'])}  objective {number(summary['objective'])}  optimum "
        f"{number(summary['optimal_objective'])}  regret {number(summary['regret'])}  ({summary['seconds']:.1f} s)"
    )
