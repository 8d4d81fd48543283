"""Matched coefficients against closed forms, and against the optimum and its values by dynamic programming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact, tasks
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.exact import Objective, matching, optimal_policy
from rlkl.policies import Fixed
from rlkl.tasks.bandits import bandit
from tests.helpers import PARAMS, random_task

KL_PI_REF, KL_REF_PI = REGISTRY["kl_pi_ref"], REGISTRY["kl_ref_pi"]


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


def test_two_arms_have_their_odds_by_hand():
    p, wanted = 0.2, np.array([0.3, 0.5, 0.9])  # rewards 0 and 1: E[r] = pi(1), and log odds rise by 1/beta
    expected = 1.0 / (np.log(wanted / (1 - wanted)) - np.log(p / (1 - p)))
    np.testing.assert_allclose(
        matching.betas(bandit([0.0, 1.0], [1 - p, p]), KL_PI_REF, wanted, "reward"), expected, rtol=1e-10
    )


def test_under_the_other_direction_too():
    p, pi = 0.2, 0.5  # beta p / (L - r) of both arms: beta = 1 / ((1 - p)/(1 - pi) - p/pi)
    task = bandit([0.0, 1.0], [1 - p, p])
    beta = 1.0 / ((1 - p) / (1 - pi) - p / pi)
    kl = (1 - p) * np.log((1 - p) / (1 - pi)) + p * np.log(p / pi)
    for quantity in ("kl_ref_pi", "divergence"):
        np.testing.assert_allclose(matching.betas(task, KL_REF_PI, kl, quantity), [beta], rtol=1e-10)


@pytest.mark.parametrize("typicality", [0.0, 0.4])
def test_the_optimum_at_a_matched_beta_has_the_wanted_kl(typicality):
    draw = np.random.default_rng(1)
    p, r, wanted = draw.dirichlet(np.ones(6)), draw.normal(size=6), np.array([0.05, 0.2, 0.4])
    found = matching.betas(bandit(r, p, typicality), KL_PI_REF, wanted)
    for beta, kl in zip(found, wanted, strict=True):
        pi = softmax((1 + typicality / beta) * np.log(p) + r / beta)
        np.testing.assert_allclose(pi @ np.log(pi / p), kl, rtol=1e-9)


def test_an_arm_that_the_reference_never_takes_is_no_matter():
    p, r = np.array([0.6, 0.0, 0.4]), np.array([0.0, 3.0, 1.0])
    beta = matching.betas(bandit(r, p), KL_PI_REF, 0.1)[0]
    pi = softmax(np.log(p[[0, 2]]) + r[[0, 2]] / beta)
    np.testing.assert_allclose(pi @ np.log(pi / p[[0, 2]]), 0.1, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("kl_pi_ref", "reward"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("kl_pi_ref", "kl_pi_ref"), ("kl_ref_pi", "kl_pi_ref"), ("pearson", "divergence"))
        ),
    ],
)
def test_sequences_are_matched_as_the_dynamic_programs_measure_them(name, quantity):
    task, div = random_task(np.random.default_rng(7)), REGISTRY[name]
    assert task.automaton.horizon > 1
    on_device = jax.tree.map(jnp.asarray, task)
    reference = Fixed(on_device.log_reference, task.automaton.horizon)
    measured = {"divergence": div, "reward": None}.get(quantity, REGISTRY.get(quantity))

    @jax.jit
    def value(beta):
        log_pi = optimal_policy.solve(Objective(on_device, reference, div, PARAMS, beta)).log_pi
        if measured is None:
            return exact.objective_value(
                Objective(on_device, Fixed(log_pi, on_device.automaton.horizon), None, PARAMS, beta), log_pi
            )
        return exact.sequence_divergence(task.automaton, measured, PARAMS, log_pi, reference.table())

    wanted = float(value(jnp.asarray(0.7)))
    found = matching.betas(task, div, wanted, quantity)
    assert found.shape == (1,)
    np.testing.assert_allclose(value(jnp.asarray(found[0])), wanted, rtol=1e-6)
    np.testing.assert_allclose(found[0], 0.7, rtol=1e-6)


def test_where_two_arms_swap():
    task = bandit([0.75, 1.0, 0.0], [0.3, 0.1, 0.6])  # they weigh the same where the gap in reward over beta is log 3
    found = matching.betas(task, KL_PI_REF, 0.0, lambda log_pi: log_pi[1] - log_pi[0])
    np.testing.assert_allclose(found, [0.25 / np.log(3.0)], rtol=1e-10)


def test_what_no_optimum_has_is_refused_with_the_range():
    task = bandit([0.0, 1.0], [0.8, 0.2])
    for wanted, quantity in ((1.7, "kl_pi_ref"), (-0.1, "kl_pi_ref"), (1.01, "reward"), (0.1, "reward")):
        with pytest.raises(SettingsError, match=f"targets={wanted}: no optimum has this {quantity}: they span"):
            matching.betas(task, KL_PI_REF, [0.3, wanted], quantity)


def test_a_jump_is_refused():
    with pytest.raises(SettingsError, match="it jumps there"):
        matching.betas(bandit([0.0, 1.0], [0.8, 0.2]), REGISTRY["total_variation"], 0.5, "reward")


def test_bad_questions_are_refused():
    with pytest.raises(SettingsError, match="quantity='entropy'"):
        matching.betas(bandit([0.0, 1.0], [0.8, 0.2]), KL_PI_REF, 0.1, "entropy")
    with pytest.raises(SettingsError, match=r"task\.reward=.*every beta"):
        matching.betas(bandit([1.0, 1.0], [0.8, 0.2]), KL_PI_REF, 0.1)
    with pytest.raises(SettingsError, match=r"task\.typicality=0\.5"):
        matching.betas(random_task(np.random.default_rng(7), 0.5), KL_PI_REF, 0.1)


def test_a_thousand_arms_take_many_wants_at_once():
    task = tasks.build("bandit/zipf").task
    wanted = np.linspace(0.1, 3.0, 8)
    found = matching.betas(task, KL_PI_REF, wanted)
    assert np.all(np.diff(found) < 0.0)
    p = np.exp(task.log_reference[0])
    for beta, kl in zip(found, wanted, strict=True):
        pi = softmax(np.log(p) + task.reward[1:] / beta)
        np.testing.assert_allclose(pi @ np.log(pi / p), kl, rtol=1e-8)
