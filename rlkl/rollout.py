"""Weighted sequences, and the rows of log-probabilities read along them.

N sequences, T horizon, D decision states, V vocabulary, R distinct rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl.tasks.automaton import Automaton


class Batch(NamedTuple):
    """Sequences with weights that sum to 1: sampled (1/B each), counted (counts/B) or enumerated (pi(y)).

    states[:, 0] is the start and states[:, t+1] the state after token t; mask marks the tokens that were read. `size`
    is the number of draws behind the weights.
    """

    tokens: Int[Array, "N T"]
    states: Int[Array, "N T1"]
    mask: Bool[Array, "N T"]
    weight: Float[Array, " N"]
    size: int


class Positions(NamedTuple):
    """Distinct rows of log-probabilities, and which row each position of a batch reads."""

    log_pi: Float[Array, "R V"]
    log_ref: Float[Array, "R V"]
    row: Int[Array, "N T"]

    def at(self, rows: Float[Array, "R V"], batch: Batch) -> Float[Array, "N T"]:
        """The entry of each position's token in `rows`; 0 where no token was read."""
        read = rows[self.row, batch.tokens]
        return jnp.where(batch.mask, jnp.where(batch.mask, read, 0.0), 0.0)


def inverse_cdf(uniform: Float[Array, "*n"], log_pi: Float[Array, "*n V"]) -> Int[Array, "*n"]:
    """The token of each uniform number in [0, 1): one number a draw, not one a token.

    The uniform is scaled by the row's last sum, so a token of probability zero is never drawn.
    """
    cdf = jnp.cumsum(jnp.exp(log_pi), axis=-1)
    scaled = uniform[..., None] * cdf[..., -1:]
    drawn = jnp.sum((cdf <= scaled).astype(jnp.int32), axis=-1)
    return jnp.minimum(drawn, log_pi.shape[-1] - 1)


def draw(key: PRNGKeyArray, automaton: Automaton, log_pi: Float[Array, "T D V"], size: int) -> Batch:
    """`size` sequences from a table policy; of a one-token task, each token once with its count."""
    if automaton.horizon == 1:
        return _count(key, automaton, log_pi[0, automaton.start], size)
    next_state = jnp.asarray(automaton.next_state)
    last = automaton.decisions - 1

    def step(state, inputs):
        uniform, rows = inputs
        alive = state <= last
        row = jnp.minimum(state, last)
        token = jnp.where(alive, inverse_cdf(uniform, rows[row]), 0)
        after = jnp.where(alive, next_state[row, token], state)
        return after, (token, after, alive)

    start = jnp.full((size,), automaton.start, jnp.int32)
    uniforms = jax.random.uniform(key, (automaton.horizon, size), log_pi.dtype)
    _, (tokens, after, mask) = jax.lax.scan(step, start, (uniforms, log_pi))
    states = jnp.concatenate([start[None], after])
    weight = jnp.full((size,), 1.0 / size, log_pi.dtype)
    return Batch(tokens.T, states.T, mask.T, weight, size)


def _count(key, automaton, row: Float[Array, " V"], size: int) -> Batch:
    """One-token sequences by how often each was drawn: no gather, whatever the batch size."""
    uniform = jax.random.uniform(key, (size,), row.dtype)
    cdf = jnp.cumsum(jnp.exp(row))
    below = jnp.sum((uniform[:, None] * cdf[-1] < cdf[None, :]).astype(row.dtype), axis=0)
    counts = jnp.diff(below, prepend=jnp.zeros((1,), row.dtype))
    tokens = jnp.arange(automaton.vocabulary, dtype=jnp.int32)[:, None]
    ends = jnp.asarray(np.maximum(automaton.next_state[automaton.start], 0))
    states = jnp.stack([jnp.full_like(ends, automaton.start), ends], axis=1)
    return Batch(tokens, states, (counts > 0.0)[:, None], counts / size, size)


def positions(automaton: Automaton, log_pi: Float[Array, "T D V"], log_ref: Float[Array, "T D V"], batch: Batch) -> Positions:
    """The rows of a table policy along a batch: R = T x D, each computed once however often it is read."""
    horizon, decisions, vocabulary = log_pi.shape
    rows = (horizon * decisions, vocabulary)
    state = jnp.minimum(batch.states[:, :-1], decisions - 1)
    index = jnp.arange(horizon, dtype=state.dtype)[None, :] * decisions + state
    return Positions(log_pi.reshape(rows), log_ref.reshape(rows), index)
