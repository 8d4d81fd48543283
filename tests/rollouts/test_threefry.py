"""Random numbers and what they are turned into: the bits are jax's, and no token of probability zero is ever drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.policies.tabular import Tabular
from rlkl.rollouts import sampling, threefry
from rlkl.tasks import bandits


@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (3, 128), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers_are_jax_s_to_the_bit(shape, dtype):
    for seed in range(3):
        key = jax.random.fold_in(jax.random.key(seed), 5)
        np.testing.assert_array_equal(threefry.uniform(key, shape, dtype), jax.random.uniform(key, shape, jnp.dtype(dtype)))


def test_keys_are_folded_as_jax_does_alone_and_in_a_block():
    keys, steps = jax.random.split(jax.random.key(3), 4), jnp.arange(4, dtype=jnp.int32) * 1_000_003
    mine, theirs = jax.vmap(threefry.fold_in)(keys, steps), jax.vmap(jax.random.fold_in)(keys, steps)
    np.testing.assert_array_equal(jax.random.key_data(mine), jax.random.key_data(theirs))
    of = jax.jit(jax.vmap(lambda key: threefry.uniform(key, (64,), jnp.float32)))
    np.testing.assert_array_equal(of(mine), jax.vmap(lambda key: jax.random.uniform(key, (64,), jnp.float32))(theirs))


def test_another_generator_s_keys_are_left_to_jax():
    key = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(threefry.uniform(key, (8,), jnp.float32), jax.random.uniform(key, (8,), jnp.float32))
    step = jnp.asarray(3, jnp.int32)
    folded = (jax.random.key_data(fold(key, step)) for fold in (threefry.fold_in, jax.random.fold_in))
    np.testing.assert_array_equal(*folded)


@pytest.mark.parametrize("size", [2, 10, 32, 33, 64, 1000, 4097])
def test_counted_tokens_are_those_of_the_inverse_of_the_sums(size):
    """Against NumPy, in 64 bits, but for numbers within rounding of a token's edge; and each batch is all there."""
    draw = np.random.default_rng(size)
    probability = draw.gamma(0.3, size=size) * (draw.random(size) < 0.7)
    probability[draw.integers(size)] += 1.0
    probability /= probability.sum()
    task = bandits.card(np.zeros(size), np.full(size, 1 / size)).task
    with np.errstate(divide="ignore"):
        policy = Tabular(jnp.log(jnp.asarray(probability, jnp.float32))[None, None], jnp.ones((1, size), bool))
    edges, key = np.cumsum(probability), jax.random.key(size)
    batch = jax.jit(lambda key: sampling.sample(key, task.automaton, policy, 1000))(key)
    uniform = np.asarray(jax.random.uniform(key, (1000,), jnp.float32), float)
    expected = np.bincount(np.minimum(np.searchsorted(edges, uniform, side="right"), size - 1), minlength=size)
    near = int((np.abs(uniform[:, None] - edges).min(axis=1) < 3e-6).sum())
    counts = np.asarray(batch.weight, float) * 1000
    assert np.isclose(counts.sum(), 1000, atol=1e-3)
    assert (counts[probability == 0.0] == 0.0).all()
    assert np.abs(counts - expected).sum() <= 2 * near + 1e-2


@pytest.mark.parametrize("size", [10, 32, 33, 100, 1000, 5000])
def test_sums_never_fall_and_do_not_rise_at_a_token_that_has_no_probability(size):
    for seed in range(20):
        draw = np.random.default_rng([size, seed])
        weight = draw.gamma(0.3, size=size) * (draw.random(size) < 0.5)
        weight[0] += 1.0
        with np.errstate(divide="ignore"):
            log_pi = np.log(weight / weight.sum()).astype(np.float32)
        sums = np.asarray(jax.jit(sampling.cumulative)(log_pi))
        rise = np.diff(sums)
        assert (rise >= 0.0).all()
        assert (rise[weight[1:] == 0.0] == 0.0).all()
