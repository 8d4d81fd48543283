"""Format a run's header, its result beside the exact optimum, a sweep's jobs, and interquartile means over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from rlkl import settings
from rlkl.errors import visible
from rlkl.reports.console import number

if TYPE_CHECKING:
    from rlkl.config.build import Built

LABELS = {
    "reward": "E[r]",
    "objective": "objective E[r] - beta D",
    "divergence_value": "D",
    "kl_pi_ref": "KL(pi‖pi_ref)",
    "kl_ref_pi": "KL(pi_ref‖pi)",
    "entropy": "entropy",
    "effective_support": "effective support",
}


SEEDS_MEASURES = {"regret": "regret", "reward": "E[r]", "kl_pi_ref": "KL(pi‖pi_ref)", "entropy": "entropy"}


def header(built: "Built") -> str:
    """Return the lines printed before training: the objective in full, the task, the policy, the algorithm and caveats."""
    from rlkl.training import describe  # imports jax

    run_settings, automaton = built.run.settings, built.run.task.automaton
    size = f"{automaton.vocabulary} arms" if automaton.horizon == 1 else repr(automaton)
    size = f"{automaton.prompts} prompts of {size}" if automaton.horizon == 1 and automaton.prompts > 1 else size
    reference = "" if run_settings.reference.name == "task" else f", reference: a {run_settings.policy.name} pretrained on it"
    sampled = "" if run_settings.batch_size is None else f", batches of {run_settings.batch_size}"
    group_size = run_settings.algorithm.group_size
    sampled += f" in groups of {group_size}" if sampled and group_size != run_settings.batch_size else ""
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
        f"{describe.statement(run_settings.penalty, run_settings.penalty.beta, describe.maximised(run_settings))}\n"
        f"task {built.resolved['task']['name']} ({size}){reference}, policy {run_settings.policy.name} "
        f"(init={run_settings.policy.init}, support={run_settings.policy.support})\n"
        f"{run_settings.algorithm.name}, {run_settings.steps} steps{sampled}{penalty}, {run_settings.optimizer.name} at "
        f"{run_settings.optimizer.learning_rate:g}, {run_settings.dtype}, seed {run_settings.seed}{biased}"
        + "".join(f"\n{caveat}" for caveat in describe.caveats(built.run))
    )


def objective(summary: Mapping[str, Any]) -> str:
    """Return a run's objective as a formula, as in `E[r] - 0.1 KL(pi‖pi_ref)`."""
    beta = "beta" if summary["beta"] is None else f"{summary['beta']:g}"
    return "E[r]" if summary["divergence"] == "none" else f"E[r] - {beta} {summary['formula']}"


def headline(summary: Mapping[str, Any]) -> str:
    """Return a finished run in one line: its task, policy, algorithm and seed, and the step at which it diverged if it did."""
    seed = f", seed {summary['seed']}" if "seed" in summary else ""
    diverged = "" if summary["diverged_at"] is None else f"; it diverged at step {summary['diverged_at']}"
    return f"{summary['task']}, policy {summary['policy']}, {summary['algorithm']}{seed}{diverged}"


def result_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of a run's final table: a measure's name, the policy's value and the exact optimum's."""
    rows = []
    for key, name in LABELS.items():
        best = number(summary.get("optimal_objective" if key == "objective" else f"optimum_{key}"))
        if key == "divergence_value" and summary["divergence"] in ("none", "kl_pi_ref", "kl_ref_pi"):
            continue
        name = f"D = {summary['formula']}" if key == "divergence_value" else name
        rows.append((name, measured(summary, key), best))
    of_optimum = "-" if "optimal_objective_reason" in summary else "0"
    if "gold_reward" in summary:
        rows.append(("E[gold]", measured(summary, "gold_reward"), number(summary.get("optimum_gold_reward"))))
    rows.append(("KL(pi‖pi*)", measured(summary, "kl_pi_optimum"), of_optimum))
    rows.append(("regret", measured(summary, "regret"), of_optimum))
    if "utility" in summary:
        best = number(summary.get("optimal_utility_objective"))
        rows.append(("utility's objective E[U(p)] - beta D", measured(summary, "utility_objective"), best))
        rows.append(("regret in the utility's objective", measured(summary, "utility_regret"), "0"))
    if "gold_regret" in summary:
        rows.append(("gold regret (against the gold reward's own optimum)", measured(summary, "gold_regret"), ""))
    if "regret_in_family" in summary:
        rows.append(("regret against the family's best", number(summary["regret_in_family"]), ""))
    return rows


def no_optimum(summary: Mapping[str, Any]) -> str | None:
    """Return the note on why no optimum is known, None where one is."""
    reason = summary.get("optimal_objective_reason")
    return None if reason is None else f"no optimum is known: {reason}"


def result(summary: Mapping[str, Any]) -> Table:
    """Return the final table of a run: the policy beside the exact optimum, in nats per sequence."""
    title, caption = f"after {summary['steps']} steps", no_optimum(summary)
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in ("", "policy", "exact optimum"):
        table.add_column(name, justify="left" if not name else "right")
    for row in result_rows(summary):
        table.add_row(*row)
    return table


def measured(summary: Mapping[str, Any], key: str) -> str:
    """Format a value, with its standard error if it was estimated."""
    error = summary.get(f"{key}_stderr") if summary[key] is not None else None
    return number(summary[key]) + ("" if error is None else f" ± {number(error)}")


def seeds_table(groups: Sequence[Any]) -> Table:
    """Return the table of `over_seeds.group_runs`: each measure's interquartile mean, and below it its interval."""
    names = list(groups[0].overrides)
    diverged = any(group.diverged for group in groups)
    title = "interquartile means over seeds, with 95% bootstrap intervals"
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("runs", *(["diverged"] if diverged else []), *SEEDS_MEASURES.values()):
        table.add_column(name, justify="right", overflow="fold")
    for group in groups:
        counts = [str(group.runs), *([str(group.diverged)] if diverged else [])]
        spreads = ("\n".join(spread(group.spreads[key])) for key in SEEDS_MEASURES)
        table.add_row(*map(visible, group.overrides.values()), *counts, *spreads)
    return table


def spread(value: Any) -> list[str]:
    """Format an `over_seeds.Spread`: its mean, and its interval where it has one."""
    if value is None:
        return ["-"]
    return [number(value.mean), *([] if math.isnan(value.low) else [f"{number(value.low)}..{number(value.high)}"])]


JOB_MEASURES = {
    "reward": "E[r]",
    "objective": "objective",
    "regret": "regret",
    "kl_pi_ref": "KL(pi‖pi_ref)",
    "entropy": "entropy",
}


def jobs_table(jobs: Sequence[tuple[str, Mapping[str, str], Mapping[str, Any]]]) -> Table:
    """Return the table of a sweep's jobs. jobs: each one's name, the overrides in which jobs differ, and its summary."""
    diverged = any(summary["diverged_at"] is not None for _, _, summary in jobs)
    table = Table("job", title="jobs of the sweep", title_justify="left")
    keys = list(jobs[0][1]) if jobs else []
    for key in keys:
        table.add_column(key, overflow="fold")
    for name in (*JOB_MEASURES.values(), *(["diverged at step"] if diverged else [])):
        table.add_column(name, justify="right", overflow="fold")
    for name, overrides, summary in jobs:
        step = "" if summary["diverged_at"] is None else str(summary["diverged_at"])
        cells = [visible(overrides[key]) for key in keys] + [measured(summary, key) for key in JOB_MEASURES]
        table.add_row(name, *cells, *([step] if diverged else []))
    return table


def brief(summary: Mapping[str, Any]) -> str:
    """Return the result of one job of a sweep as one line."""
    return (
        f"reward {number(summary['reward'])}  objective {number(summary['objective'])}  optimum "
        f"{number(summary['optimal_objective'])}  regret {number(summary['regret'])}  ({summary['seconds']:.1f} s)"
    )
