"""Sampling of sequences from a policy by inverse CDF."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl.policies import AnyPolicy, Network, Policy
from rlkl.rollouts.batch import Batch, Positions, enumerate_all, float_dtype, positions_from_rows
from rlkl.rollouts.scoring import positions, rows_along, sampling_log_probability
from rlkl.tasks.automaton import Automaton

SMALL_VOCABULARY = 32  # largest vocabulary whose probabilities are summed and searched in one pass


def cumulative(log_pi: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
    """The cumulative probabilities of each row. They never fall, and they do not rise at a token of probability zero.

    XLA splits long sums into parts, whose rounding could break both rules by an ulp; the running maximum prevents this.
    """
    probability = jnp.exp(log_pi)
    sums = jnp.cumsum(probability, axis=-1)
    if log_pi.shape[-1] <= SMALL_VOCABULARY:
        return sums
    return jax.lax.associative_scan(jnp.maximum, jnp.where(probability > 0.0, sums, 0.0), axis=-1)


def inverse_cdf(uniform: Float[Array, "*n"], cdf: Float[Array, "*n V"]) -> Int[Array, "*n"]:
    """The token sampled by each uniform number in [0, 1), by inverse CDF.

    The uniform is scaled by the last entry of the row, so that a token of probability zero is never sampled.
    """
    scaled = uniform[..., None] * cdf[..., -1:]
    token = jnp.sum(cdf <= scaled, axis=-1, dtype=jnp.int32)
    return jnp.minimum(token, cdf.shape[-1] - 1)


def sample(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Batch:
    """Sample `size` sequences from a policy, without gradients. A bandit's batch has each arm once, weighted by its count."""
    policy = jax.lax.stop_gradient(policy)
    if automaton.horizon == 1 and isinstance(policy, Policy):
        return _sample_counts(key, automaton, policy.table()[0, automaton.start], size)
    return walk(uniforms(key, automaton, policy, size), automaton, policy)


def weighted_batch(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Batch:
    """A batch of all sequences, weighted by their probabilities or, where there are too many, of `size` samples."""
    if not automaton.is_enumerable:
        return walk(uniforms(key, automaton, policy, size), automaton, policy)
    batch = enumerate_all(automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (batch.tokens, batch.states, batch.mask))
    return Batch(tokens, states, mask, jnp.exp(sampling_log_probability(policy, batch)), batch.size)


def uniforms(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Float[Array, "T N"]:
    """The uniform random numbers from which `size` sequences are sampled, in the policy's dtype."""
    return jax.random.uniform(key, (automaton.horizon, size), float_dtype(policy))


def walk(uniform: Float[Array, "T N"], automaton: Automaton, policy: AnyPolicy) -> Batch:
    """The batch of sequences that these uniform numbers sample, token by token."""
    return walk_with_rows(uniform, automaton, policy)[0]


def walk_with_rows(
    uniform: Float[Array, "T N"], automaton: Automaton, policy: AnyPolicy
) -> tuple[Batch, Float[Array, "N T V"]]:
    """The batch of `walk`, and the rows of log-probabilities that its tokens were sampled from."""
    next_state, last_decision = jnp.asarray(automaton.next_state), automaton.decisions - 1
    size = uniform.shape[1]
    carry, next_row = _row_reader(policy, size)

    def step(loop_state, inputs):
        carry, token, state = loop_state
        position, numbers = inputs
        alive, decision = state <= last_decision, jnp.minimum(state, last_decision)
        carry, cdf, log_pi = next_row(carry, position, token, decision)
        token = jnp.where(alive, inverse_cdf(numbers, cdf), 0)
        after = jnp.where(alive, next_state[decision, token], state)
        return (carry, token, after), (token, after, alive, log_pi)

    start = jnp.full((size,), automaton.start, jnp.int32)
    before = jnp.full((size,), automaton.vocabulary, jnp.int32)
    inputs = (jnp.arange(automaton.horizon, dtype=jnp.int32), uniform)
    _, (tokens, after, mask, rows) = jax.lax.scan(step, (carry, before, start), inputs)
    states = jnp.concatenate([start[None], after])
    weight = jnp.full((size,), 1.0 / size, uniform.dtype)
    return Batch(tokens.T, states.T, mask.T, weight, size), jnp.swapaxes(rows, 0, 1)


def _row_reader(policy: AnyPolicy, size: int) -> tuple[Any, Callable]:
    """The initial carry of a walk, and the function (carry, position, token, state) -> (carry, CDF, log-probabilities)."""
    if isinstance(policy, Policy):
        rows = policy.rows()
        sums, last = cumulative(rows), rows.shape[0] - 1

        def look_up(carry, position, token, state):
            index = (jnp.minimum(position, last), state)
            return carry, sums[index], rows[index]

        return None, look_up

    def step(carry, position, token, state):
        carry, log_pi = policy.step(carry, token, state)
        return carry, cumulative(jax.lax.stop_gradient(log_pi)), log_pi

    return policy.start(size), step


def _sample_counts(key, automaton, row: Float[Array, " V"], size: int) -> Batch:
    """The batch of `size` samples of a bandit, with each arm once, weighted by its count."""
    uniform = jax.random.uniform(key, (size,), row.dtype)
    if automaton.vocabulary <= SMALL_VOCABULARY:
        cdf = cumulative(row)
        below = (uniform[None, :] * cdf[-1] < cdf[:, None]).astype(row.dtype)
        below = below @ jnp.ones((size,), row.dtype)  # a matrix product, since sums are slow on CPUs
        counts = jnp.diff(below, prepend=jnp.zeros((1,), row.dtype))
    else:
        counts = jnp.zeros_like(row).at[_two_level_search(uniform, jnp.exp(row))].add(1.0)
    tokens = jnp.arange(automaton.vocabulary, dtype=jnp.int32)[:, None]
    ends = jnp.asarray(np.maximum(automaton.next_state[automaton.start], 0))
    states = jnp.stack([jnp.full_like(ends, automaton.start), ends], axis=1)
    return Batch(tokens, states, (counts > 0.0)[:, None], counts / size, size)


def _two_level_search(uniform: Float[Array, " N"], probability: Float[Array, " V"]) -> Int[Array, " N"]:
    """The token of each uniform number by inverse CDF: a search over blocks of tokens, then one within a block.

    It takes 2 sqrt(V) comparisons for each number.
    """
    width = 16 * math.ceil(math.sqrt(probability.size) / 16)  # XLA sums sixteen at a time
    padding = jnp.zeros((-probability.size % width,), probability.dtype)
    within = jnp.cumsum(jnp.concatenate([probability, padding]).reshape(-1, width), axis=1)
    total = within[:, -1]
    block_ends = jnp.cumsum(total)
    scaled = uniform * block_ends[-1]
    block = jnp.minimum(jnp.sum(block_ends[None, :] <= scaled[:, None], axis=1, dtype=jnp.int32), total.size - 1)
    remainder = scaled - (block_ends - total)[block]
    remainder = jnp.clip(remainder, 0.0, total[block] * (1.0 - jnp.finfo(total.dtype).eps))  # rounding must not leave the block
    return block * width + jnp.sum(within[block] <= remainder[:, None], axis=1, dtype=jnp.int32)


def sample_with_positions(
    key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, size: int
) -> tuple[Batch, Positions]:
    """Sample a batch and return it with its `positions`. A stepwise network runs once: its rows are reused."""
    if isinstance(policy, Network) and policy.stepwise:
        batch, log_pi = walk_with_rows(uniforms(key, automaton, policy, size), automaton, policy)
        return batch, positions_from_rows(log_pi, rows_along(reference, batch))
    batch = sample(key, automaton, policy, size)
    return batch, positions(automaton, policy, reference, batch)
