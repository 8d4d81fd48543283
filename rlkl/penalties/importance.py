"""Importance weights for a sampler that is not the policy: pi over what the sampler reported, with an optional truncation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import settings
from rlkl.rollouts.batch import Batch


class Weights(NamedTuple):
    """of_token: what each token's term is multiplied by. truncated: the share of the weights cut; None where none may be."""

    of_token: Float[Array, "N T"]
    truncated: Float[Array, ""] | None


def weights(
    penalty: settings.PenaltySettings, log_pi: Float[Array, "N T"], reported: Float[Array, "N T"], batch: Batch
) -> Weights:
    """`penalty.importance_correction` of sampled tokens (no gradient flows).

    none: 1. sequence: pi/sampler of the whole sequence on each of its tokens, which makes the expected gradient the policy's
    own. token: each token's own ratio, which leaves out what the sampler did to the states (all of it on a bandit).
    `penalty.truncation` is the largest weight (Ionides, "Truncated importance sampling", 2008).
    """
    mask = jnp.asarray(batch.mask)
    log_ratio = jax.lax.stop_gradient(log_pi) - reported
    if penalty.importance_correction == "none":
        return Weights(jnp.ones_like(log_ratio), None)
    if penalty.importance_correction == "sequence":
        log_ratio = jnp.broadcast_to(jnp.sum(log_ratio, axis=1, keepdims=True), log_ratio.shape)
    if penalty.truncation is None:
        return Weights(jnp.exp(log_ratio), None)
    most = jnp.log(penalty.truncation)
    share = lambda of: jnp.sum(batch.weight * jnp.sum((mask & of).astype(log_ratio.dtype), axis=1))  # noqa: E731
    return Weights(jnp.exp(jnp.minimum(log_ratio, most)), share(log_ratio > most) / share(mask))
