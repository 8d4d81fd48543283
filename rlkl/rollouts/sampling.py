"""Sampling of sequences from a policy by inverse CDF."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl.policies import AnyPolicy, Network, Policy
from rlkl.rollouts.batch import (
    Batch,
    Positions,
    enumerate_all,
    float_dtype,
    joint_log_probability,
    positions_from_rows,
)
from rlkl.rollouts.scoring import CHUNK_SIZE, positions, rows_along, sampling_log_probability
from rlkl.tasks.automaton import Automaton

PROMPTS = 2**31 - 7  # folded into the key of a batch's prompts; training folds in its steps, from 0
PART = 32  # largest number of probabilities that are summed and searched in one pass


def cumulative(log_pi: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
    """The cumulative probabilities of each row. They never fall, and they do not rise at a token of probability zero."""
    probability = jnp.exp(log_pi)
    if probability.shape[-1] <= PART:
        return jnp.cumsum(probability, axis=-1)
    return _joined(_sums_in_parts(probability), probability.shape[-1])


def _sums_in_parts(x: Float[Array, "*n V"]) -> Float[Array, "*n P W"]:
    """Cumulative sums of numbers that are not negative, in P parts of W; the last part is continued by its total.

    They are products with triangular matrices of ones, on a CPU several times as fast as `jnp.cumsum`. All sums of a product
    add the same numbers, or zeros in their place, in the same order, and rounding preserves order: so no sum is below the one
    before it, and it equals that one where zero was added. The sums up to the end of each part are computed alike and bound
    those within it, so that this holds from part to part.
    """
    full = x.shape[-1] // PART * PART  # the rest is not padded: XLA would not vectorise the exponentials before a pad
    within = _triangular_product(x[..., :full].reshape(*x.shape[:-1], -1, PART))
    if full < x.shape[-1]:
        within = jnp.concatenate([within, _triangular_product(x[..., None, full:])], axis=-2)
    totals = within[..., -1:]
    count = within.shape[-2]
    of_parts = totals[..., 0]
    ends = _triangular_product(of_parts)[..., :count] if count <= PART else _joined(_sums_in_parts(of_parts), count)
    ends = ends[..., None]
    starts = jnp.concatenate([jnp.zeros_like(ends[..., :1, :]), ends[..., :-1, :]], axis=-2)
    return jnp.where(within == totals, ends, jnp.minimum(starts + within, ends))


def _joined(parts: Float[Array, "*n P W"], size: int) -> Float[Array, "*n V"]:
    """The parts as rows of this size, without the padding of the last part."""
    return parts.reshape(*parts.shape[:-2], -1)[..., :size]


def _triangular_product(x: Float[Array, "*n K"]) -> Float[Array, "*n W"]:
    """The cumulative sums of each row, as a product; rows are continued to PART sums by their total."""
    ones = np.triu(np.ones((x.shape[-1], PART)))
    return jnp.matmul(x, jnp.asarray(ones, x.dtype), precision=jax.lax.Precision.HIGHEST)


def inverse_cdf(uniform: Float[Array, " N"], cdf: Float[Array, "R V"], row: Int[Array, " N"]) -> Int[Array, " N"]:
    """The token sampled by each uniform number in [0, 1) from its row of the CDF, by a binary search.

    The uniform is scaled by the last entry of the row, so that a token of probability zero is never sampled.
    """
    entries, last = cdf.reshape(-1), cdf.shape[1] - 1
    start = row * cdf.shape[1]

    def entry(token):
        return entries.at[start + token].get(mode="promise_in_bounds")

    scaled = uniform * entry(last)
    token = jnp.zeros_like(row)
    for step in (1 << bit for bit in reversed(range(last.bit_length()))):
        beyond = token + step  # the entries before it are not above the number, if the one just before it is not
        token = jnp.where((beyond <= last) & (entry(jnp.minimum(beyond, last) - 1) <= scaled), beyond, token)
    return token


def sample(
    key: PRNGKeyArray,
    automaton: Automaton,
    policy: AnyPolicy,
    size: int,
    start: Int[Array | np.ndarray, " groups"] | None = None,
) -> Batch:
    """Sample `size` sequences from a policy, equally many from the start state of each group, without gradients.

    start: by default there is one group, of a prompt that is drawn by the prompts' weights. Each group of a bandit with few
    arms has each arm once, weighted by its count.
    """
    policy = jax.lax.stop_gradient(policy)
    rows = policy.table()[0] if automaton.horizon == 1 and isinstance(policy, Policy) else None
    if rows is not None and automaton.prompts == 1 and start is None:
        return _sample_counts(key, automaton, rows[int(automaton.starts[0])], size)
    start = prompt_starts(key, automaton, 1) if start is None else start
    groups = start.shape[0]
    if rows is not None and automaton.vocabulary <= min(PART, size // groups):
        return _sample_group_counts(key, automaton, rows, start, size)
    batch = walk(uniforms(key, automaton, policy, size), automaton, policy, jnp.repeat(start, size // groups))
    return batch._replace(groups=groups)


def prompt_starts(key: PRNGKeyArray, automaton: Automaton, groups: int) -> Int[Array | np.ndarray, " groups"]:
    """The start states of `groups` prompts, drawn by the prompts' weights.

    One uniform number is drawn, and the others follow in equal steps (systematic sampling): a prompt of weight w is drawn
    `groups` w times, rounded up or down, and in expectation exactly as often. Where these are whole numbers, nothing is left
    to chance, and the start states are a NumPy array.
    """
    times = groups * automaton.prompt_weights
    if np.allclose(times, np.rint(times), rtol=0.0, atol=1e-9):
        return np.repeat(automaton.starts, np.rint(times).astype(int))
    first = jax.random.uniform(jax.random.fold_in(key, PROMPTS), (), jnp.float32)
    position = (jnp.arange(groups, dtype=jnp.float32) + first) / groups
    return _start_at(automaton, position)


def independent_starts(key: PRNGKeyArray, automaton: Automaton, size: int) -> Int[Array, " N"]:
    """The start state of each of `size` sequences, whose prompts are drawn independently by their weights."""
    if automaton.prompts == 1:
        return jnp.full((size,), int(automaton.starts[0]), jnp.int32)
    return _start_at(automaton, jax.random.uniform(jax.random.fold_in(key, PROMPTS), (size,), jnp.float32))


def _start_at(automaton: Automaton, position: Float[Array, " N"]) -> Int[Array, " N"]:
    """The start state of the prompt at each position in [0, 1) of the prompts' cumulative weights."""
    ends = np.cumsum(automaton.prompt_weights)[:-1].astype(np.float32)
    return jnp.asarray(automaton.starts)[jnp.sum(ends[None, :] <= position[:, None], axis=1, dtype=jnp.int32)]


def weighted_batch(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Batch:
    """A batch of all sequences, weighted by their probabilities or, where there are too many, of `size` samples."""
    if not automaton.is_enumerable:
        start = independent_starts(key, automaton, size)
        return walk(uniforms(key, automaton, policy, size), automaton, policy, start)
    batch = enumerate_all(automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (batch.tokens, batch.states, batch.mask))
    weight = jnp.exp(joint_log_probability(automaton, batch, sampling_log_probability(policy, batch)))
    return Batch(tokens, states, mask, weight, batch.size)


def uniforms(key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int) -> Float[Array, "T N"]:
    """The uniform random numbers from which `size` sequences are sampled, in the policy's dtype."""
    return jax.random.uniform(key, (automaton.horizon, size), float_dtype(policy))


def walk(uniform: Float[Array, "T N"], automaton: Automaton, policy: AnyPolicy, start: Int[Array, " N"]) -> Batch:
    """The batch of sequences that these uniform numbers sample from these start states, token by token."""
    return _walk(uniform, automaton, policy, start)[0]


def sample_with_rows(
    key: PRNGKeyArray, automaton: Automaton, policy: AnyPolicy, size: int
) -> tuple[Batch, Float[Array, "N T V"]]:
    """`size` independent sequences, and the rows of log-probabilities that their tokens were sampled from."""
    start = independent_starts(key, automaton, size)
    return _walk(uniforms(key, automaton, policy, size), automaton, policy, start)[:2]


def _walk(uniform, automaton: Automaton, policy: AnyPolicy, start) -> tuple[Batch, Float[Array, "N T V"], Any]:
    """The batch of `walk`, the rows of log-probabilities that its tokens were sampled from, and the policy's last carry."""
    next_state, last_decision = jnp.asarray(automaton.next_state).reshape(-1), automaton.decisions - 1
    size = uniform.shape[1]
    carry, next_row = _row_reader(policy, size)

    def step(loop_state, inputs):
        carry, token, state = loop_state
        position, numbers = inputs
        alive, decision = state <= last_decision, jnp.minimum(state, last_decision)
        carry, cdf, row, log_pi = next_row(carry, position, token, decision)
        token = jnp.where(alive, inverse_cdf(numbers, cdf, row), 0)
        after = next_state.at[decision * automaton.vocabulary + token].get(mode="promise_in_bounds")
        after = jnp.where(alive, after, state)
        return (carry, token, after), (token, after, log_pi)

    before = jnp.full((size,), automaton.vocabulary, jnp.int32)
    if automaton.prompts > 1:
        before = before + jnp.asarray(automaton.prompt_of)[start]
    inputs = (jnp.arange(automaton.horizon, dtype=jnp.int32), uniform)
    (carry, _, _), (tokens, after, rows) = jax.lax.scan(step, (carry, before, start), inputs)
    states = jnp.concatenate([start[None], after])
    weight = jnp.full((size,), 1.0 / size, uniform.dtype)
    batch = Batch(tokens.T, states.T, (states[:-1] <= last_decision).T, weight, size)
    return batch, jnp.swapaxes(rows, 0, 1), carry


def _row_reader(policy: AnyPolicy, size: int) -> tuple[Any, Callable]:
    """The initial carry of a walk, and a function that reads the next rows.

    It maps (carry, position, token, state) to (carry, CDFs, the index of each sequence's CDF, log-probabilities).
    """
    if isinstance(policy, Policy):
        rows = policy.rows()
        last, states, vocabulary = rows.shape[0] - 1, *rows.shape[1:]
        log_pi = rows.reshape(-1, vocabulary)
        sums = cumulative(log_pi)

        def look_up(carry, position, token, state):
            row = jnp.minimum(position, last) * states + state
            return carry, sums, row, log_pi[row]

        return None, look_up

    def step(carry, position, token, state):
        carry, log_pi = policy.step(carry, token, state)
        return carry, cumulative(jax.lax.stop_gradient(log_pi)), jnp.arange(size, dtype=jnp.int32), log_pi

    return policy.start(size), step


def _sample_counts(key, automaton, row: Float[Array, " V"], size: int) -> Batch:
    """The batch of `size` samples of a bandit, with each arm once, weighted by its count."""
    uniform = jax.random.uniform(key, (size,), row.dtype)
    if automaton.vocabulary <= PART:
        cdf = cumulative(row)
        below = (uniform[None, :] * cdf[-1] < cdf[:, None]).astype(row.dtype)
        below = below @ jnp.ones((size,), row.dtype)  # a matrix product, since sums are slow on CPUs
        counts = jnp.diff(below, prepend=jnp.zeros((1,), row.dtype))
    else:
        counts = _counts_in_parts(uniform, _sums_in_parts(jnp.exp(row)))[: automaton.vocabulary]
    tokens = np.arange(automaton.vocabulary, dtype=np.int32)[:, None]
    ends = np.maximum(automaton.next_state[automaton.starts[0]], 0)
    states = np.stack([np.full_like(ends, automaton.starts[0]), ends], axis=1)
    return Batch(tokens, states, (counts > 0.0)[:, None], counts / size, size)


def _sample_group_counts(
    key, automaton, rows: Float[Array, "D V"], start: Int[Array | np.ndarray, " groups"], size: int
) -> Batch:
    """The batch of `size` samples of a bandit in groups, with each arm once in each group, weighted by its count."""
    groups, vocabulary = start.shape[0], automaton.vocabulary
    uniform = jax.random.uniform(key, (groups, 1, size // groups), rows.dtype)
    is_static = isinstance(start, np.ndarray)
    cdf = cumulative(rows if is_static and np.array_equal(start, np.arange(len(rows))) else rows[start])
    below = jnp.sum((uniform * cdf[:, -1:, None] < cdf[:, :, None]).astype(rows.dtype), axis=-1)
    counts = jnp.diff(below, axis=1, prepend=jnp.zeros((groups, 1), rows.dtype)).reshape(-1)
    tokens = np.tile(np.arange(vocabulary, dtype=np.int32), groups)[:, None]
    numpy_or_jax: Any = np if is_static else jnp
    ends = numpy_or_jax.asarray(np.maximum(automaton.next_state, 0))[start].reshape(-1)
    states = numpy_or_jax.stack([numpy_or_jax.repeat(start, vocabulary), ends], axis=1)
    return Batch(tokens, states, (counts > 0.0)[:, None], counts / size, size, groups)


def _counts_in_parts(uniform: Float[Array, " N"], cdf: Float[Array, "P W"]) -> Float[Array, " PW"]:
    """How many of the uniform numbers sample each token by inverse CDF: a search over the parts, then one within the part."""
    ends = cdf[:, -1]
    scaled = uniform * ends[-1]
    part = jnp.sum(ends[None, :] <= scaled[:, None], axis=1, dtype=jnp.int32)
    token = part * PART + jnp.sum(cdf[part] <= scaled[:, None], axis=1, dtype=jnp.int32)
    return jnp.zeros((cdf.size,), cdf.dtype).at[token].add(1.0)


def sample_with_positions(
    key: PRNGKeyArray,
    automaton: Automaton,
    policy: AnyPolicy,
    reference: AnyPolicy,
    size: int,
    start: Int[Array | np.ndarray, " groups"] | None = None,
) -> tuple[Batch, Positions]:
    """Sample a batch as `sample` does, with its `positions`. What a network computed while it sampled is reused."""
    if isinstance(policy, Network) and (policy.stepwise or size <= CHUNK_SIZE):
        sampler = policy if policy.stepwise else jax.lax.stop_gradient(policy)
        start = prompt_starts(key, automaton, 1) if start is None else start
        groups = start.shape[0]
        starts = jnp.repeat(start, size // groups)
        batch, log_pi, carry = _walk(uniforms(key, automaton, policy, size), automaton, sampler, starts)
        log_pi = (
            log_pi if policy.stepwise else policy.score_sampled(carry, jnp.asarray(batch.tokens), jnp.asarray(batch.states))
        )
        return batch._replace(groups=groups), positions_from_rows(log_pi, rows_along(reference, batch))
    batch = sample(key, automaton, policy, size, start)
    return batch, positions(automaton, policy, reference, batch)
