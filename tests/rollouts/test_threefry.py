"""Random numbers and what they are turned into: the bits are jax's, and no token of probability zero is ever drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.policies.tabular import Tabular
from rlkl.rollouts import sampling, threefry
from rlkl.tasks import bandits


def same(of, *seeds: int) -> None:
    """What is made with a key is the same to the bit whichever generator computes it, alone and in a block."""
    block = jax.jit(jax.vmap(lambda key, step: of(jax.random.fold_in(key, step))))
    steps = jnp.arange(4, dtype=jnp.int32) * 1_000_003
    for mine, theirs in ((threefry.key(seed), jax.random.key(seed)) for seed in seeds):
        np.testing.assert_array_equal(of(mine), of(theirs))
        np.testing.assert_array_equal(*(block(jax.random.split(key, 4), steps) for key in (mine, theirs)))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (64,), (3, 128), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers_are_jax_s_to_the_bit(shape, dtype):
    same(lambda key: jax.random.uniform(key, shape, jnp.dtype(dtype)), 0, 1, 2)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_words_of_every_width_are_jax_s(width):
    same(lambda key: jax.random.bits(key, (6,), jnp.dtype(f"uint{width}")), 0)


def test_keys_are_folded_and_split_as_jax_does():
    for number in (0, 3, 2**31 - 1):
        same(lambda key, number=number: jax.random.key_data(jax.random.fold_in(key, number)), 1)
    same(lambda key: jax.random.key_data(jax.random.split(key, (2, 3))), 2)


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
