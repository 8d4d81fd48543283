"""A reward model that reads tokens: a recurrent network, trained on preferences by maximum likelihood."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl.bradley_terry import Pairs

BATCH, RATE, AT_ONCE = 256, 1e-2, 1024  # pairs a step; the first learning rate, which falls to zero; sequences scored at once


class RewardNetwork(eqx.Module):
    """H gated recurrent units (Cho et al. 2014, arXiv 1406.1078) over the tokens, and a linear score of the last state."""

    embedding: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    score: eqx.nn.Linear

    def __init__(self, vocabulary: int, width: int, key: PRNGKeyArray):
        keys, dtype = jax.random.split(key, 3), jnp.float32
        self.embedding = eqx.nn.Embedding(vocabulary, width, dtype=dtype, key=keys[0])
        self.cell = eqx.nn.GRUCell(width, width, dtype=dtype, key=keys[1])
        self.score = eqx.nn.Linear(width, "scalar", dtype=dtype, key=keys[2])

    def __call__(self, tokens: Int[Array, " T"], mask: Bool[Array, " T"]) -> Float[Array, ""]:
        def read(hidden, inputs):
            token, going = inputs
            return jnp.where(going, self.cell(self.embedding(token), hidden), hidden), None

        hidden, _ = jax.lax.scan(read, jnp.zeros(self.cell.hidden_size, jnp.float32), (tokens, mask))
        return self.score(hidden)


def fit(
    tokens: Int[np.ndarray, "M T"],
    mask: Bool[np.ndarray, "M T"],
    pairs: Pairs | tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]],
    width: int,
    steps: int,
    seed: int,
) -> Float[np.ndarray, " M"]:
    """The fitted score (log-odds) of each sequence. pairs: given ones, or each sequence's probability and true score, from
    which every step draws new pairs with their expected answers. In 32 bits, whatever jax's global settings."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return np.asarray(_fit(tokens, mask, pairs, width, steps, jax.random.key(seed)), np.float64)


def _drawn(draw: np.random.Generator, pairs, steps: int):
    """The pairs of every step: (first, second, preferred), each Int or Float["steps BATCH"]."""
    if isinstance(pairs, Pairs):
        at = draw.integers(len(pairs.first), size=(steps, BATCH))
        return pairs.first[at], pairs.second[at], pairs.preferred[at]
    probability, score = pairs
    first, second = draw.choice(len(score), (2, steps, BATCH), p=probability)
    return first, second, scipy.special.expit(score[first] - score[second])


def _fit(tokens, mask, pairs, width: int, steps: int, key: PRNGKeyArray) -> Float[Array, " M"]:
    model = RewardNetwork(int(tokens.max()) + 1, width, key)
    seed = np.asarray(jax.random.key_data(key)).tolist()
    batches = [jnp.asarray(x, d) for x, d in zip(_drawn(np.random.default_rng(seed), pairs, steps), "iif", strict=True)]
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    method = optax.adam(optax.linear_schedule(RATE, 0.0, steps))

    def loss(parameters, first, second, preferred):
        model = eqx.combine(parameters, rest)
        of = lambda at: jax.vmap(model)(tokens[at], mask[at])  # noqa: E731
        return jnp.mean(optax.sigmoid_binary_cross_entropy(of(first) - of(second), preferred))

    def step(held, batch):
        parameters, slots = held
        updates, slots = method.update(jax.grad(loss)(parameters, *batch), slots, parameters)
        return (optax.apply_updates(parameters, updates), slots), None

    @jax.jit
    def trained(parameters, batches):
        (parameters, _), _ = jax.lax.scan(step, (parameters, method.init(parameters)), batches)
        model = eqx.combine(parameters, rest)
        return jax.lax.map(lambda one: model(*one), (tokens, mask), batch_size=AT_ONCE)

    return trained(parameters, tuple(batches))
