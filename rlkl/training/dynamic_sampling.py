"""Groups of equal rewards, whose advantages are zero: drop them from a batch, or draw them again (dynamic sampling).

Source: Yu et al. 2025, "DAPO: an open-source LLM reinforcement learning system at scale", arXiv 2503.14476.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlkl import exact
from rlkl.rollouts.batch import Batch
from rlkl.tasks.automaton import Task

MOST_DRAWS = 32  # times that a group of equal rewards is drawn; then it is dropped


def has_equal_rewards(task: Task, batch: Batch) -> Bool[Array, " groups"]:
    """Whether all samples of a group have the same reward, penalty excluded, up to rounding."""
    dtype = jnp.asarray(batch.weight).dtype
    reward = jnp.sum(exact.sequence_rewards(task, batch, dtype), axis=1).reshape(batch.groups, -1)
    drawn = jnp.asarray(batch.weight).reshape(batch.groups, -1) > 0.0
    largest = jnp.max(reward, axis=1, where=drawn, initial=-jnp.inf)
    smallest = jnp.min(reward, axis=1, where=drawn, initial=jnp.inf)
    scale = jnp.maximum(1.0, jnp.maximum(jnp.abs(largest), jnp.abs(smallest)))
    return largest - smallest <= 64.0 * jnp.finfo(dtype).eps * scale


def without_groups(batch: Batch, dropped: Bool[Array, " groups"]) -> Batch:
    """The batch with these groups at weight zero and the others scaled up; every weight is zero where all are dropped."""
    kept = jnp.sum(~dropped, dtype=jnp.int32).astype(jnp.asarray(batch.weight).dtype)
    factor = jnp.where(dropped, 0.0, batch.groups / jnp.maximum(kept, 1.0))
    weight = jnp.asarray(batch.weight).reshape(batch.groups, -1) * factor[:, None]
    return batch._replace(weight=weight.reshape(-1))


def draw_until_unequal(
    draw: Callable[[PRNGKeyArray], Batch], task: Task, key: PRNGKeyArray
) -> tuple[Batch, Bool[Array, " groups"], Float[Array, ""]]:
    """Draw batches until none of their groups has equal rewards, or MOST_DRAWS times.

    draw: draws a batch with a key, its groups independent of each other. Each draw replaces the groups that have equal rewards
    so far. Returns the batch, the groups that still have equal rewards, and the share of such groups among those drawn.
    """

    def groups_of(batch: Batch) -> list[Array]:
        return [jnp.asarray(x).reshape(batch.groups, -1, *x.shape[1:]) for x in batch[:4]]

    first = draw(jax.random.fold_in(key, 0))
    equal = has_equal_rewards(task, first)
    dtype = jnp.asarray(first.weight).dtype

    def again(state):
        count, arrays, equal, equal_drawn, drawn = state
        batch = draw(jax.random.fold_in(key, count))
        new_equal = has_equal_rewards(task, batch)
        replaced = [
            jnp.where(equal.reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(arrays, groups_of(batch), strict=True)
        ]
        equal_drawn = equal_drawn + jnp.sum(equal & new_equal, dtype=jnp.int32).astype(dtype)
        drawn = drawn + jnp.sum(equal, dtype=jnp.int32).astype(dtype)
        return count + 1, replaced, equal & new_equal, equal_drawn, drawn

    def unfinished(state):
        return (state[0] < MOST_DRAWS) & jnp.any(state[2])

    equal_drawn = jnp.sum(equal, dtype=jnp.int32).astype(dtype)
    start = (jnp.ones((), jnp.int32), groups_of(first), equal, equal_drawn, jnp.full((), first.groups, dtype))
    _, arrays, equal, equal_drawn, drawn = jax.lax.while_loop(unfinished, again, start)
    tokens, states, mask, weight = (x.reshape(-1, *x.shape[2:]) for x in arrays)
    return Batch(tokens, states, mask, weight, first.size, first.groups), equal, equal_drawn / drawn
