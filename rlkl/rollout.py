"""Weighted sequences, and the rows of log-probabilities read along them.

N sequences, T horizon, D decision states, V vocabulary, R distinct rows.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl import threefry
from rlkl.policies import AnyPolicy, Network, Policy
from rlkl.tasks.automaton import MOST_SEQUENCES, Automaton

AT_ONCE = 1024  # sequences that a network scores at once where there are many
IN_ONE_PART = 32  # tokens that are summed, and searched, from the first to the last


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


def cumulative(log_pi: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
    """The rows' cumulative probabilities: they never fall, and do not rise at a token of probability zero.

    Long sums are taken in parts, whose rounding would have them do both by an ulp.
    """
    probability = jnp.exp(log_pi)
    sums = jnp.cumsum(probability, axis=-1)
    if log_pi.shape[-1] <= IN_ONE_PART:
        return sums
    return jax.lax.associative_scan(jnp.maximum, jnp.where(probability > 0.0, sums, 0.0), axis=-1)


def inverse_cdf(uniform: Float[Array, "*n"], cdf: Float[Array, "*n V"]) -> Int[Array, "*n"]:
    """The token of each uniform number in [0, 1): one number a draw, not one a token.

    The uniform is scaled by the row's last sum, so a token of probability zero is never drawn.
    """
    scaled = uniform[..., None] * cdf[..., -1:]
    drawn = jnp.sum(cdf <= scaled, axis=-1, dtype=jnp.int32)
    return jnp.minimum(drawn, cdf.shape[-1] - 1)


def draw(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Batch:
    """`size` sequences from a policy; of a table's one-token task, each token once with its count. No gradient flows."""
    policy = jax.lax.stop_gradient(policy)
    if automaton.horizon == 1 and isinstance(policy, Policy):
        return _count(key, automaton, policy.table()[0, automaton.start], size)
    return walk(uniforms(key, automaton, policy, size), automaton, policy)


def uniforms(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Float[Array, "T N"]:
    """The numbers behind `size` sequences, in the policy's dtype."""
    return threefry.uniform(key, (automaton.horizon, size), float_of(policy))


def float_of(policy: AnyPolicy) -> Any:
    """The dtype of a policy's parameters."""
    return next(leaf.dtype for leaf in jax.tree.leaves(policy) if jnp.issubdtype(leaf.dtype, jnp.floating))


def walk(uniform: Float[Array, "T N"], automaton: Automaton, policy: AnyPolicy) -> Batch:
    """The sequences that these uniform numbers are turned into."""
    return recorded(uniform, automaton, policy)[0]


def recorded(uniform: Float[Array, "T N"], automaton: Automaton, policy: AnyPolicy) -> tuple[Batch, Float[Array, "N T V"]]:
    """The sequences that these uniform numbers are turned into, and the log-probabilities that they were drawn from."""
    next_state, last = jnp.asarray(automaton.next_state), automaton.decisions - 1
    size = uniform.shape[1]
    carry, read = _reader(policy, size)

    def step(held, inputs):
        carry, token, state = held
        position, numbers = inputs
        alive, row = state <= last, jnp.minimum(state, last)
        carry, cdf, log_pi = read(carry, position, token, row)
        token = jnp.where(alive, inverse_cdf(numbers, cdf), 0)
        after = jnp.where(alive, next_state[row, token], state)
        return (carry, token, after), (token, after, alive, log_pi)

    start = jnp.full((size,), automaton.start, jnp.int32)
    before = jnp.full((size,), automaton.vocabulary, jnp.int32)
    inputs = (jnp.arange(automaton.horizon, dtype=jnp.int32), uniform)
    _, (tokens, after, mask, rows) = jax.lax.scan(step, (carry, before, start), inputs)
    states = jnp.concatenate([start[None], after])
    weight = jnp.full((size,), 1.0 / size, uniform.dtype)
    return Batch(tokens.T, states.T, mask.T, weight, size), jnp.swapaxes(rows, 0, 1)


def _reader(policy: AnyPolicy, size: int) -> tuple[Any, Callable]:
    """What a walk carries, and how it reads the next row: a table's cumulative rows are made once."""
    if isinstance(policy, Policy):
        rows = policy.rows()
        sums, last = cumulative(rows), rows.shape[0] - 1

        def look(carry, position, token, state):
            at = (jnp.minimum(position, last), state)
            return carry, sums[at], rows[at]

        return None, look

    def read(carry, position, token, state):
        carry, log_pi = policy.step(carry, token, state)
        return carry, cumulative(jax.lax.stop_gradient(log_pi)), log_pi

    return policy.start(size), read


def _count(key, automaton, row: Float[Array, " V"], size: int) -> Batch:
    """One-token sequences by how often each was drawn."""
    uniform = threefry.uniform(key, (size,), row.dtype)
    if automaton.vocabulary <= IN_ONE_PART:
        cdf = cumulative(row)
        below = (uniform[None, :] * cdf[-1] < cdf[:, None]).astype(row.dtype)
        below = below @ jnp.ones((size,), row.dtype)  # not a sum, which CPUs are slow at
        counts = jnp.diff(below, prepend=jnp.zeros((1,), row.dtype))
    else:
        counts = jnp.zeros_like(row).at[_found(uniform, jnp.exp(row))].add(1.0)
    tokens = jnp.arange(automaton.vocabulary, dtype=jnp.int32)[:, None]
    ends = jnp.asarray(np.maximum(automaton.next_state[automaton.start], 0))
    states = jnp.stack([jnp.full_like(ends, automaton.start), ends], axis=1)
    return Batch(tokens, states, (counts > 0.0)[:, None], counts / size, size)


def _found(uniform: Float[Array, " N"], probability: Float[Array, " V"]) -> Int[Array, " N"]:
    """The token of each uniform number, by the part it lies in and then within it: 2 sqrt(V) comparisons a number."""
    width = 16 * math.ceil(math.sqrt(probability.size) / 16)  # XLA sums sixteen at a time
    rest = jnp.zeros((-probability.size % width,), probability.dtype)
    within = jnp.cumsum(jnp.concatenate([probability, rest]).reshape(-1, width), axis=1)
    total = within[:, -1]
    upto = jnp.cumsum(total)
    scaled = uniform * upto[-1]
    part = jnp.minimum(jnp.sum(upto[None, :] <= scaled[:, None], axis=1, dtype=jnp.int32), total.size - 1)
    rest = scaled - (upto - total)[part]
    rest = jnp.clip(rest, 0.0, total[part] * (1.0 - jnp.finfo(total.dtype).eps))  # rounding may lead out of the part
    return part * width + jnp.sum(within[part] <= rest[:, None], axis=1, dtype=jnp.int32)


def is_enumerable(automaton: Automaton) -> bool:
    """Whether there are few enough sequences to list them all."""
    return automaton.sequences <= MOST_SEQUENCES


@lru_cache(maxsize=8)
def enumerate_all(automaton: Automaton) -> Batch:
    """Every legal sequence (NumPy arrays, on the host); its weight is for the caller to set, and NaN until then."""
    tokens, states = automaton.enumerated()
    return Batch(tokens, states, states[:, :-1] < automaton.decisions, np.full(len(tokens), np.nan), len(tokens))


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


def drawn(
    key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, size: int
) -> tuple[Batch, Positions]:
    """`draw` and the `positions` along it, which of a recurrent network are those it drew from: it is run once, not twice."""
    if isinstance(policy, Network) and policy.stepwise:
        batch, log_pi = recorded(uniforms(key, automaton, policy, size), automaton, policy)
        return batch, laid_out(log_pi, rows_along(reference, batch))
    batch = draw(key, automaton, policy, size)
    return batch, positions(automaton, policy, reference, batch)


def laid_out(log_pi: Float[Array, "N T V"], log_ref: Float[Array, "N T V"]) -> Positions:
    """Positions that each have a row of their own."""
    size, horizon, vocabulary = log_pi.shape
    row = jnp.arange(size * horizon, dtype=jnp.int32).reshape(size, horizon)
    return Positions(log_pi.reshape(-1, vocabulary), log_ref.reshape(-1, vocabulary), row)
