"""The scores of a penalty on made-up numbers, against answers by hand."""

import numpy as np
import pytest

from rlkl.diagnostics.scorecard import scores

P = 0.1  # the reference's probability of the better of two arms
TWO = (np.array([1.0 - P, P]), np.array([0.0, 1.0]))


def binary_kl(q: np.ndarray, p: float = P) -> np.ndarray:
    return q * np.log(q / p) + (1.0 - q) * np.log((1.0 - q) / (1.0 - p))


def test_the_gradient_s_score_is_one_less_the_relative_error():
    assert scores.gradient(np.array([0.0, 0.5, 3.0])) == pytest.approx((1.0 + 0.5 + 0.0) / 3.0)
    assert scores.gradient(np.zeros(4)) == 1.0


def test_objective_and_seeds_pool_the_coefficients():
    objective, best = np.array([[0.5, 0.7], [0.2, 0.2]]), np.array([1.0, 0.5])
    assert scores.objective(objective, -0.5, best) == pytest.approx(1.0 - (0.4 + 0.3) / 2.5)
    assert scores.seeds(objective, -0.5, best) == pytest.approx(1.0 - (0.2 + 0.0) / 2.5)
    assert scores.objective(np.stack([best, best], axis=1), 0.0, best) == 1.0
    assert scores.objective(np.full((2, 2), 0.0), 0.0, best) == 0.0  # left at the reference
    assert scores.objective(np.full((2, 2), -9.0), 0.0, best) == 0.0  # worse than the reference


def test_an_infinite_objective_scores_nothing_and_no_gain_is_undefined():
    best = np.array([1.0, 0.5])
    for lost in (np.array([[-np.inf, 1.0], [0.5, 0.5]]), np.full((2, 2), -np.inf)):
        assert scores.objective(lost, 0.0, best) == 0.0
        assert scores.seeds(lost, 0.0, best) == 0.0
    for of in (scores.objective, scores.seeds):
        assert np.isnan(of(np.zeros((2, 2)), 0.0, np.zeros(2)))
        assert np.isnan(of(np.zeros((2, 2)), 0.0, np.full(2, np.nan)))


def test_the_least_kl_at_a_reward_is_the_binary_one_on_two_arms():
    for q in (0.2, 0.5, 0.9):
        assert scores.least_kl(*TWO, q) == pytest.approx(float(binary_kl(np.array(q))), rel=1e-10)
    beside = (np.append(TWO[0], 0.0), np.append(TWO[1], 5.0))  # an arm that the reference never draws is out of reach
    assert scores.least_kl(*beside, 0.5) == pytest.approx(float(binary_kl(np.array(0.5))), rel=1e-10)


def test_mixtures_are_straight_lines_and_a_budget_is_a_bound():
    kl, reward = np.array([1.0, 3.0]), np.array([0.6, 0.8])
    np.testing.assert_allclose(scores.mixtures(kl, reward, 0.0, np.array([0.0, 0.5, 2.0, 3.0, 9.0])), [0.0, 0.3, 0.7, 0.8, 0.8])
    worse = scores.mixtures(np.append(kl, 2.0), np.append(reward, 0.1), 0.0, np.array([2.0]))
    np.testing.assert_allclose(worse, [0.7])
    np.testing.assert_allclose(scores.mixtures(np.array([np.inf, np.nan]), np.ones(2), 0.2, np.array([1.0])), [0.2])


def test_reward_at_kl_is_one_on_the_frontier_and_less_for_a_penalty_that_only_finds_the_best_arm():
    q = P + np.array([0.25, 0.5, 0.75]) * (1.0 - P)
    assert scores.reward_at_kl(binary_kl(q)[:, None], q[:, None], *TWO) == pytest.approx(1.0, abs=1e-9)
    greedy = scores.reward_at_kl(np.full((1, 2), -np.log(P)), np.ones((1, 2)), *TWO)
    assert greedy == pytest.approx(float(np.mean((1.0 - P) * binary_kl(q) / -np.log(P) / (q - P))))
    assert scores.reward_at_kl(np.zeros((1, 1)), np.full((1, 1), P), *TWO) == pytest.approx(0.0, abs=1e-12)
    both = scores.reward_at_kl(np.stack([binary_kl(q), 0 * q], 1), np.stack([q, 0 * q + P], 1), *TWO)
    assert both == pytest.approx(0.5, abs=1e-9)  # seed by seed


def test_coverage_is_half_proportions_kept_and_half_arms_brought_back():
    kept = [np.array([[1.0, 0.5]]), np.array([[0.25, 0.25]])]
    returned = [np.array([[0.0, 0.0]]), np.array([[2.0, 1.0]])]  # more than the reference's is as much
    assert scores.coverage(kept, returned) == pytest.approx(0.5 * (0.75 + 0.25) / 2.0 + 0.5 * 0.5)


def test_extreme_ratios_is_the_share_of_checks():
    assert scores.extreme_ratios(np.array([True, False, True, True])) == 0.75
