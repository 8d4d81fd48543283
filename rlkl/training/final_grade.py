"""Grades of a run's last state, and of its policy as it is decoded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import exact, policies
from rlkl.evaluation import metrics
from rlkl.evaluation.final import (
    Detail,
    Outcomes,
    WeightedRows,
    _ends_of_optimum,
    detail,
    distances,
    weighted_rows,
    weighted_rows_along,
)
from rlkl.evaluation.metrics import LAST_SAMPLES
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import Fixed, Policy
from rlkl.policies.base import cast
from rlkl.training import spec
from rlkl.training.loop import Row, State, coefficient, optimum_at, row
from rlkl.training.spec import Run

CLOSING, DECODING = 2**31 - 2, 2**31 - 4  # purposes of keys; steps count from 0
GRID, ZOOMS = 65, 8  # of the search for a family's best member: its box shrinks 16-fold a time


class Decoded(NamedTuple):
    """The policy as it is decoded: graded as a policy of its own, and its KL(decoded‖policy) with a standard error (0 where
    exact)."""

    report: metrics.Report
    kl_policy: Float[Array, ""]
    kl_policy_stderr: Float[Array, ""]


class FinalGrade(NamedTuple):
    """What a run is graded by at its end.

    optimum: at the coefficient that the run ended with. last: where rows are sampled, its last row of more samples; else
    None. optimum_values: None where the optimum is no table. details: of reference, policy, and the optimum where it is a
    table, and of the policy as decoded where a rule is set. distances: to the optimum, with standard errors. Of a network whose
    sequences cannot be listed, end states and details are frequencies in LAST_SAMPLES sequences.
    """

    optimum: Optimum
    last: Row | None
    optimum_values: exact.Values | None
    outcomes: Outcomes
    details: dict[str, Detail]
    distances: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
    decoded: Decoded | None


def grade_last_state(run: Run, optimum: Optimum, state: State) -> FinalGrade:
    """Grade a run's last state in full."""
    task, reference, objective = run.task, run.reference, spec.objective(run, coefficient(run, state))
    if run.settings.penalty.controller != "fixed":
        optimum = optimum_at(run, coefficient(run, state))
    policy = cast(state.policy, jnp.float64)
    keys = jax.random.split(jax.random.fold_in(state.key, CLOSING), 4)
    sampled, last = metrics.evaluation_method(objective, policy) == "sampled", None
    if sampled:
        drawn = metrics.sample(task.automaton, policy, reference, keys[0], LAST_SAMPLES)
        last = sampled_row(run, optimum, state, drawn, keys[3])
        own = weighted_rows_along(task, drawn.own, drawn.here)
    else:
        drawn, own = None, weighted_rows(task, policy, reference, keys[0])
    base = weighted_rows(task, reference, reference, keys[1])
    details, values = {"reference": detail(base), "policy": detail(own)}, None
    if optimum.log_pi is not None:
        best = weighted_rows(task, Fixed(optimum.log_pi, task.automaton.horizon), reference, keys[2])
        details["optimum"], best_ends = detail(best), best.ends
        if isinstance(reference, Policy):
            values = exact.values(objective, optimum.log_pi)
    else:
        best_ends = _ends_of_optimum(task, reference, optimum, keys[2])
    at = task.automaton.outcomes
    gold, decoded, ends = None if task.gold is None else task.gold[at], None, None
    if run.settings.decoding.on:
        decoded, cut = grade_decoded(run, optimum, state)
        details["decoded"], ends = detail(cut), cut.ends[at]
    earned = task.reward[at] if task.reward_model is None else jnp.full((len(at),), jnp.nan)
    outcomes = Outcomes(earned, base.ends[at], own.ends[at], best_ends[at], gold, ends)
    apart = distances(objective, policy, optimum, keys[3], drawn)
    return FinalGrade(optimum, last, values, outcomes, details, apart, decoded)


def grade_decoded(run: Run, optimum: Optimum, state: State) -> tuple[Decoded, WeightedRows]:
    """A run's last policy graded under its decoding rules: whether it has collapsed, or is only decoded sharply."""
    task, policy = run.task, cast(state.policy, jnp.float64)
    cut, keys = policies.decoded(policy, run.settings.decoding), jax.random.split(jax.random.fold_in(state.key, DECODING), 3)
    report = metrics.evaluate(spec.objective(run, coefficient(run, state)), cut, optimum, keys[0], LAST_SAMPLES)
    away, error = metrics.distance(task.automaton, cut, policy, keys[1], LAST_SAMPLES)
    graded = Decoded(report, away, jnp.zeros(()) if error is None else error)
    return graded, weighted_rows(task, cut, run.reference, keys[2])


def sampled_row(run: Run, optimum: Optimum, state: State, drawn: metrics.Sample, key: PRNGKeyArray) -> Row:
    """The row of a state, from sequences that were drawn already; `key` as in `loop.row`."""
    return row(run, state, metrics.estimate(spec.objective(run, coefficient(run, state)), drawn, optimum), key)


def best_in_family(run: Run) -> Float[Array, ""]:
    """The largest objective that a restricted family reaches, by a grid over its box that zooms in on its best cell."""
    family, objective = policies.REGISTRY[run.settings.policy.name], spec.objective(run, run.settings.penalty.beta)
    allowed = spec.support(run)
    assert family.bounds is not None
    assert family.member is not None
    member = family.member
    low, high = family.bounds(run.task)
    ticks = jnp.linspace(0.0, 1.0, GRID)
    unit = jnp.stack(jnp.meshgrid(*[ticks] * low.size, indexing="ij"), axis=-1).reshape(-1, low.size)

    def worth(vector):
        return exact.objective_value(objective, member(run.task, allowed, vector).table())

    def zoom(_, box):
        low, high = box
        grid = low[None, :] + unit * (high - low)[None, :]
        best = grid[jnp.argmax(jax.lax.map(worth, grid, batch_size=256))]
        reach = 2.0 * (high - low) / (GRID - 1)
        return best - reach, best + reach

    low, high = jax.lax.fori_loop(0, ZOOMS, zoom, (low, high))
    return worth(0.5 * (low + high))
