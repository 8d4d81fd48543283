"""The exact optima of the experiment `pass_at_k`, against perturbations, equations and enumerated groups."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from experiments.pass_at_k import figure, fixed_points, optima, released

Q = np.array([[0.02, 0.01, 0.5, 0.3, 0.17], [0.3, 0.1, 0.3, 0.2, 0.1]])
SUCCESS = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
STRENGTHS = optima.STRENGTHS | {"pass@k": 4.0}


@pytest.mark.parametrize("method", [name for name in optima.METHODS if name != "unlikeliness"])
def test_no_policy_near_or_far_is_better_than_a_method_s_optimum(method):
    draw, strength = np.random.default_rng(0), STRENGTHS.get(method, math.nan)
    for beta in (0.1, 0.7):
        best = optima.METHODS[method](Q, SUCCESS, beta, strength)
        np.testing.assert_allclose(best.sum(axis=-1), 1.0, rtol=1e-12)
        value = optima.objective(method, strength, best, Q, SUCCESS, beta)
        for scale in (1e-3, 0.1, 2.0):
            for _ in range(30):
                moved = best * np.exp(scale * draw.normal(size=Q.shape))
                moved /= moved.sum(axis=-1, keepdims=True)
                assert optima.objective(method, strength, moved, Q, SUCCESS, beta) < value


def test_matched_coefficients_have_the_success_that_was_asked_for():
    for method in optima.METHODS:
        strength = STRENGTHS.get(method, math.nan)
        beta = optima.matched_beta(method, strength, Q, SUCCESS, 0.5)
        np.testing.assert_allclose((optima.METHODS[method](Q, SUCCESS, beta, strength) @ SUCCESS).mean(), 0.5, atol=1e-7)


def test_the_fixed_point_of_unlikeliness_solves_its_equation_and_holds_close_answers_equal():
    """Two correct answers of nearly one reference probability end equally likely; a weight of 0 is the plain optimum."""
    q = np.array([0.2, 0.19, 0.01, 0.4, 0.2])
    right = np.array([1.0, 1.0, 1.0, 0.0, 0.0])
    for size in (4, math.inf):
        pi = fixed_points.fixed_point(q, right, 0.3, 0.5, size)
        log_pi = np.log(pi)
        reward = fixed_points.effective_reward(log_pi, right, 0.5, size, fixed_points.WIDTHS[-1])
        np.testing.assert_allclose(np.ptp(log_pi - np.log(q) - reward / 0.3), 0.0, atol=1e-8)
        np.testing.assert_allclose(pi[0], pi[1], rtol=1e-3)
        assert pi[0] > 2.0 * pi[2]
    none = fixed_points.fixed_point(q, right, 0.3, 0.0, 16)
    np.testing.assert_allclose(none, optima.plain(q[None], right, 0.3)[0], rtol=1e-8)


def test_the_effective_reward_is_the_mean_advantage_over_every_group():
    """Up to a constant: the reward of a sample less the mean of the others', given the sample, in groups of three."""
    pi, right, weight = np.array([0.1, 0.4, 0.2, 0.3]), np.array([1.0, 1.0, 0.0, 1.0]), 0.6
    expected = np.zeros(4)
    for group in itertools.product(range(4), repeat=3):
        rewards = []
        for i, y in enumerate(group):
            rivals = np.delete(pi[list(group)], i)
            rank = (rivals < pi[y]).sum() + 0.5 * (rivals == pi[y]).sum()
            rewards.append(right[y] * (1.0 - weight * rank / 3))
        expected[group[0]] += pi[group[1]] * pi[group[2]] * (rewards[0] - 0.5 * (rewards[1] + rewards[2]))
    measured = fixed_points.effective_reward(np.log(pi), right, weight, 3, 1e-9)
    np.testing.assert_allclose(np.ptp(measured - expected), 0.0, atol=1e-12)


def test_the_work_around_a_loop_is_that_of_the_curl_and_0_of_a_gradient():
    """Of ranks among three successes in order the curl is -w of every pair: -w times the area of a triangle in two of them."""
    right = np.array([1.0, 1.0, 1.0, 0.0])
    loop = np.array([[0.1, 0.2, 0.3, 0.4], [0.15, 0.2, 0.3, 0.35], [0.1, 0.26, 0.3, 0.34]])
    ranks = fixed_points.work(lambda pi: fixed_points.effective_reward(np.log(pi), right, 0.8, math.inf, 1e-9), loop)
    np.testing.assert_allclose(ranks, -0.8 * 0.5 * 0.05 * 0.06, rtol=1e-9)
    np.testing.assert_allclose(fixed_points.work(lambda pi: 3.0 * pi**2, loop), 0.0, atol=1e-9)


@pytest.mark.parametrize("divided", [False, True])
def test_the_released_advantage_is_summed_over_every_group(divided):
    n, k, p = 5, 2, 0.3
    total = 0.0
    for rewards in itertools.product((0, 1), repeat=n):
        c = sum(rewards)
        hit = [any(rewards[i] for i in chosen) for chosen in itertools.combinations(range(n), k)]
        rho = np.mean(hit)
        scale = math.sqrt(rho * (1 - rho)) + 1e-6 if divided else 1.0
        for i, r in enumerate(rewards):
            with_i = [h for h, chosen in zip(hit, itertools.combinations(range(n), k), strict=True) if i in chosen]
            score = 1 / p if r else -1 / (1 - p)
            total += p**c * (1 - p) ** (n - c) * (np.mean(with_i) - rho) / scale * score / n
    np.testing.assert_allclose(released.slope(n, k, p, divided), total, rtol=1e-10)


def test_claims_of_an_empty_table_are_false():
    table = pd.read_csv(figure.__file__.replace("figure.py", "figure.csv"))
    assert all(claim.verdict for claim in figure.claims(table))
    assert not any(claim.verdict for claim in figure.claims(table.iloc[:0]))
