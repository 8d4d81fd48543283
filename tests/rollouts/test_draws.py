"""Draws from bandits: exact in distribution, counted as a plain search counts them, never of an arm without probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlkl import tasks
from rlkl.policies import Fixed
from rlkl.rollouts import batch, sampling, scoring
from rlkl.tasks import Automaton

SIZES = [2, 10, 32, 33, 64, 100, 1000, 4096, 4100, 100_000]


def bandit(arms: int) -> Automaton:
    return Automaton(np.arange(1, arms + 1)[None], arms + 1, 1)


def hard_row(arms: int, seed: int) -> np.ndarray:
    """Probabilities with zeros (the first and the last arm among them), ties, and one arm of mass 1e-12."""
    draw = np.random.default_rng([arms, seed])
    weight = np.round(draw.gamma(0.5, size=arms), 2) * (draw.random(arms) < 0.7)
    weight[arms // 2] = 1.0
    if arms > 4:
        weight[[0, -1]] = 0.0
    weight /= weight.sum()
    weight[1] = 1e-12
    return weight / weight.sum()


def log(probability: np.ndarray, dtype=np.float32) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probability).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("arms", SIZES)
def test_counts_are_those_of_a_plain_search(arms, dtype):
    """Over the same sums, number by number; and what the sums are is within rounding of what NumPy adds up."""
    row = log(hard_row(arms, 0), dtype)
    size = 64
    key = jax.random.key(arms)
    got = np.asarray(jax.jit(lambda key, row: sampling._sample_counts(key, bandit(arms), row, size))(key, row).weight) * size
    cdf = np.asarray(jax.jit(sampling.cumulative)(row))
    uniform = np.asarray(jax.random.uniform(key, (size,), dtype))
    tokens = np.searchsorted(cdf, uniform * cdf[-1], side="right")
    np.testing.assert_array_equal(got, np.bincount(tokens, minlength=arms))
    np.testing.assert_allclose(cdf, np.cumsum(np.exp(row.astype(np.float64))), rtol=2 * np.sqrt(arms) * np.finfo(dtype).eps)


@pytest.mark.parametrize("arms", [2, 10, 33, 1000, 5000])
def test_a_million_draws_have_their_probabilities(arms):
    probability, size = hard_row(arms, 1), 1_000_000
    policy = Fixed(jnp.asarray(log(probability))[None], 1)
    counts = np.zeros(arms)
    draw = jax.jit(lambda key: sampling.sample(key, bandit(arms), policy, 50_000).weight * 50_000)
    for part in range(size // 50_000):
        counts += np.asarray(draw(jax.random.fold_in(jax.random.key(3), part)), float).round()
    assert counts.sum() == size
    assert (counts[probability == 0.0] == 0.0).all()
    assert counts[1] <= 1  # of mass 1e-12
    common = probability * size > 5
    pooled = np.append(counts[common], counts[~common].sum())
    expected = np.append(probability[common], probability[~common].sum()) * size
    assert stats.chisquare(pooled[expected > 0], expected[expected > 0]).pvalue > 1e-4


@pytest.mark.parametrize("arms", [33, 1000, 4100, 100_000])
def test_an_arm_without_probability_is_never_drawn(arms):
    """Nor where the uniform number is 0 or the largest below 1."""
    for seed in range(5):
        row = hard_row(arms, seed)
        cdf = jax.jit(sampling._sums_in_parts)(jnp.exp(log(row)))
        uniform = np.concatenate([[0.0, 1.0 - 2.0**-24], np.asarray(jax.random.uniform(jax.random.key(seed), (254,)))])
        counts = np.asarray(jax.jit(sampling._counts_in_parts)(jnp.asarray(uniform, jnp.float32), cdf))
        assert counts.sum() == 256
        assert (counts[:arms][row == 0.0] == 0.0).all()
        assert (counts[arms:] == 0.0).all()


@pytest.mark.parametrize("prompts", [1, 5])
def test_the_entries_of_a_counted_batch_are_the_table_itself(prompts):
    """As a gather reads them, and with its gradient; with several prompts a group for each."""
    arms = 50 if prompts == 1 else 10
    automaton = bandit(arms) if prompts == 1 else tasks.build("bandit/prompts", prompts=prompts, size=arms).task.automaton
    table, reference = (
        jax.nn.log_softmax(jnp.asarray(np.random.default_rng(i).normal(size=(prompts, arms)))) for i in range(2)
    )
    start = None if prompts == 1 else sampling.prompt_starts(jax.random.key(0), automaton, prompts)
    drawn = sampling.sample(jax.random.key(0), automaton, Fixed(table, 1), 64 * prompts, start)
    row = np.asarray(drawn.states[:, :1])
    assert batch.has_each_entry_once(drawn, row, (prompts, arms))
    gathered = drawn._replace(tokens=jnp.asarray(drawn.tokens), states=jnp.asarray(drawn.states))
    assert not batch.has_each_entry_once(gathered, row, (prompts, arms))

    def total(table, of):
        positions = scoring.positions(automaton, Fixed(table, 1), Fixed(reference, 1), of)
        at_tokens = positions.at_tokens(positions.log_pi, of)
        at_positions = positions.at_positions(jnp.sum(jnp.square(positions.log_pi), axis=1), of)
        value = jnp.sum(of.weight[:, None] * (jnp.square(at_tokens) + at_positions))
        return value, (at_tokens, at_positions, scoring.entries_along(table[None], of))

    (value, entries), gradient = jax.value_and_grad(total, has_aux=True)(table, drawn)
    (expected, expected_entries), expected_gradient = jax.value_and_grad(total, has_aux=True)(table, gathered)
    for entry, expected_entry in zip(entries, expected_entries, strict=True):
        np.testing.assert_array_equal(entry, expected_entry)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-13)
    listed = batch.enumerate_all(bandit(40))
    assert batch.has_each_entry_once(listed, np.zeros((40, 1), int), (1, 40))
    assert not batch.has_each_entry_once(listed, np.zeros((40, 1), int), (1, 41))


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 31, 32, 33, 40, 1000])
def test_the_binary_search_is_a_plain_one(tokens):
    """In many rows with zeros and ties, and for the smallest and the largest uniform number."""
    rows, size = 7, 300
    probability = np.stack([hard_row(max(tokens, 2), seed)[:tokens] + (tokens == 1) for seed in range(rows)])
    cdf = np.asarray(sampling.cumulative(jnp.asarray(log(probability))))
    row = np.random.default_rng(tokens).integers(rows, size=size).astype(np.int32)
    uniform = np.append(np.asarray(jax.random.uniform(jax.random.key(0), (size - 2,))), [0.0, 1.0 - 2.0**-24]).astype(
        np.float32
    )
    drawn = np.asarray(jax.jit(sampling.inverse_cdf)(uniform, cdf, row))
    plain = [np.searchsorted(cdf[r], u * cdf[r, -1], side="right") for u, r in zip(uniform, row, strict=True)]
    np.testing.assert_array_equal(drawn, plain)
    assert (probability[row, drawn] > 0.0).all()


def test_the_mean_of_a_batch_is_its_weighted_sum():
    draw = np.random.default_rng(0)
    weight, values = draw.dirichlet(np.ones(5)), draw.normal(size=(5, 3))
    of = batch.Batch(np.zeros((5, 3), int), np.zeros((5, 4), int), np.ones((5, 3), bool), weight, 5)
    np.testing.assert_allclose(of.mean(jnp.asarray(values)), weight @ values, rtol=1e-14)
    np.testing.assert_allclose(of.mean(jnp.asarray(values[:, 0])), weight @ values[:, 0], rtol=1e-14)
