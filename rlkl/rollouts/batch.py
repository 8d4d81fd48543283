"""Batches of weighted sequences, sampled or enumerated, and the log-probabilities at their positions.

A row is the vector of log-probabilities of the next token at one position.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import Automaton


class Batch(NamedTuple):
    """Sequences and their weights, which sum to 1: 1/B for B samples, counts/B for counted arms, pi(y) for all sequences.

    states[:, 0] is the start state, states[:, t+1] the state after token t. mask is true for tokens up to the end of a sequence
    and false for padding. size is the number of samples that the weights come from. groups is the number of groups: equally
    many consecutive sequences each, all of one prompt and of one total weight, whose returns an algorithm compares.
    """

    tokens: Int[Array | np.ndarray, "N T"]
    states: Int[Array | np.ndarray, "N T1"]
    mask: Bool[Array | np.ndarray, "N T"]
    weight: Float[Array | np.ndarray, " N"]
    size: int
    groups: int = 1

    def mean(self, values: Float[Array, "N ..."]) -> Float[Array, "..."]:
        """The weighted mean over the batch, as a product: on CPUs sums over the first axis of an array are slow."""
        return jnp.tensordot(jnp.asarray(self.weight), values, 1, precision=jax.lax.Precision.HIGHEST)


class Positions(NamedTuple):
    """The distinct rows of policy and reference, and `row`, the index of each position's row."""

    log_pi: Float[Array, "R V"]
    log_ref: Float[Array, "R V"]
    row: Int[Array | np.ndarray, "N T"]

    def at_tokens(self, rows: Float[Array, "R V"], batch: Batch) -> Float[Array, "N T"]:
        """The entry of the rows at each token of the batch; 0 at padding."""
        if has_each_entry_once(batch, self.row, rows.shape):
            return zero_at_padding(rows.reshape(-1, 1), batch)
        return zero_at_padding(rows[self.row, batch.tokens], batch)

    def at_positions(self, values: Float[Array, " R"], batch: Batch) -> Float[Array, "N T"]:
        """The value of each position's row; 0 at padding."""
        if values.shape[0] == 1:
            return jnp.where(batch.mask, values, 0.0)
        count = len(batch.tokens) // values.shape[0]
        if has_each_entry_once(batch, self.row, (values.shape[0], count)):
            return jnp.where(batch.mask, jnp.repeat(values, count)[:, None], 0.0)
        return jnp.where(batch.mask, values[self.row], 0.0)


LARGE = 32  # entries above which a gather of each one once takes longer than the table that it gathers


def has_each_entry_once(batch: Batch, row: Int[Array | np.ndarray, "N T"], shape: tuple[int, ...]) -> bool:
    """Whether a bandit's batch has each entry of a table of this shape (rows, tokens) once, in order.

    The entries along the batch are then the table itself. It is known of NumPy arrays only. A gather in its place would take
    longer than the rest, and its gradient is a scatter; for small tables both are fused with what reads them, and faster.
    """
    size, tokens = shape[0] * shape[1], batch.tokens
    if size <= LARGE or tokens.shape != (size, 1) or not (isinstance(tokens, np.ndarray) and isinstance(row, np.ndarray)):
        return False
    return np.array_equal(row * shape[1] + tokens, np.arange(size)[:, None])


def last_token_mask(batch: Batch) -> Bool[Array, "N T"]:
    """A mask that is true at the last token of each sequence."""
    mask = jnp.asarray(batch.mask)
    return mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))


def at_last_token(batch: Batch, per_sequence: Float[Array, " N"]) -> Float[Array, "N T"]:
    """An array with each sequence's value at its last token, and 0 elsewhere."""
    return jnp.where(last_token_mask(batch), per_sequence[:, None], 0.0)


def zero_at_padding(at_tokens: Float[Array, "N T"], batch: Batch) -> Float[Array, "N T"]:
    """The values at the tokens of a batch; 0 at padding, and with a zero gradient there."""
    mask = jnp.asarray(batch.mask)
    return jnp.where(mask, jnp.where(mask, at_tokens, 0.0), 0.0)


def float_dtype(policy: AnyPolicy) -> Any:
    """The floating-point dtype of a policy's parameters."""
    return next(leaf.dtype for leaf in jax.tree.leaves(policy) if jnp.issubdtype(leaf.dtype, jnp.floating))


@lru_cache(maxsize=8)
def enumerate_all(automaton: Automaton) -> Batch:
    """A batch of all legal sequences, prompt by prompt, as NumPy arrays. The weights are NaN until the caller sets them."""
    tokens, states = automaton.enumerated()
    return Batch(tokens, states, states[:, :-1] < automaton.decisions, np.full(len(tokens), np.nan), len(tokens))


def joint_log_probability(automaton: Automaton, batch: Batch, log_probability: Float[Array, " N"]) -> Float[Array, " N"]:
    """The log-probability of prompt and sequence, from that of each sequence given its prompt."""
    if automaton.prompts == 1:
        return log_probability
    log_weight = jnp.asarray(np.log(automaton.prompt_weights), log_probability.dtype)
    return log_probability + log_weight[jnp.asarray(automaton.prompt_of)[batch.states[:, 0]]]


def positions_from_rows(log_pi: Float[Array, "N T V"], log_ref: Float[Array, "N T V"]) -> Positions:
    """Positions from a policy's and a reference's row at every position of every sequence."""
    size, horizon, vocabulary = log_pi.shape
    row = jnp.arange(size * horizon, dtype=jnp.int32).reshape(size, horizon)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), row)
