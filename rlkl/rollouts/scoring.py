"""Log-probabilities of a policy along the sequences of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlkl.policies import AnyPolicy, Policy
from rlkl.rollouts.batch import Batch, Positions, has_each_entry_once, positions_from_rows, zero_at_padding
from rlkl.tasks.automaton import Automaton

CHUNK_SIZE = 1024  # sequences that a network scores at once


def rows_along(policy: AnyPolicy, batch: Batch) -> Float[Array, "N T V"]:
    """The policy's row of next-token log-probabilities at every position of a batch. Networks score large batches in chunks."""
    if isinstance(policy, Policy):
        table = policy.table()
        return table[(*_table_indices(table, batch),)]
    if batch.tokens.shape[0] <= CHUNK_SIZE:
        return policy.score(jnp.asarray(batch.tokens), jnp.asarray(batch.states))

    def score_one(sequence):
        tokens, states = sequence
        return policy.score(tokens[None], states[None])[0]

    return jax.lax.map(score_one, (jnp.asarray(batch.tokens), jnp.asarray(batch.states)), batch_size=CHUNK_SIZE)


def _table_indices(
    table: Float[Array, "P D V"], batch: Batch
) -> tuple[Int[Array | np.ndarray, "1 T"], Int[Array | np.ndarray, "N T"]]:
    """The indices (position, decision state) into a table for each token. At padding they are valid but meaningless."""
    if isinstance(batch.states, np.ndarray):
        states = np.minimum(batch.states[:, :-1], table.shape[1] - 1)
        return np.minimum(np.arange(states.shape[1], dtype=states.dtype), table.shape[0] - 1)[None, :], states
    state = jnp.minimum(batch.states[:, :-1], table.shape[1] - 1)
    return jnp.minimum(jnp.arange(state.shape[1], dtype=state.dtype), table.shape[0] - 1)[None, :], state


def entries_along(table: Float[Array, "T D V"], batch: Batch) -> Float[Array, "N T"]:
    """The entry of a table (position, state, token) at each token of the batch; 0 at padding."""
    position, state = _table_indices(table, batch)
    if table.shape[0] == 1 and has_each_entry_once(batch, state, table.shape[1:]):
        return zero_at_padding(table.reshape(-1, 1), batch)
    return zero_at_padding(table[position, state, batch.tokens], batch)


def log_probability(policy: AnyPolicy, batch: Batch) -> Float[Array, " N"]:
    """The log-probability log pi(y) of each sequence, in nats."""
    return jnp.sum(token_log_probability(policy, batch), axis=1)


def token_log_probability(policy: AnyPolicy, batch: Batch) -> Float[Array, "N T"]:
    """The log-probability of each token given those before it; 0 at padding."""
    if isinstance(policy, Policy):
        return entries_along(policy.table(), batch)
    return _at_tokens(rows_along(policy, batch), batch)


def sampling_log_probability(sampler: AnyPolicy, batch: Batch) -> Float[Array, " N"]:
    """The log-probability with which `sampling.sample` draws each sequence.

    It differs from `log_probability` where rows are rounded and do not sum to 1, since sampling normalises them.
    """
    return jnp.sum(_at_tokens(jax.nn.log_softmax(rows_along(sampler, batch), axis=-1), batch), axis=1)


def _at_tokens(rows: Float[Array, "N T V"], batch: Batch) -> Float[Array, "N T"]:
    """The entry of each position's row at its token; 0 at padding."""
    return zero_at_padding(jnp.take_along_axis(rows, jnp.asarray(batch.tokens)[..., None], axis=-1)[..., 0], batch)


def positions(automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, batch: Batch) -> Positions:
    """The rows of a policy and its reference at the positions of a batch.

    If both are tables, each distinct row is computed once: R = T x D rows, or D if neither depends on the position. Otherwise
    each position has its own row: R = N x T.
    """
    if not (isinstance(policy, Policy) and isinstance(reference, Policy)):
        return positions_from_rows(rows_along(policy, batch), rows_along(reference, batch))
    log_pi, log_ref = jnp.broadcast_arrays(policy.rows(), reference.rows())
    _, decisions, vocabulary = log_pi.shape
    position, state = _table_indices(log_pi, batch)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), position * decisions + state)


def kept_mass(automaton: Automaton, policy: AnyPolicy, sampler: AnyPolicy, batch: Batch) -> Float[Array, "N T"]:
    """The policy's probability of the tokens that the sampler can take, at each position; 0 at padding. No gradient flows."""
    both = jax.lax.stop_gradient(positions(automaton, policy, sampler, batch))
    mass = jnp.sum(jnp.where(both.log_ref > -jnp.inf, jnp.exp(both.log_pi), 0.0), axis=-1)
    return both.at_positions(mass, batch)
