"""Importance weights pi/sampler for samples of another policy, with optional truncation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import settings
from rlkl.rollouts.batch import Batch


class Weights(NamedTuple):
    """The importance weight of each token, and the share of weights that truncation changed (None without truncation)."""

    of_token: Float[Array, "N T"]
    truncated: Float[Array, ""] | None


def weights(
    penalty: settings.PenaltySettings, log_pi: Float[Array, "N T"], reported: Float[Array, "N T"], batch: Batch
) -> Weights:
    """The importance weights of sampled tokens, by `penalty.importance_correction`; no gradient flows.

    reported: the log-probabilities that the sampler reported. none: weights of 1. sequence: the ratio of the whole sequence at
    each of its tokens; the expected gradient is then that of samples from the policy. token: the ratio of each token, which
    ignores that the sampler visits other states (on a bandit there are none). `penalty.truncation` is the largest weight
    (Ionides, "Truncated importance sampling", 2008).
    """
    mask = jnp.asarray(batch.mask)
    log_ratio = jax.lax.stop_gradient(log_pi) - reported
    if penalty.importance_correction == "none":
        return Weights(jnp.ones_like(log_ratio), None)
    if penalty.importance_correction == "sequence":
        log_ratio = jnp.broadcast_to(jnp.sum(log_ratio, axis=1, keepdims=True), log_ratio.shape)
    if penalty.truncation is None:
        return Weights(jnp.exp(log_ratio), None)
    largest = jnp.log(penalty.truncation)

    def count(tokens):
        return batch.mean(jnp.sum((mask & tokens).astype(log_ratio.dtype), axis=1))

    return Weights(jnp.exp(jnp.minimum(log_ratio, largest)), count(log_ratio > largest) / count(mask))
