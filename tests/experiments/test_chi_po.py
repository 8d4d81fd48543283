"""The fits and optima of the experiment chi_po against rlkl's own, and its test of separated pairs against theirs."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.chi_po import datasets, links, verdicts
from rlkl.divergences import REGISTRY
from rlkl.exact import bandit_optimum
from rlkl.tasks.preferences import bradley_terry
from tests.helpers import PARAMS


@pytest.mark.parametrize("link", ["kl_pi_ref", "kl_chi2"])
def test_optima_are_those_of_the_registered_divergences(link):
    draw = np.random.default_rng(0)
    reference, reward = draw.dirichlet(np.ones(6)), draw.normal(size=(2, 6))
    for beta in (0.01, 0.3, 5.0):
        found = links.optimum(link, reference, reward, beta)
        for pi, r in zip(found, reward, strict=True):
            best = bandit_optimum.solve_by_root(REGISTRY[link], PARAMS, jnp.log(reference), jnp.asarray(r), jnp.asarray(beta))
            np.testing.assert_allclose(pi, np.exp(best), atol=1e-10)


def test_the_ratio_inverts_the_link():
    y = np.array([-500.0, -30.0, -1.0, 0.0, 1.0, 2.5, 40.0, 1e5])
    t = links.ratio(y)
    np.testing.assert_allclose(t[2:] + np.log(t[2:]), y[2:], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.log(t[:2]), y[:2], rtol=1e-9)


def pairs_of(won: np.ndarray) -> bradley_terry.Pairs:
    first, second = np.nonzero(won)
    return bradley_terry.Pairs(first, second, np.ones(len(first)), won[first, second])


def test_fits_are_those_of_the_preference_tasks():
    won = datasets.wins(datasets.bad_covered(0.1), 200, 3, np.random.default_rng(0))
    assert (won.sum(axis=(1, 2)) <= 200).all()
    for found, each in zip(datasets.fitted(won, 0.01), won, strict=True):
        expected = bradley_terry.fit(pairs_of(each), np.arange(10), 10, np.zeros((10, 0)), 0.01)
        np.testing.assert_allclose(found, expected.values, atol=1e-6)


def test_arms_win_as_often_as_their_rewards_say():
    problem, count = datasets.bad_covered(0.3), 40_000
    won = datasets.wins(problem, count, 1, np.random.default_rng(1))[0]
    met, p = won[0, 1] + won[1, 0], 1.0 / (1.0 + np.exp(-0.5))
    assert abs(met / count - 2.0 * 0.3 * 0.4) <= 4.0 * np.sqrt(0.24 * 0.76 / count)
    assert abs(won[0, 1] / met - p) <= 4.0 * np.sqrt(p * (1.0 - p) / met)


def test_separated_pairs_are_those_without_a_finite_fit():
    won = datasets.wins(datasets.bad_covered(0.05), 300, 30, np.random.default_rng(2))
    found = datasets.separated(won)
    finite = [bradley_terry.fit(pairs_of(each), np.arange(10), 10, np.zeros((10, 0))) is None for each in won]
    assert found.tolist() == finite
    assert 0 < found.sum() < 30


def test_an_unbeaten_arm_was_compared_and_never_lost():
    won = np.zeros((4, 3, 3))
    won[:, 0, 1] = won[:, 1, 0] = 1.0
    won[1, 2, 0] = won[2, 2, 0] = won[2, 0, 2] = won[3, 0, 2] = 1.0  # the third arm: only won; won and lost; only lost
    assert datasets.unbeaten(won, slice(2, None)).tolist() == [False, True, False, False]


def test_claims_never_raise_and_are_false_on_an_empty_table():
    empty = pd.DataFrame(columns=["panel", "series", "x", "y", "error"]).astype({"x": float, "y": float, "error": float})
    found = verdicts.claims(empty)
    assert found
    assert not any(claim.verdict for claim in found)
