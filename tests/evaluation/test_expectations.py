"""The three ways to know a policy agree: dynamic program and enumeration to rounding, samples within their standard errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.divergences import REGISTRY
from rlkl.evaluation import metrics
from rlkl.evaluation.expectations import DynamicProgram, Enumeration, enumeration, expectations, sequence_expectations
from rlkl.evaluation.sampled_values import Sample, sample
from rlkl.exact import Objective, evaluation_method, methods, optimal_policy
from rlkl.policies import Fixed
from rlkl.tasks import automaton as automata
from tests.helpers import PARAMS, random_rows, random_task, shortened

KEY = jax.random.key(0)


def objective_and_policy(seed: int, name: str = "kl_pi_ref") -> tuple[Objective, Fixed]:
    draw = np.random.default_rng(seed)
    task = jax.tree.map(jnp.asarray, shortened(random_task(draw), 200))
    task = dataclasses.replace(task, gold=jnp.square(task.reward))
    horizon = task.automaton.horizon
    legal = np.broadcast_to(task.automaton.legal, (horizon, *task.automaton.legal.shape))
    reference, policy = (Fixed(jnp.asarray(random_rows(draw, legal)), horizon) for _ in range(2))
    return Objective(task, reference, REGISTRY[name], PARAMS, jnp.asarray(0.3)), policy


def graded(objective: Objective, policy: Fixed, *methods):
    """The report of each method, in one program."""

    def reports(objective, policy):
        best = optimal_policy.solve(objective)._replace(gold_objective=jnp.asarray(1.0))
        return [metrics.report(method(objective, policy), best) for method in methods]

    return jax.jit(reports)(objective, policy)


@pytest.mark.parametrize("name", ["kl_pi_ref", "kl_ref_pi", "hellinger"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_dynamic_program_and_enumeration_agree(seed, name):
    objective, policy = objective_and_policy(seed, name)
    table, listed = map(jax.tree.leaves, graded(objective, policy, DynamicProgram, enumeration))
    assert len(table) == len(listed)
    for one, other in zip(table, listed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    both = DynamicProgram(objective, policy), enumeration(objective, policy)
    np.testing.assert_allclose(*(each.weighted_rows().ends for each in both), atol=1e-12)


@pytest.mark.parametrize("name", ["kl_pi_ref", "hellinger"])
def test_samples_are_within_their_standard_errors_of_the_exact_values(name):
    objective, policy = objective_and_policy(0, name)
    exact, about = graded(objective, policy, DynamicProgram, lambda *both: sample(*both, KEY, 20_000))
    for column in ("objective", "regret", "kl_pi_optimum", "gold_regret"):
        assert 0.0 < about.stderr[column] < 0.2
        assert abs(getattr(about, column) - getattr(exact, column)) <= 4.0 * about.stderr[column], column
    for column in ("reward", "kl_pi_ref", "kl_ref_pi", "entropy", "length", "gold_reward"):
        difference = abs(getattr(about.values, column) - getattr(exact.values, column))
        assert difference <= 4.0 * about.stderr[column] + 1e-12, column


def test_each_is_chosen_where_it_can_be_had(monkeypatch):
    objective, policy = objective_and_policy(0)
    automaton = objective.task.automaton
    without_chain = dataclasses.replace(objective, divergence=REGISTRY["jensen_shannon"])
    assert isinstance(expectations(objective, policy, KEY, 8), DynamicProgram)
    assert isinstance(sequence_expectations(objective, policy, KEY, 8), Enumeration)
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 1)
    assert isinstance(expectations(objective, policy, KEY, 8), DynamicProgram)
    assert isinstance(sequence_expectations(objective, policy, KEY, 8), Sample)
    assert isinstance(expectations(without_chain, policy, KEY, 8), Sample)
    assert "no dynamic program" in methods.why_sampled(without_chain, policy)
    assert evaluation_method(automaton, (policy, objective.reference)) == "dynamic program"  # its rows stay exact
