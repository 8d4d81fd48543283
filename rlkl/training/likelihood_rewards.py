"""Rewards that depend on the policy's own log-probabilities, which are held fixed in the gradient: pure functions of a batch.

Both lower the reward of successes only, and the more the likelier they are, so that successes become more equally
likely.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch


def smoothing(
    weight: Float[Array, ""] | float, log_pi: Float[Array, " N"], success: Float[Array, " N"], batch: Batch
) -> Float[Array, " N"]:
    """What smoothing of correct answers adds to each reward: -weight log pi(y) for a success, 0 for a failure (Gai et al. 2025,
    "Differential smoothing mitigates sharpening and improves LLM reasoning", arXiv 2511.19942; its part for successes).

    As log pi is held fixed, the expected gradient is that of E[r] + weight (p + sum over successes of -pi(y) log pi(y)), with p
    the success probability.
    """
    return -weight * success * log_pi


def unlikeliness(
    weight: Float[Array, ""] | float, log_pi: Float[Array, " N"], success: Float[Array, " N"], batch: Batch
) -> Float[Array, " N"]:
    """What the unlikeliness reward adds to each reward: -weight rank/G for a success, 0 for a failure (He et al. 2025,
    "Rewarding the unlikely: lifting GRPO beyond distribution sharpening", arXiv 2506.02355).

    rank: how many of the group's G samples are less likely, failures included, from 0 to G - 1, as in the paper's code. Equally
    likely samples have the mean of their ranks. The paper's code ranks by the mean log-probability of a token, this by that of
    the whole sequence.
    """
    groups = batch.groups
    per_group, counts = log_pi.reshape(groups, -1), batch.size * jnp.asarray(batch.weight).reshape(groups, -1)
    other, own = per_group[:, None, :], per_group[:, :, None]
    below = jnp.where(other < own, 1.0, jnp.where(other == own, 0.5, 0.0)).astype(log_pi.dtype)
    rank = jnp.einsum("gij,gj->gi", below, counts.astype(log_pi.dtype)) - 0.5  # a sample is no rival of its own
    return -weight * success * rank.reshape(-1) * groups / batch.size


REWARDS = {"smoothing": smoothing, "unlikeliness": unlikeliness}
