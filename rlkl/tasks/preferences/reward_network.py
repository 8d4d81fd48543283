"""A recurrent reward model over tokens, trained on preferences by maximum likelihood."""

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

BATCH, RATE, AT_ONCE = 256, 1e-2, 1024  # pairs for each step; initial learning rate (linear decay to 0); batch size of scoring


class RewardNetwork(eqx.Module):
    """A GRU of H units over the tokens (Cho et al. 2014, arXiv 1406.1078) with a linear score of its last hidden state."""

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
            token, unfinished = inputs
            return jnp.where(unfinished, self.cell(self.embedding(token), hidden), hidden), None

        start = jnp.zeros(self.cell.hidden_size, self.score.weight.dtype)
        hidden, _ = jax.lax.scan(read, start, (tokens, mask))
        return self.score(hidden)

    def mapped(self, factor: float, shift: float) -> "RewardNetwork":
        """The network whose score is `factor` times this one's, plus `shift`."""
        bias = factor * np.asarray(self.score.bias) + shift
        return eqx.tree_at(lambda model: (model.score.weight, model.score.bias), self, (factor * self.score.weight, bias))


class Batches(NamedTuple):
    """The pairs of every step: indices of two sequences, and the probability (or 0 or 1) that the first was preferred."""

    first: Int[np.ndarray, "steps BATCH"]
    second: Int[np.ndarray, "steps BATCH"]
    preferred: Float[np.ndarray, "steps BATCH"]


def from_pairs(pairs: Pairs, steps: int, seed: int) -> Batches:
    """Batches drawn at random, with replacement, from the given pairs."""
    index = np.random.default_rng((seed, 2)).integers(len(pairs.first), size=(steps, BATCH))
    return Batches(pairs.first[index], pairs.second[index], pairs.preferred[index])


def from_sequences(probability: Float[np.ndarray, " M"], score: Float[np.ndarray, " M"], steps: int, seed: int) -> Batches:
    """New pairs for every step, with exact preference probabilities, from each sequence's probability and true score."""
    first, second = np.random.default_rng((seed, 2)).choice(len(score), (2, steps, BATCH), p=probability)
    return Batches(first, second, scipy.special.expit(score[first] - score[second]))


def fit_network(
    tokens: Int[np.ndarray, "M T"], mask: Bool[np.ndarray, "M T"], vocabulary: int, batches: Batches, width: int, seed: int
) -> RewardNetwork:
    """Train a network whose score differences are the log-odds of the preferences.

    Training is in float32, whatever jax's global settings; the returned network holds float64 NumPy arrays.
    """
    with numerics.pinned(x64=False), jax.numpy_dtype_promotion("standard"):
        model = _fit(tokens, mask, vocabulary, batches, width, jax.random.key(seed))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), model)


def _fit(tokens, mask, vocabulary: int, batches: Batches, width: int, key: PRNGKeyArray) -> RewardNetwork:
    parameters, rest = eqx.partition(RewardNetwork(vocabulary, width, key), eqx.is_inexact_array)
    optimizer = optax.adam(optax.linear_schedule(RATE, 0.0, len(batches.first)))
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)

    def loss(parameters, first, second, preferred):
        model = eqx.combine(parameters, rest)
        score = jax.vmap(model)
        log_odds = score(tokens[first], mask[first]) - score(tokens[second], mask[second])
        return jnp.mean(optax.sigmoid_binary_cross_entropy(log_odds, preferred))

    def step(state, batch):
        parameters, optimizer_state = state
        updates, optimizer_state = optimizer.update(jax.grad(loss)(parameters, *batch), optimizer_state, parameters)
        return (optax.apply_updates(parameters, updates), optimizer_state), None

    @jax.jit
    def train(parameters, batches):
        (parameters, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), batches)
        return parameters

    arrays = tuple(jnp.asarray(x, dtype) for x, dtype in zip(batches, "iif", strict=True))
    return eqx.combine(train(parameters, arrays), rest)


def scores(model: RewardNetwork, tokens: Int[np.ndarray, "M T"], mask: Bool[np.ndarray, "M T"]) -> Float[np.ndarray, " M"]:
    """The score of each sequence, computed in float32."""
    with numerics.pinned(x64=False):
        narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model)
        score = jax.jit(lambda *batch: jax.lax.map(lambda sequence: narrow(*sequence), batch, batch_size=AT_ONCE))
        return np.asarray(score(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)), np.float64)
