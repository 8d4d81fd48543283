"""Batches of weighted sequences, sampled or enumerated, and the positions that a policy reads along them."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import MOST_SEQUENCES, Automaton


class Batch(NamedTuple):
    """Sequences with weights that sum to 1: sampled (1/B each), counted (counts/B) or enumerated (pi(y)).

    states[:, 0] is the start and states[:, t+1] the state after token t; mask marks the tokens that were read. `size`
    is the number of draws behind the weights.
    """

    tokens: Int[Array | np.ndarray, "N T"]
    states: Int[Array | np.ndarray, "N T1"]
    mask: Bool[Array | np.ndarray, "N T"]
    weight: Float[Array | np.ndarray, " N"]
    size: int


class Positions(NamedTuple):
    """Distinct rows of log-probabilities, and which row each position of a batch reads."""

    log_pi: Float[Array, "R V"]
    log_ref: Float[Array, "R V"]
    row: Int[Array, "N T"]

    def at(self, rows: Float[Array, "R V"], batch: Batch) -> Float[Array, "N T"]:
        """The entry of each position's token in `rows`; 0 where no token was read."""
        return _read(rows[self.row, batch.tokens], batch)


def last(batch: Batch) -> Bool[Array, "N T"]:
    """The last token of each sequence."""
    mask = jnp.asarray(batch.mask)
    return mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))


def at_last(batch: Batch, of_sequence: Float[Array, " N"]) -> Float[Array, "N T"]:
    """A value of each sequence at its last token, and 0 elsewhere."""
    return jnp.where(last(batch), of_sequence[:, None], 0.0)


def _read(at_tokens: Float[Array, "N T"], batch: Batch) -> Float[Array, "N T"]:
    mask = jnp.asarray(batch.mask)
    return jnp.where(mask, jnp.where(mask, at_tokens, 0.0), 0.0)


def float_of(policy: AnyPolicy) -> Any:
    """The dtype of a policy's parameters."""
    return next(leaf.dtype for leaf in jax.tree.leaves(policy) if jnp.issubdtype(leaf.dtype, jnp.floating))


def is_enumerable(automaton: Automaton) -> bool:
    """Whether there are few enough sequences to list them all."""
    return automaton.sequences <= MOST_SEQUENCES


@lru_cache(maxsize=8)
def enumerate_all(automaton: Automaton) -> Batch:
    """Every legal sequence (NumPy arrays, on the host); its weight is for the caller to set, and NaN until then."""
    tokens, states = automaton.enumerated()
    return Batch(tokens, states, states[:, :-1] < automaton.decisions, np.full(len(tokens), np.nan), len(tokens))


def laid_out(log_pi: Float[Array, "N T V"], log_ref: Float[Array, "N T V"]) -> Positions:
    """Positions that each have a row of their own."""
    size, horizon, vocabulary = log_pi.shape
    row = jnp.arange(size * horizon, dtype=jnp.int32).reshape(size, horizon)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), row)
