"""The utility of the success probability that group-standardised advantages maximise, against enumeration of groups."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from rlkl import exact, tasks
from rlkl.config.build import build
from rlkl.divergences import REGISTRY, Params
from rlkl.errors import SettingsError
from rlkl.exact import Objective, optimal_policy, utility
from rlkl.exact.utility import Group, PassAtK
from rlkl.policies import Fixed
from rlkl.policies.tabular import Tabular
from rlkl.training import exact_losses, loop, spec
from tests.helpers import DEFINITIONS, KINKED, PARAMS, random_rows
from tests.training.test_algorithms import expected_gradient

SIZES = [2, 3, 8, 16]


def logit(p):
    return jnp.asarray(np.log(p) - np.log1p(-np.asarray(p)))


def by_groups(size: int, p: float, std: str) -> float:
    """E over groups of the mean of A (r - p)/(p(1 - p)), the score of p, by the sum over the number of successes."""
    total = 0.0
    for k in range(1, size):
        m = k / size
        deviation = math.sqrt(m * (1 - m) * (1.0 if std == "population" else size / (size - 1)))
        gained = (k * (1 - m) / deviation / p + (size - k) * m / deviation / (1 - p)) / size
        total += math.comb(size, k) * p**k * (1 - p) ** (size - k) * gained
    return total


@pytest.mark.parametrize("std", ["population", "sample"])
@pytest.mark.parametrize("size", SIZES)
def test_the_slope_is_the_expected_gradient_of_a_group(size, std):
    for p in (1e-6, 0.1, 0.5, 0.99):
        expected = by_groups(size, p, std)
        np.testing.assert_allclose(utility.slope(Group(size, std), logit(p)), expected, rtol=1e-12)
        per_logit = jax.grad(lambda x: utility.utility(Group(size, std), x))(logit(p))
        np.testing.assert_allclose(per_logit, expected * p * (1 - p), rtol=1e-12)


def test_the_utility_is_the_integral_of_its_slope():
    for group in (Group(2), Group(8), Group(64, "population"), Group(None), PassAtK(1), PassAtK(5)):
        area, _ = scipy.integrate.quad(lambda p, group=group: float(utility.slope(group, logit(p))), 0.1, 0.9, epsabs=1e-12)
        ends = [float(utility.utility(group, logit(p))) for p in (0.1, 0.9)]
        np.testing.assert_allclose(ends[1] - ends[0], area, rtol=1e-11)
    np.testing.assert_allclose(utility.utility(Group(2, "population"), logit(0.3)), 0.3, rtol=1e-14)
    np.testing.assert_allclose(utility.utility(Group(None), logit(0.3)), 2 * math.asin(math.sqrt(0.3)), rtol=1e-14)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
@pytest.mark.parametrize("std", ["population", "sample"])
def test_the_training_loss_descends_the_utility(name, std):
    """Every group of 3 of four arms, two of them successes, through the losses that training uses."""
    task = {"name": "bandit/custom", "reward": [0.0, 1.0, 1.0, 0.0], "reference": [0.4, 0.1, 0.2, 0.3]}
    algorithm = {"name": name, "scale_advantages": "group", "std": std}
    penalty = {"estimator": "full", "placement": "loss", "beta": 0.7, "allow_biased": True}
    made = build({"task": task, "algorithm": algorithm, "penalty": penalty, "policy": {"init": "random"}, "batch_size": 3,
                  "dtype": "float64", "objective": "utility"})  # fmt: skip
    run = jax.tree.map(jnp.asarray, made.run)
    policy = jax.jit(loop.start)(run).policy
    group = spec.utility_group(run.settings)
    assert group == Group(3, std)

    def exact_loss(logits):
        moved = Tabular(logits, policy.support)
        return exact_losses.loss(run.settings.algorithm, spec.objective(run), moved, group)

    expected = jax.jit(jax.grad(exact_loss))(policy.logits)
    np.testing.assert_allclose(expected_gradient(run, policy, 3), expected, atol=1e-10)


def best_p(group: Group, name: str, v: float, beta: float) -> tuple[float, float]:
    """The maximum of U - beta D and its p, by plain search over the log-odds: D of two outcomes, U as the integral above."""
    x = np.linspace(math.log(v / (1 - v)) - 1.0, 60.0, 200_001)
    u = np.asarray(utility.utility(group, jnp.asarray(x)))
    p, q = scipy.special.expit(x), scipy.special.expit(-x)
    pi, ref = np.stack([p, q]), np.broadcast_to(np.array([[v], [1 - v]]), (2, x.size))
    kl = np.sum(pi * np.log(pi / ref), axis=0) if name == "kl_pi_ref" else np.sum(ref * np.log(ref / pi), axis=0)
    values = u - beta * (kl if name.startswith("kl") else np.sum((pi - ref) ** 2 / ref, axis=0))
    return float(p[np.argmax(values)]), float(values.max())


@pytest.mark.parametrize("name", ["kl_pi_ref", "kl_ref_pi", "pearson"])
@pytest.mark.parametrize("size", [2, 8, None])
def test_the_optimum_is_that_of_a_plain_search(name, size):
    group = Group(size, "population")
    solve = jax.jit(lambda x, beta: utility.solve_success(group, REGISTRY[name], PARAMS, x, beta))
    for v, beta in ((0.1, 1.0), (0.3, 0.5), (0.02, 2.0)):
        best, value = solve(logit(v), jnp.asarray(beta))
        p, largest = best_p(group, name, v, beta)
        assert value >= largest - 1e-12
        np.testing.assert_allclose(value, largest, atol=1e-7)
        np.testing.assert_allclose(jax.nn.sigmoid(best), p, atol=1e-3)


def test_theory_s_numbers():
    """Section 6 of the theory: the slope at p = .1, and fixed points of an infinite group."""
    for size, number in {2: 1.0, 4: 1.690, 8: 2.328, 16: 2.848, 64: 3.255, None: 3.333}.items():
        np.testing.assert_allclose(utility.slope(Group(size, "population"), logit(0.1)), number, atol=5e-4)

    @partial(jax.jit, static_argnums=0)
    def solve(name, beta):
        return utility.solve_success(Group(None), REGISTRY[name], Params(), logit(0.1), beta)

    best, _ = solve("kl_pi_ref", 1.0)
    np.testing.assert_allclose(jax.nn.sigmoid(best), 0.45305, atol=5e-6)
    best, _ = solve("kl_ref_pi", 0.04)
    larger = max(np.roots([1 + 0.04**-2, -(0.2 + 0.04**-2), 0.01]))  # its quadratic; it prints .0012944 for .0012940
    np.testing.assert_allclose(jax.nn.sigmoid(-best), 1 - larger, atol=1e-12)
    best, value = solve("kl_pi_ref", 0.3)
    assert best == np.inf
    np.testing.assert_allclose(value, math.pi - 0.3 * math.log(10), rtol=1e-14)


def test_no_policy_is_better_than_the_optimum():
    """On a task of three prompts, against random policies and small changes of the optimum; and its value is its own."""
    draw = np.random.default_rng(0)
    task = jax.tree.map(jnp.asarray, tasks.build("bandit/prompts", prompts=3, size=4, lowest=0.05).task)
    group, reference = Group(8), Fixed(task.log_reference, 1)

    @jax.jit
    def value(objective, table):
        divergence = exact.sequence_divergence(task.automaton, objective.divergence, PARAMS, table, reference.table())
        return utility.value(group, task, Fixed(table, 1)) - objective.beta * divergence

    for name in ("kl_pi_ref", "kl_ref_pi", "hellinger"):
        objective = Objective(task, reference, REGISTRY[name], PARAMS, jnp.asarray(0.4))
        optimum = jax.jit(lambda objective: utility.solve(group, objective))(objective)
        np.testing.assert_allclose(value(objective, optimum.log_pi), optimum.objective, rtol=1e-12)
        for scale in (0.01, 0.3, 3.0):
            for _ in range(20):
                moved = jax.nn.log_softmax(optimum.log_pi + scale * jnp.asarray(draw.normal(size=(1, 3, 4))), axis=-1)
                assert value(objective, moved) <= optimum.objective + 1e-12
        assert value(objective, jnp.asarray(random_rows(draw, np.ones((1, 3, 4), bool)))) < optimum.objective


def test_a_group_of_two_makes_the_utility_the_reward():
    task = jax.tree.map(jnp.asarray, tasks.build("bandit/prompts", prompts=3, size=4).task)
    objective = Objective(task, Fixed(task.log_reference, 1), REGISTRY["kl_pi_ref"], PARAMS, jnp.asarray(0.2))
    by_utility, by_reward = jax.jit(
        lambda objective: (utility.solve(Group(2, "population"), objective), optimal_policy.solve(objective))
    )(objective)
    np.testing.assert_allclose(by_utility.objective, by_reward.objective, rtol=1e-12)
    np.testing.assert_allclose(np.exp(by_utility.log_pi), np.exp(by_reward.log_pi), atol=1e-8)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"task": {"name": "bandit/random"}}, "a reward of two values"),
        ({"penalty": {"divergence": "none", "beta": 0.0}}, "where there is no penalty"),
        ({"algorithm": {"name": "rloo"}}, "divided by their group's standard deviation"),
        ({"algorithm": {"name": "grpo"}, "penalty": {"estimator": "k1"}}, "a penalty in the loss"),
        ({"algorithm": {"name": "natural"}}, "divided by their group's standard deviation"),
        ({"reward_shaping": {"name": "typicality", "weight": 0.1}}, "of the task's own reward"),
    ],
    ids=str,
)
def test_what_has_no_utility_is_refused(groups, words):
    plain = {"task": {"name": "bandit/prompts"}, "algorithm": {"name": "exact"}, "objective": "utility"}
    with pytest.raises(SettingsError, match=words):
        build(plain | groups)


def test_every_definition_of_the_two_valued_problem_has_its_slope():
    for name in DEFINITIONS:
        if name in KINKED:
            continue
        x, h = logit(0.3), 1e-5

        def divergence(p, name=name):
            return DEFINITIONS[name](np.array([p, 1 - p]), np.array([0.1, 0.9]))

        difference = (divergence(0.3 + h) - divergence(0.3 - h)) / (2 * h)
        slope = utility._slope_of_divergence(REGISTRY[name], Params(0.5, (0.5, 0.5)), x, logit(0.1))
        np.testing.assert_allclose(slope, difference, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_weighted_advantages_descend_pass_at_k(k):
    """Every group of 4 of four arms, two of them successes, through the losses that training uses."""
    task = {"name": "bandit/custom", "reward": [0.0, 1.0, 1.0, 0.0], "reference": [0.4, 0.1, 0.2, 0.3]}
    groups = {"task": task, "algorithm": {"name": "rloo", "pass_k": k}, "penalty": {"beta": 0.7}, "policy": {"init": "random"}}
    made = build(groups | {"batch_size": 4, "dtype": "float64", "objective": "utility"})
    run = jax.tree.map(jnp.asarray, made.run)
    policy = jax.jit(loop.start)(run).policy
    assert spec.utility_group(run.settings) == PassAtK(k)

    def negative_value(logits):
        log_pi = jax.nn.log_softmax(logits[0, 0])
        failures = jnp.exp(log_pi[0]) + jnp.exp(log_pi[3])
        kl = jnp.sum(jnp.exp(log_pi) * (log_pi - jnp.log(jnp.asarray(task["reference"]))))
        return 0.7 * kl - (1.0 - failures**k)

    expected = jax.jit(jax.grad(negative_value))(policy.logits)
    np.testing.assert_allclose(expected_gradient(run, policy, 4), expected, atol=1e-12)


def test_the_optimum_of_pass_at_k_solves_its_equation():
    """k (1 - p)^(k - 1) = beta (logit p - logit v) under KL(pi‖pi_ref): the utility is concave, so there is one solution."""
    solve = jax.jit(lambda x, beta: utility.solve_success(PassAtK(8), REGISTRY["kl_pi_ref"], PARAMS, x, beta))
    for v, beta in ((0.005, 0.4), (0.1, 0.05), (0.5, 2.0), (0.9, 0.1)):
        x = scipy.optimize.brentq(
            lambda x, v=v, beta=beta: 8 * scipy.special.expit(-x) ** 7 - beta * (x - math.log(v / (1 - v))), -50, 200
        )
        best, value = solve(logit(v), jnp.asarray(beta))
        np.testing.assert_allclose(best, x, rtol=1e-10)
        p = scipy.special.expit(x)
        kl = p * math.log(p / v) + (1 - p) * math.log((1 - p) / (1 - v))
        np.testing.assert_allclose(value, 1 - (1 - p) ** 8 - beta * kl, rtol=1e-12)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"algorithm": {"name": "grpo", "pass_k": 2}}, "divided by nothing"),
        ({"algorithm": {"name": "rloo", "pass_k": 9, "group_size": 8}}, "at most the 8 samples"),
        ({"algorithm": {"name": "exact", "pass_k": 2}}, "with objective=utility"),
        ({"algorithm": {"name": "exact", "pass_k": 2, "group_size": 4}, "objective": "utility"}, "does not change"),
        ({"algorithm": {"name": "rloo", "pass_k": 2}, "task": {"name": "bandit/random"}}, "must be 0 and 1"),
        ({"algorithm": {"name": "rloo", "pass_k": 2}, "penalty": {"estimator": "k1"}}, "in the reward"),
        (
            {
                "algorithm": {"name": "dr_grpo", "pass_k": 2, "group_size": 4},
                "penalty": {"estimator": "full", "allow_biased": True},
                "objective": "utility",
            },
            "or of pass@k",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_trained_for_pass_at_k_is_refused(groups, words):
    with pytest.raises(SettingsError, match=words):
        build({"task": {"name": "bandit/prompts"}} | groups)
