"""Grades of a run's last state, and of its policy as it is decoded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import exact, policies
from rlkl.evaluation import metrics
from rlkl.evaluation.expectations import expectations, sequence_expectations, weighted_rows
from rlkl.evaluation.final import Outcomes, distances, ends_of_optimum
from rlkl.evaluation.metrics import LAST_SAMPLES
from rlkl.evaluation.rows import Detail, WeightedRows, detail
from rlkl.evaluation.sample import Estimate, Sample
from rlkl.exact import evaluation_method
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import Fixed
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
    distances: dict[str, Estimate]
    decoded: Decoded | None


def grade_last_state(run: Run, optimum: Optimum, state: State) -> FinalGrade:
    """Grade a run's last state in full."""
    task, reference, objective = run.task, run.reference, spec.objective(run, coefficient(run, state))
    automaton = task.automaton
    if run.settings.penalty.controller != "fixed":
        optimum = optimum_at(run, coefficient(run, state))
    policy = cast(state.policy, jnp.float64)
    keys = jax.random.split(jax.random.fold_in(state.key, CLOSING), 4)
    known = expectations(objective, policy, keys[0], LAST_SAMPLES)
    last = row(run, state, metrics.report(known, optimum), keys[3]) if isinstance(known, Sample) else None
    if evaluation_method(automaton, (policy, reference)) == "samples":
        policy_rows = known.weighted_rows()
    else:  # exact, even where the divergence or a reward model has to be sampled
        policy_rows = weighted_rows(task, policy, reference, keys[0], LAST_SAMPLES)
    reference_rows = weighted_rows(task, reference, reference, keys[1], LAST_SAMPLES)
    details, optimum_values = {"reference": detail(reference_rows), "policy": detail(policy_rows)}, None
    if optimum.log_pi is not None:
        best = Fixed(optimum.log_pi, automaton.horizon)
        optimum_rows = weighted_rows(task, best, reference, keys[2], LAST_SAMPLES)
        details["optimum"], optimum_ends = detail(optimum_rows), optimum_rows.ends
        if evaluation_method(automaton, (best, reference)) == "dynamic program":
            optimum_values = exact.values(objective, optimum.log_pi)
    else:
        optimum_ends = ends_of_optimum(automaton, reference, optimum, keys[2])
    decoded, decoded_ends = None, None
    if run.settings.decoding.on:
        decoded, decoded_rows = grade_decoded(run, optimum, state)
        details["decoded"], decoded_ends = detail(decoded_rows), decoded_rows.ends[automaton.outcomes]
    end = automaton.outcomes
    reward = task.reward[end] if task.reward_model is None else jnp.full((len(end),), jnp.nan)
    gold = None if task.gold is None else task.gold[end]
    outcomes = Outcomes(reward, reference_rows.ends[end], policy_rows.ends[end], optimum_ends[end], gold, decoded_ends)
    sequences = known if isinstance(known, Sample) else sequence_expectations(objective, policy, keys[0], LAST_SAMPLES)
    return FinalGrade(optimum, last, optimum_values, outcomes, details, distances(sequences, optimum, keys[3]), decoded)


def grade_decoded(run: Run, optimum: Optimum, state: State) -> tuple[Decoded, WeightedRows]:
    """Grade a run's last policy under its decoding rules, which tells a collapsed policy from one that is decoded sharply."""
    task, policy = run.task, cast(state.policy, jnp.float64)
    cut, keys = policies.decoded(policy, run.settings.decoding), jax.random.split(jax.random.fold_in(state.key, DECODING), 3)
    report = metrics.evaluate(spec.objective(run, coefficient(run, state)), cut, optimum, keys[0], LAST_SAMPLES)
    graded = Decoded(report, *metrics.distance(task.automaton, cut, policy, keys[1], LAST_SAMPLES))
    return graded, weighted_rows(task, cut, run.reference, keys[2], LAST_SAMPLES)


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
