"""Bounds on gold rewards by their correlation with a proxy: hold for random policies, and are attained."""

import numpy as np
import pytest

from experiments.correlated_proxies import bounds

COUNT, ARMS = 500, 6


@pytest.fixture
def drawn():
    """References, policies, and standardised proxies, golds and their correlations."""
    draw = np.random.default_rng(0)
    p, pi = draw.dirichlet(np.ones(ARMS), COUNT), draw.dirichlet(np.full(ARMS, 0.5), COUNT)
    proxy, gold = (bounds.standardised(p, draw.normal(size=(COUNT, ARMS))) for _ in range(2))
    correlation = np.sum(p * proxy * gold, axis=1)
    keep = correlation > 0.01
    return p[keep], pi[keep], proxy[keep], gold[keep], correlation[keep]


def test_both_bounds_hold_for_random_policies_and_the_sharper_is_never_lower(drawn):
    p, pi, proxy, gold, correlation = drawn
    gains, chi2 = [np.sum(pi * values, axis=1) for values in (proxy, gold)], bounds.chi_square(p, pi)
    published, sharp = (bound(correlation, gains[0], chi2) for bound in (bounds.published_bound, bounds.sharp_bound))
    assert np.min(gains[1] - sharp) >= -1e-9
    assert np.min(sharp - published) >= -1e-9
    assert np.min(gains[1] - sharp) <= 0.05  # the bound is near some of them
    assert np.min(gains[1] - bounds.sharp_bound(correlation, gains[0], 0.9 * chi2)) < -0.01  # less would be violated


def test_the_worst_gold_has_the_correlation_and_attains_the_sharper_bound(drawn):
    p, pi, proxy, _, _ = drawn
    for correlation in (0.1, 0.6, 0.95):
        gold = bounds.worst_gold(p, pi, proxy, correlation)
        np.testing.assert_allclose(np.sum(p * gold, axis=1), 0.0, atol=1e-9)
        np.testing.assert_allclose(np.sum(p * gold**2, axis=1), 1.0, atol=1e-9)
        np.testing.assert_allclose(np.sum(p * gold * proxy, axis=1), correlation, atol=1e-9)
        gain, bound = (
            np.sum(pi * gold, axis=1),
            bounds.sharp_bound(correlation, np.sum(pi * proxy, axis=1), bounds.chi_square(p, pi)),
        )
        np.testing.assert_allclose(gain, bound, atol=1e-7)


def test_random_golds_have_the_correlation_and_no_direction(drawn):
    p, pi, proxy = (each[0] for each in drawn[:3])
    golds = bounds.random_golds(p, proxy, 0.7, 4000, np.random.default_rng(1))
    np.testing.assert_allclose((golds * proxy) @ p, 0.7, atol=1e-9)
    np.testing.assert_allclose(np.square(golds) @ p, 1.0, atol=1e-9)
    gains, expected = golds @ pi, 0.7 * pi @ proxy
    assert abs(gains.mean() - expected) <= 4.0 * gains.std() / np.sqrt(len(gains))
    spread = np.sqrt(0.51 * (bounds.chi_square(p, pi) - (pi @ proxy) ** 2) / (ARMS - 2))
    np.testing.assert_allclose(gains.std(), spread, rtol=0.05)
