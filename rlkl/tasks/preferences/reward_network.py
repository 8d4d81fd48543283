"""A reward model that reads tokens: a recurrent network, trained on preferences by maximum likelihood."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl.settings import numerics
from rlkl.tasks.preferences.bradley_terry import Pairs

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

        start = jnp.zeros(self.cell.hidden_size, self.score.weight.dtype)
        hidden, _ = jax.lax.scan(read, start, (tokens, mask))
        return self.score(hidden)

    def mapped(self, factor: float, shift: float) -> "RewardNetwork":
        """The network whose score is `factor` times this one's, plus `shift`."""
        bias = factor * np.asarray(self.score.bias) + shift
        return eqx.tree_at(lambda model: (model.score.weight, model.score.bias), self, (factor * self.score.weight, bias))


class Batches(NamedTuple):
    """The pairs of every step: two sequences each, by number, and the probability, or 0 or 1, that the first was preferred."""

    first: Int[np.ndarray, "steps BATCH"]
    second: Int[np.ndarray, "steps BATCH"]
    preferred: Float[np.ndarray, "steps BATCH"]


def from_pairs(pairs: Pairs, steps: int, seed: int) -> Batches:
    """Given pairs, drawn at random."""
    at = np.random.default_rng((seed, 2)).integers(len(pairs.first), size=(steps, BATCH))
    return Batches(pairs.first[at], pairs.second[at], pairs.preferred[at])


def from_sequences(probability: Float[np.ndarray, " M"], score: Float[np.ndarray, " M"], steps: int, seed: int) -> Batches:
    """New pairs for every step, with their expected answers, from the probability and the true score of each sequence."""
    first, second = np.random.default_rng((seed, 2)).choice(len(score), (2, steps, BATCH), p=probability)
    return Batches(first, second, scipy.special.expit(score[first] - score[second]))


def fit_network(
    tokens: Int[np.ndarray, "M T"], mask: Bool[np.ndarray, "M T"], vocabulary: int, batches: Batches, width: int, seed: int
) -> RewardNetwork:
    """The network whose score is the log-odds of the preferences. In 32 bits, whatever jax's global settings; the network
    returned, in 64, holds NumPy arrays."""
    with numerics.pinned(x64=False), jax.numpy_dtype_promotion("standard"):
        model = _fit(tokens, mask, vocabulary, batches, width, jax.random.key(seed))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), model)


def _fit(tokens, mask, vocabulary: int, batches: Batches, width: int, key: PRNGKeyArray) -> RewardNetwork:
    parameters, rest = eqx.partition(RewardNetwork(vocabulary, width, key), eqx.is_inexact_array)
    method = optax.adam(optax.linear_schedule(RATE, 0.0, len(batches.first)))
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)

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
        return parameters

    laid = tuple(jnp.asarray(x, dtype) for x, dtype in zip(batches, "iif", strict=True))
    return eqx.combine(trained(parameters, laid), rest)


def scores(model: RewardNetwork, tokens: Int[np.ndarray, "M T"], mask: Bool[np.ndarray, "M T"]) -> Float[np.ndarray, " M"]:
    """The score of each sequence, read in 32 bits."""
    with numerics.pinned(x64=False):
        low = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model)
        read = jax.jit(lambda *both: jax.lax.map(lambda one: low(*one), both, batch_size=AT_ONCE))
        return np.asarray(read(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)), np.float64)
