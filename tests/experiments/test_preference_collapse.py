"""The shares of the experiment preference_collapse against the optima of rlkl and against plain sums over data sets."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import binom

from experiments.preference_collapse import shares, verdicts
from rlkl.divergences import REGISTRY
from rlkl.exact import bandit_optimum
from tests.helpers import PARAMS


@pytest.mark.parametrize(("s", "q", "beta"), [(0.1, 0.5, 0.3), (0.3, 0.7, 0.8), (0.45, 0.2, 2.0)])
def test_shares_are_those_of_the_exact_optima(s, q, beta):
    log_ref, reward = jnp.log(jnp.asarray([q, 1.0 - q])), jnp.asarray([float(logit(s)), 0.0])
    for name, share in (("kl_pi_ref", shares.under_kl_pi_ref), ("kl_ref_pi", shares.under_kl_ref_pi)):
        best = bandit_optimum.solve_bandit(REGISTRY[name], PARAMS, log_ref, reward, jnp.asarray(beta))
        np.testing.assert_allclose(share(s, beta, q), jnp.exp(best[0]), rtol=1e-9)


@pytest.mark.parametrize(("s", "q"), [(0.05, 0.5), (0.3, 0.7), (0.3, 0.6)])
def test_break_even_coefficients_keep_the_share(s, q):
    np.testing.assert_allclose(shares.under_kl_pi_ref(s, shares.break_even_kl_pi_ref(s, q), q), s, rtol=1e-12)
    np.testing.assert_allclose(shares.under_kl_ref_pi(s, shares.break_even_kl_ref_pi(s, q), q), s, rtol=1e-9)


def test_a_reference_of_the_share_has_no_break_even_coefficient():
    assert shares.break_even_kl_pi_ref(0.3, 0.3) == np.inf
    assert shares.break_even_kl_pi_ref(0.3, 0.2) < 0.0


def test_the_fitted_log_odds_are_the_likeliest():
    wins, pairs = np.array([0.0, 3.0, 10.0, 10.0]), np.array([5.0, 10.0, 10.0, 100.0])
    for w, n, found in zip(wins, pairs, shares.fitted_log_odds(wins, pairs, 0.01), strict=True):
        loss = lambda d, w=w, n=n: n * np.logaddexp(0.0, d) - w * d + 0.005 * 2.0 * (d / 2.0) ** 2  # noqa: E731
        np.testing.assert_allclose(found, minimize_scalar(loss, bounds=(-20.0, 20.0), method="bounded").x, atol=1e-4)


def test_the_mean_over_data_sets_is_the_sum_over_their_counts():
    """Written out for four pairs, and unbiased at beta 1 without a ridge where both answers are in every pair."""
    mean, deviation = shares.over_pairs(0.2, 4, 0.5, 0.5, 0.01)
    terms = [
        (binom.pmf(n, 4, 0.5) * binom.pmf(k, n, 0.2), expit(shares.fitted_log_odds(np.array(k), np.array(n), 0.01) / 0.5))
        for n in range(5)
        for k in range(n + 1)
    ]
    plain = sum(weight * share for weight, share in terms)
    np.testing.assert_allclose(mean, plain, rtol=1e-12)
    np.testing.assert_allclose(deviation, np.sqrt(sum(weight * (share - plain) ** 2 for weight, share in terms)), rtol=1e-12)


def test_the_log_of_the_number_of_phrasings_restores_the_share():
    rewards, phrasings = np.array([0.0, np.log(9.0)]), np.array([1.0, 8.0])
    np.testing.assert_allclose(shares.matched(rewards, phrasings, False), [1.0 / 73.0, 72.0 / 73.0], rtol=1e-12)
    np.testing.assert_allclose(shares.matched(rewards, phrasings, True), [0.1, 0.9], rtol=1e-12)


def test_claims_never_raise_and_are_false_on_an_empty_table():
    empty = pd.DataFrame(columns=["panel", "series", "x", "y", "error"]).astype({"x": float, "y": float, "error": float})
    found = verdicts.claims(empty)
    assert found
    assert not any(claim.verdict for claim in found)
