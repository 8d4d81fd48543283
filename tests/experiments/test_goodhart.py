"""The goodhart experiment: its closed forms against rlkl's optima, a formula for two normals."""

import numpy as np
import pytest
import scipy

from experiments.goodhart import numbers, optima
from experiments.harness import optima as harness
from rlkl import tasks

SIZE = {"gold_size": 6, "error_size": 10, "tail": 1e-4}


@pytest.fixture(scope="module")
def over():
    return optima.arms(**SIZE)


def log_policy(divergence, beta):
    return harness.over_beta(tasks.build("bandit/heavy_tailed", **SIZE).task, divergence, np.array([beta]))[0]


@pytest.mark.parametrize(
    ("divergence", "path", "parameter"),
    [("kl_pi_ref", "under_kl_pi_ref", 2.0), ("pearson", "under_pearson", 0.3), ("kl_ref_pi", "under_kl_ref_pi", -1.0)],
)
def test_each_closed_form_is_rlkl_s_optimum_at_its_beta(over, divergence, path, parameter):
    point = getattr(optima, path)(over, parameter)
    pi = np.exp(log_policy(divergence, point.strength))
    np.testing.assert_allclose([pi @ over.gold, pi @ over.error], [point.gold, point.error], rtol=1e-9)
    with np.errstate(divide="ignore"):
        kl = scipy.special.xlogy(pi, pi / over.reference).sum()
    np.testing.assert_allclose(kl, point.kl_pi_ref, rtol=1e-9)
    np.testing.assert_allclose(over.reference @ (pi / over.reference - 1.0) ** 2, point.pearson, rtol=1e-9)


def test_a_path_is_solved_for_a_column(over):
    assert abs(optima.kl_pi_ref_at(over, "kl_pi_ref", 1.0).kl_pi_ref - 1.0) < 1e-8
    assert abs(optima.pearson_at(over, "proxy", 1.5).proxy - 1.5) < 1e-8
    assert abs(optima.kl_ref_pi_at(over, 0.1).kl_ref_pi - 0.1) < 1e-8


def test_a_raised_tail_is_a_mixture_of_the_two_parts_of_a_student_t():
    t, error = 5.0, scipy.stats.t(df=3.0)
    raised = t**-0.8
    part = lambda low, high: scipy.integrate.quad(lambda x: x * error.pdf(x), low, high)[0]  # noqa: E731
    mean = raised * part(t, np.inf) / error.sf(t) + (1.0 - raised) * part(-np.inf, t) / error.cdf(t)
    point = optima.raised_tail(t, 0.8, 3.0)
    np.testing.assert_allclose(point.error, mean, rtol=1e-7)
    two = np.array([raised, 1.0 - raised]), np.array([error.sf(t), error.cdf(t)])
    np.testing.assert_allclose(point.kl_pi_ref, two[0] @ np.log(two[0] / two[1]))
    np.testing.assert_allclose(point.kl_ref_pi, two[1] @ np.log(two[1] / two[0]))


def test_the_posterior_mean_of_two_normals_is_a_quarter_of_the_proxy():
    proxy = np.array([-6.0, 0.0, 1.0, 8.0])
    np.testing.assert_allclose(numbers.posterior_mean(proxy, "normal"), 0.25 * proxy, atol=2e-3)
    heavy = numbers.posterior_mean(np.array([2.0, 1e3]), "student_t")
    assert heavy[0] > 0.5 > 0.01 > heavy[1] > 0.0  # a large proxy says nothing of the gold reward
