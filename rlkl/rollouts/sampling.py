"""Sequences sampled from a policy, by the inverse of its cumulative distribution, with the same uniforms in every block."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl.policies import AnyPolicy, Network, Policy
from rlkl.rollouts import threefry
from rlkl.rollouts.batch import Batch, Positions, float_of, laid_out
from rlkl.rollouts.scoring import positions, rows_along
from rlkl.tasks.automaton import Automaton

IN_ONE_PART = 32  # tokens that are summed, and searched, from the first to the last


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


def sample(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Batch:
    """`size` sequences from a policy; of a table's one-token task, each token once with its count. No gradient flows."""
    policy = jax.lax.stop_gradient(policy)
    if automaton.horizon == 1 and isinstance(policy, Policy):
        return _count(key, automaton, policy.table()[0, automaton.start], size)
    return walk(uniforms(key, automaton, policy, size), automaton, policy)


def uniforms(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Float[Array, "T N"]:
    """The numbers behind `size` sequences, in the policy's dtype."""
    return threefry.uniform(key, (automaton.horizon, size), float_of(policy))


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


def sample_with_positions(
    key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, size: int
) -> tuple[Batch, Positions]:
    """`draw` and the `positions` along it, which of a recurrent network are those it drew from: it is run once, not twice."""
    if isinstance(policy, Network) and policy.stepwise:
        batch, log_pi = recorded(uniforms(key, automaton, policy, size), automaton, policy)
        return batch, laid_out(log_pi, rows_along(reference, batch))
    batch = sample(key, automaton, policy, size)
    return batch, positions(automaton, policy, reference, batch)
