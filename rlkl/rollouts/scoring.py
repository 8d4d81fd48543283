"""Log-probabilities of policies along a batch of sequences."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlkl.policies import AnyPolicy, Policy
from rlkl.rollouts.batch import Batch, Positions, _read, laid_out
from rlkl.tasks.automaton import Automaton

AT_ONCE = 1024  # sequences that a network scores at once where there are many


def rows_along(policy: AnyPolicy, batch: Batch) -> Float[Array, "N T V"]:
    """The log-probabilities at every position of a batch; a network reads a long one a part at a time."""
    if isinstance(policy, Policy):
        table = policy.table()
        return table[(*_places(table, batch),)]
    if batch.tokens.shape[0] <= AT_ONCE:
        return policy.score(jnp.asarray(batch.tokens), jnp.asarray(batch.states))
    one = lambda part: policy.score(part[0][None], part[1][None])[0]  # noqa: E731
    return jax.lax.map(one, (jnp.asarray(batch.tokens), jnp.asarray(batch.states)), batch_size=AT_ONCE)


def _places(table: Float[Array, "P D V"], batch: Batch) -> tuple[Int[Array, "1 T"], Int[Array, "N T"]]:
    """Position and decision state of each token (past the end, any state will do)."""
    state = jnp.minimum(jnp.asarray(batch.states[:, :-1]), table.shape[1] - 1)
    return jnp.minimum(jnp.arange(state.shape[1], dtype=state.dtype), table.shape[0] - 1)[None, :], state


def along(table: Float[Array, "T D V"], batch: Batch) -> Float[Array, "N T"]:
    """The entry of each position's token in a table; 0 where no token was read."""
    return _read(table[(*_places(table, batch), jnp.asarray(batch.tokens))], batch)


def log_probability(policy: AnyPolicy, batch: Batch) -> Float[Array, " N"]:
    """log pi(y) of each sequence."""
    return jnp.sum(token_log_probability(policy, batch), axis=1)


def token_log_probability(policy: AnyPolicy, batch: Batch) -> Float[Array, "N T"]:
    """log pi of each token; 0 where none was read."""
    if isinstance(policy, Policy):
        return along(policy.table(), batch)
    return _at_tokens(rows_along(policy, batch), batch)


def drawn_log_probability(sampler: AnyPolicy, batch: Batch) -> Float[Array, " N"]:
    """The log-probability that `draw` draws each sequence with: a sampler's rows, rounded, need not sum to 1."""
    return jnp.sum(_at_tokens(jax.nn.log_softmax(rows_along(sampler, batch), axis=-1), batch), axis=1)


def _at_tokens(rows: Float[Array, "N T V"], batch: Batch) -> Float[Array, "N T"]:
    return _read(jnp.take_along_axis(rows, jnp.asarray(batch.tokens)[..., None], axis=-1)[..., 0], batch)


def positions(automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, batch: Batch) -> Positions:
    """The rows of a policy and its reference along a batch: where both are tables, R = T x D, or D where neither changes with
    the position, each row computed once however often it is read; else N x T."""
    if not (isinstance(policy, Policy) and isinstance(reference, Policy)):
        return laid_out(rows_along(policy, batch), rows_along(reference, batch))
    log_pi, log_ref = jnp.broadcast_arrays(policy.rows(), reference.rows())
    _, decisions, vocabulary = log_pi.shape
    position, state = _places(log_pi, batch)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), position * decisions + state)
