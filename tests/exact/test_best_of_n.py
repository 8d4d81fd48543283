"""Best of n: its law against drawing, its closed forms, its bound."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact
from rlkl.divergences import REGISTRY
from rlkl.exact import Objective, best_of_n
from rlkl.policies import Fixed
from rlkl.tasks import automaton as automata
from rlkl.tasks import bandits
from tests.helpers import PARAMS, random_task, sequence_log_probability, sequences, shortened


def by_hand(p, reward, n):
    """The law, by going through every draw of n: the best is kept, ties shared evenly."""
    law = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        best = [i for i in drawn if reward[i] == max(reward[j] for j in drawn)]
        for i in best:
            law[i] += np.prod(p[list(drawn)]) / len(best)
    return law


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_law_is_that_of_every_draw(n):
    p, reward = np.array([0.1, 0.25, 0.3, 0.0, 0.35]), np.array([1.0, 0.0, 1.0, 3.0, 0.5])
    law = by_hand(p, reward, n)
    np.testing.assert_allclose(best_of_n.pmf(p, reward, n), law, atol=1e-15)
    ahead, even = np.greater.outer(reward, reward), np.equal.outer(reward, reward)
    np.testing.assert_allclose(best_of_n.win_rate(law, p, reward), law @ (ahead + 0.5 * even) @ p, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 10**6])
def test_the_kl_of_a_flat_or_an_extreme_best_of_n_is_a_number_of_at_least_0(n):
    """Rounding makes none negative, and arms that are never kept count nothing."""
    p = np.full(7, 1 / 7)
    for reward in (np.zeros(7), np.arange(7.0)):
        task = bandits.bandit(reward, p)
        found = best_of_n.evaluate(task, Fixed(jnp.asarray(task.log_reference), 1), n)
        assert 0.0 <= found.kl_pi_ref <= best_of_n.most_kl(n) + 1e-12
        assert found.entropy >= 0.0
        assert not np.signbit([found.kl_pi_ref, found.entropy]).any()


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_without_ties_the_kl_is_log_n_less_n_minus_1_over_n(n):
    """100,000 equally likely arms; with ties, below it."""
    p, reward = np.full(100_000, 1e-5), np.random.default_rng(0).permutation(100_000).astype(float)
    kl = lambda ratio: float(p @ (ratio * np.log(ratio)))  # noqa: E731
    ratio = best_of_n.ratios(p, reward, n)
    np.testing.assert_allclose(kl(ratio), best_of_n.most_kl(n), atol=1e-8)
    np.testing.assert_allclose(p @ ratio, 1.0, atol=1e-9)
    np.testing.assert_allclose(best_of_n.win_rate(p * ratio, p, reward), n / (n + 1), atol=1e-8)
    tied = kl(best_of_n.ratios(p, np.floor(reward / 20_000), n))
    assert tied < best_of_n.most_kl(n) - 1e-3 if n > 1 else abs(tied) <= 1e-12


def made(seed: int, typicality: float = 0.0):
    task = jax.tree.map(jnp.asarray, shortened(random_task(np.random.default_rng(seed), typicality), 300))
    task = dataclasses.replace(task, gold=jnp.square(task.reward))
    return task, Fixed(task.log_reference, task.automaton.horizon)


@pytest.mark.parametrize(
    ("seed", "typicality"),
    [(0, 0.0), (2, 0.4), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 0.0), (2, 0.0), (3, 0.4)))],
)
def test_it_is_a_bandit_over_all_sequences(seed, typicality):
    """Reward of the end state: as a table, by dynamic program; with a typicality reward, over listed sequences."""
    task, reference = made(seed, typicality)
    log_p = sequence_log_probability(np.asarray(reference.table()), task.automaton)
    kept = log_p > -np.inf
    ends = np.array([end for _, end in sequences(task.automaton)])[kept]
    log_p = log_p[kept]
    reward = np.asarray(task.reward)[ends] + (typicality * log_p if typicality else 0.0)
    law = best_of_n.pmf(np.exp(log_p), reward, 5)
    found = best_of_n.evaluate(task, reference, 5)
    expected = (law @ reward, law @ (np.log(law) - log_p), -law @ np.log(law), law @ log_p, law @ np.asarray(task.gold)[ends])
    told = (found.reward, found.kl_pi_ref, found.entropy, found.typicality, found.gold_reward)
    np.testing.assert_allclose(told, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.win_rate, best_of_n.win_rate(law, np.exp(log_p), reward), atol=1e-12)
    assert found.stderr == {}
    if not typicality:
        as_table = best_of_n.policy(task, reference, 5).table()
        values = exact.values(Objective(task, reference, REGISTRY["kl_pi_ref"], PARAMS), as_table)
        np.testing.assert_allclose((values.reward, values.kl_pi_ref, values.entropy), told[:3], rtol=1e-9, atol=1e-10)


def test_where_it_is_sampled_it_is_within_its_standard_errors(monkeypatch):
    task, reference = made(3, 0.4)
    exactly = best_of_n.evaluate(task, reference, 4)
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 1)
    with pytest.raises(ValueError, match="key"):
        best_of_n.evaluate(task, reference, 4)
    about = best_of_n.evaluate(task, reference, 4, jax.random.key(0))
    assert set(about.stderr) == {"reward", "kl_pi_ref", "win_rate", "entropy", "typicality", "gold_reward"}
    for name, error in about.stderr.items():
        assert 0.0 < error < 0.05
        assert abs(getattr(about, name) - getattr(exactly, name)) <= 4 * error, name
