"""Batches of weighted sequences, sampled or enumerated, and the log-probabilities at their positions."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import Automaton


class Batch(NamedTuple):
    """Sequences with weights that sum to 1: sampled (1/B each), counted (counts/B) or enumerated (pi(y)).

    states[:, 0] is the start state, states[:, t+1] the state after token t. mask is true for tokens up to the end of a sequence
    and false for padding. size is the number of samples behind the weights.
    """

    tokens: Int[Array | np.ndarray, "N T"]
    states: Int[Array | np.ndarray, "N T1"]
    mask: Bool[Array | np.ndarray, "N T"]
    weight: Float[Array | np.ndarray, " N"]
    size: int


class Positions(NamedTuple):
    """The distinct rows of log-probabilities of policy and reference, and the row of each position in a batch."""

    log_pi: Float[Array, "R V"]
    log_ref: Float[Array, "R V"]
    row: Int[Array, "N T"]

    def at_tokens(self, rows: Float[Array, "R V"], batch: Batch) -> Float[Array, "N T"]:
        """The entry of `rows` at each token of the batch; 0 at padding."""
        return _read(rows[self.row, batch.tokens], batch)


def last(batch: Batch) -> Bool[Array, "N T"]:
    """The mask of the last token of each sequence."""
    mask = jnp.asarray(batch.mask)
    return mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))


def at_last(batch: Batch, per_sequence: Float[Array, " N"]) -> Float[Array, "N T"]:
    """Put a value for each sequence at its last token, and 0 elsewhere."""
    return jnp.where(last(batch), per_sequence[:, None], 0.0)


def _read(at_tokens: Float[Array, "N T"], batch: Batch) -> Float[Array, "N T"]:
    mask = jnp.asarray(batch.mask)
    return jnp.where(mask, jnp.where(mask, at_tokens, 0.0), 0.0)


def float_dtype(policy: AnyPolicy) -> Any:
    """The floating-point dtype of a policy's parameters."""
    return next(leaf.dtype for leaf in jax.tree.leaves(policy) if jnp.issubdtype(leaf.dtype, jnp.floating))


@lru_cache(maxsize=8)
def enumerate_all(automaton: Automaton) -> Batch:
    """The batch of every legal sequence, as NumPy arrays. The weights are NaN; the caller sets them."""
    tokens, states = automaton.enumerated()
    return Batch(tokens, states, states[:, :-1] < automaton.decisions, np.full(len(tokens), np.nan), len(tokens))


def positions_from_rows(log_pi: Float[Array, "N T V"], log_ref: Float[Array, "N T V"]) -> Positions:
    """Positions with a separate row for each position of each sequence."""
    size, horizon, vocabulary = log_pi.shape
    row = jnp.arange(size * horizon, dtype=jnp.int32).reshape(size, horizon)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), row)
