"""Logged rows: the grade of a training state, against the optimum of its objective."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl.evaluation import metrics
from rlkl.exact import optimal_policy, utility
from rlkl.policies import AnyPolicy
from rlkl.policies.base import cast
from rlkl.rollouts import threefry
from rlkl.training import spec
from rlkl.training.sampled_losses import BatchStats
from rlkl.training.spec import Run
from rlkl.training.state import State

ORACLE, GRADING = 1, 2**31 - 1  # folded into random keys; training folds in its steps, from 0


class UtilityGrade(NamedTuple):
    """The mean over prompts of the utility U_G(p), of U_G(p) - beta D, and how far the latter is below its largest value."""

    utility: Float[Array, ""]
    objective: Float[Array, ""]
    regret: Float[Array, ""]


class Row(NamedTuple):
    """One logged row.

    batch_stats: those of the last batch. kl_pi_anchor: KL(pi‖anchor) in nats, where the reference of the penalty moves; else
    None. utility: where it grades the run, else None.
    """

    step: Int[Array, ""]
    report: metrics.Report
    beta: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    batch_stats: BatchStats
    kl_pi_anchor: Float[Array, ""] | None
    utility: UtilityGrade | None = None


def prepare(run: Run, state: State) -> tuple[optimal_policy.Optimum, Row]:
    """The optimum that a run is graded against, and its row at step 0.

    The state is an input because XLA's CPU backend (jaxlib 0.10.2) misreads a network whose zero head is a constant of the
    program that evaluates it.
    """
    optimum = optimum_at(run, jnp.asarray(run.settings.penalty.beta, jnp.float64))
    return optimum, observe(run, optimum, state)


def optimum_at(run: Run, beta: Float[Array, ""]) -> optimal_policy.Optimum:
    """The optimum of the run's objective at coefficient `beta`, with those of the gold reward and of the utility if any."""
    objective, key = spec.objective(run, beta), threefry.key(ORACLE)
    optimum = optimal_policy.solve(objective, run.typical, key)
    group = spec.utility_group(run.settings)
    if group is not None:
        optimum = optimum._replace(utility=utility.solve(group, objective))
    if run.task.gold is None:
        return optimum
    typicality = jnp.zeros_like(jnp.asarray(run.task.typicality))
    gold_task = dataclasses.replace(run.task, reward=run.task.gold, typicality=typicality, reward_model=None)
    gold = optimal_policy.solve(dataclasses.replace(objective, task=gold_task), False, key)
    return optimum._replace(gold_objective=gold.objective, gold_stderr=gold.stderr)


def coefficient(run: Run, state: State) -> Float[Array, ""]:
    """The penalty's current coefficient in float64: the setting itself, or what a controller has made of it."""
    penalty = run.settings.penalty
    return jnp.asarray(penalty.beta if penalty.controller == "fixed" else state.beta, jnp.float64)


def observe(run: Run, optimum: optimal_policy.Optimum, state: State) -> Row:
    """Grade a state in float64 and return its logged row.

    Where the grade is estimated, each step draws its own samples. Where a controller moves beta, the optimum is solved anew.
    """
    beta = coefficient(run, state)
    optimum = optimum if run.settings.penalty.controller == "fixed" else optimum_at(run, beta)
    policy = cast(state.policy, jnp.float64)
    key = jax.random.fold_in(jax.random.fold_in(threefry.wrap(state.key), GRADING), state.step)
    report = metrics.evaluate(spec.objective(run, beta), policy, optimum, key)
    return row(run, state, report, key)._replace(utility=_utility_grade(run, optimum, policy, report, beta))


def _utility_grade(run: Run, optimum, policy: AnyPolicy, report: metrics.Report, beta) -> UtilityGrade | None:
    """The grade by the utility of the success probability (objective=utility); else None."""
    group = spec.utility_group(run.settings)
    if group is None:
        return None
    value = utility.value(group, run.task, policy)
    objective = value - beta * report.values.divergence
    return UtilityGrade(value, objective, optimum.utility.objective - objective)


def row(run: Run, state: State, report: metrics.Report, key: PRNGKeyArray) -> Row:
    """The logged row of a state, given its report; `key` is for KL(pi‖anchor), where that has to be sampled."""
    kl_pi_anchor = None
    if state.anchor is not None:
        policy, anchor = cast((state.policy, state.anchor), jnp.float64)
        kl_pi_anchor, error = metrics.distance(run.task.automaton, policy, anchor, key)
        report = report._replace(stderr=report.stderr | {"kl_pi_anchor": error}) if report.stderr else report
    return Row(state.step, report, coefficient(run, state), state.gradient_norm, state.batch_stats, kl_pi_anchor)
