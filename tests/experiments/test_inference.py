"""Quantile rewards in the inference experiment: log Z by quadrature, and least squares against a numeric minimiser."""

import numpy as np
import pytest
import scipy

from experiments.inference import quantile


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0])
def test_log_z_is_the_integral(beta):
    integral, _ = scipy.integrate.quad(lambda r: np.exp((r - 1.0) / beta), 0.0, 1.0)
    np.testing.assert_allclose(quantile.log_z(beta), np.log(integral) + 1.0 / beta, rtol=1e-12)


@pytest.mark.parametrize(("beta", "regular"), [(0.3, True), (1.0, False)])
def test_least_squares_is_where_descent_from_the_reference_ends(beta, regular):
    reward, reference = quantile.ranked(64)
    target = quantile.targets(beta, reward)

    def loss(logits):
        log_ratio = logits - scipy.special.logsumexp(logits, b=reference)
        slope = 2.0 * reference * (log_ratio - target)
        return reference @ (log_ratio - target) ** 2, slope - reference * np.exp(log_ratio) * slope.sum()

    ended = scipy.optimize.minimize(loss, np.zeros(64), jac=True, method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-12})
    fit = quantile.least_squares(beta, reward, reference)
    assert fit.regular is regular
    descended = ended.x - scipy.special.logsumexp(ended.x, b=reference)
    np.testing.assert_allclose(descended, fit.log_ratio, atol=1e-5)
    best = reward / beta - scipy.special.logsumexp(reward / beta, b=reference)
    objective = lambda u: (reference * np.exp(u)) @ (reward - beta * u)  # noqa: E731
    lost = quantile.regret(beta, reward, reference, fit.log_ratio)
    np.testing.assert_allclose(objective(best) - objective(fit.log_ratio), lost, rtol=1e-9)


def test_from_which_beta_on_one_answer_takes_the_rest():
    edge = quantile.largest_regular_beta()
    nodes = quantile.ranked(2_000)
    assert quantile.least_squares(edge - 0.02, *nodes).regular
    assert not quantile.least_squares(edge + 0.02, *nodes).regular
