"""The final grade of a run: of its last policy, and of that policy under the run's decoding rules."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import exact, policies
from rlkl.evaluation import metrics
from rlkl.evaluation.diversity import Estimate
from rlkl.evaluation.expectations import DynamicProgram, expectations, sequence_expectations, weighted_rows
from rlkl.evaluation.final import Outcomes, distances, ends_of_optimum
from rlkl.evaluation.metrics import LAST_SAMPLES
from rlkl.evaluation.prompt_grades import PromptGrades, prompt_grades
from rlkl.evaluation.rows import Detail, WeightedRows, detail
from rlkl.evaluation.sampled_values import Sample
from rlkl.exact import evaluation_method
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import Fixed
from rlkl.policies.base import cast
from rlkl.rollouts import threefry
from rlkl.training import spec
from rlkl.training.observe import Row, coefficient, optimum_at, row
from rlkl.training.spec import Run
from rlkl.training.state import State

FINAL, DECODING = 2**31 - 2, 2**31 - 4  # folded into random keys; training folds in its steps, from 0
GRID, ZOOMS = 65, 8  # points per axis and rounds of the search of `best_in_family`; each round shrinks its box 16-fold


class Decoded(NamedTuple):
    """The grade of the decoded policy, and KL(decoded‖policy) with its standard error (0 where it is exact)."""

    report: metrics.Report
    kl_policy: Float[Array, ""]
    kl_policy_stderr: Float[Array, ""]


class FinalGrade(NamedTuple):
    """The final grade of a run.

    optimum: the optimum at the run's last coefficient. last: the last logged row, graded again with LAST_SAMPLES samples; None
    where rows are exact. optimum_values: the optimum's values; None where it is not a table. details: `Detail` of "reference",
    "policy", "optimum" (where it is a table) and "decoded" (where a decoding rule is set). distances: to the optimum, with
    standard errors. prompts: the grade for each prompt, if there are several. For a network with too many sequences to
    enumerate, outcomes and details are estimated from LAST_SAMPLES sequences.
    """

    optimum: Optimum
    last: Row | None
    optimum_values: exact.Values | None
    outcomes: Outcomes
    details: dict[str, Detail]
    distances: dict[str, Estimate]
    decoded: Decoded | None
    prompts: PromptGrades | None


def grade_last_state(run: Run, optimum: Optimum, state: State) -> FinalGrade:
    """The final grade of a run from its last state."""
    task, reference, objective = run.task, run.reference, spec.objective(run, coefficient(run, state))
    automaton = task.automaton
    if run.settings.penalty.controller != "fixed":
        optimum = optimum_at(run, coefficient(run, state))
    policy = cast(state.policy, jnp.float64)
    keys = jax.random.split(jax.random.fold_in(threefry.wrap(state.key), FINAL), 4)
    policy_expectations = expectations(objective, policy, keys[0], LAST_SAMPLES)
    is_sampled = isinstance(policy_expectations, Sample)
    last = row(run, state, metrics.report(policy_expectations, optimum), keys[3]) if is_sampled else None
    if evaluation_method(automaton, (policy, reference)) == "samples":
        policy_rows = policy_expectations.weighted_rows()
    else:  # exact, even where the divergence or a reward model has to be sampled
        policy_rows = weighted_rows(task, policy, reference, keys[0], LAST_SAMPLES)
    reference_rows = weighted_rows(task, reference, reference, keys[1], LAST_SAMPLES)
    details, optimum_values = {"reference": detail(reference_rows), "policy": detail(policy_rows)}, None
    if optimum.log_pi is not None:
        optimal = Fixed(optimum.log_pi, automaton.horizon)
        optimum_rows = weighted_rows(task, optimal, reference, keys[2], LAST_SAMPLES)
        details["optimum"], optimum_ends = detail(optimum_rows), optimum_rows.ends
        if evaluation_method(automaton, (optimal, reference)) == "dynamic program":
            optimum_values = exact.values(objective, optimum.log_pi)
    else:
        optimum_ends = ends_of_optimum(automaton, reference, optimum, keys[2])
    decoded, decoded_ends = None, None
    if run.settings.decoding.on:
        decoded, decoded_rows = grade_decoded(run, optimum, state)
        details["decoded"], decoded_ends = detail(decoded_rows), decoded_rows.ends[automaton.outcomes]
    ends = automaton.outcomes
    reward = task.reward[ends] if task.reward_model is None else jnp.full((len(ends),), jnp.nan)
    gold = None if task.gold is None else task.gold[ends]
    outcomes = Outcomes(reward, reference_rows.ends[ends], policy_rows.ends[ends], optimum_ends[ends], gold, decoded_ends)
    prompts = None
    if automaton.prompts > 1:
        of_states = {"policy": policy_rows.ends, "reference": reference_rows.ends, "optimum": optimum_ends}
        prompts = prompt_grades(policy_expectations, optimum, of_states)
    if isinstance(policy_expectations, DynamicProgram):
        policy_expectations = sequence_expectations(objective, policy, keys[0], LAST_SAMPLES)
    to_optimum = distances(policy_expectations, optimum, keys[3])
    return FinalGrade(optimum, last, optimum_values, outcomes, details, to_optimum, decoded, prompts)


def grade_decoded(run: Run, optimum: Optimum, state: State) -> tuple[Decoded, WeightedRows]:
    """The grade of a run's last policy under its decoding rules, and the decoded policy's weighted rows."""
    task, policy = run.task, cast(state.policy, jnp.float64)
    decoded = policies.decoded(policy, run.settings.decoding)
    keys = jax.random.split(jax.random.fold_in(threefry.wrap(state.key), DECODING), 3)
    report = metrics.evaluate(spec.objective(run, coefficient(run, state)), decoded, optimum, keys[0], LAST_SAMPLES)
    grade = Decoded(report, *metrics.distance(task.automaton, decoded, policy, keys[1], LAST_SAMPLES))
    return grade, weighted_rows(task, decoded, run.reference, keys[2], LAST_SAMPLES)


def best_in_family(run: Run) -> Float[Array, ""]:
    """The largest objective in a restricted policy family, by grid search that zooms in on the best point of its box."""
    family, objective = policies.REGISTRY[run.settings.policy.name], spec.objective(run, run.settings.penalty.beta)
    allowed = spec.support(run)
    assert family.bounds is not None
    assert family.member is not None
    member = family.member
    low, high = family.bounds(run.task)
    ticks = jnp.linspace(0.0, 1.0, GRID)
    unit = jnp.stack(jnp.meshgrid(*[ticks] * low.size, indexing="ij"), axis=-1).reshape(-1, low.size)

    def value(vector):
        return exact.objective_value(objective, member(run.task, allowed, vector).table())

    def zoom(_, box):
        low, high = box
        grid = low[None, :] + unit * (high - low)[None, :]
        best = grid[jnp.argmax(jax.lax.map(value, grid, batch_size=256))]
        half_width = 2.0 * (high - low) / (GRID - 1)
        return best - half_width, best + half_width

    low, high = jax.lax.fori_loop(0, ZOOMS, zoom, (low, high))
    return value(0.5 * (low + high))
