"""Values for each prompt, and their mean over prompts.

A task without prompts has one, whose values are scalars: its programs are then those of a task that knows no prompts.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks.automaton import Automaton


def average(automaton: Automaton, values: Float[Array, "*P"]) -> Float[Array, ""]:
    """The mean over prompts, by their weights, of a value for each prompt."""
    if automaton.prompts == 1:
        return values
    return jnp.sum(jnp.asarray(automaton.prompt_weights, values.dtype) * values)


def rows_at_start(automaton: Automaton, rows: Shaped[Array, "D ..."]) -> Shaped[Array, "..."]:
    """The row of the start state, with a leading axis of prompts where there are several."""
    return rows[int(automaton.starts[0])] if automaton.prompts == 1 else rows[automaton.starts]


def sum_states(automaton: Automaton, joint: Float[Array, " K"]) -> Float[Array, "*P"]:
    """The sum, for each prompt, over its states (K = S, or the first K = D) of terms that contain the prompt's probability.

    They are divided by that probability.
    """
    if automaton.prompts == 1:
        return jnp.sum(joint)
    prompt = automaton.prompt_of[: joint.size]
    segment = jnp.asarray(np.where(prompt < 0, automaton.prompts, prompt))
    sums = jax.ops.segment_sum(joint, segment, automaton.prompts + 1)[:-1]
    return sums / jnp.asarray(automaton.prompt_weights, joint.dtype)


@lru_cache(maxsize=8)
def sequence_index(automaton: Automaton) -> Int[np.ndarray, "P K"]:
    """The index in `enumerate_all` of each prompt's sequences, padded with the number of all sequences."""
    prompt = automaton.prompt_of[enumerate_all(automaton).states[:, 0]]
    count = np.bincount(prompt, minlength=automaton.prompts)
    first = np.cumsum(count) - count
    index = first[:, None] + np.arange(count.max())
    return np.where(index < (first + count)[:, None], index, len(prompt))


def split_sequences(automaton: Automaton, values: Float[Array, " N"], padding: float) -> Float[Array, "*P K"]:
    """The values of all sequences in a row for each prompt, padded; unchanged where there is one prompt."""
    if automaton.prompts == 1:
        return values
    return jnp.append(values, jnp.asarray(padding, values.dtype))[sequence_index(automaton)]


def join_sequences(automaton: Automaton, rows: Float[Array, "*P K"]) -> Float[Array, " N"]:
    """The values of all sequences in the order of `enumerate_all`: the inverse of `split_sequences`."""
    if automaton.prompts == 1:
        return rows
    index = sequence_index(automaton)
    return rows[index < enumerate_all(automaton).tokens.shape[0]]
