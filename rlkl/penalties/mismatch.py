"""Statistics of a sampler that is not the policy, as training runs log them: on the sampler's tokens, without weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.penalties import estimators
from rlkl.rollouts.batch import Batch
from rlkl.settings import RolloutSettings


class Mismatch(NamedTuple):
    """The mismatch of policy pi and sampler mu on mu's tokens, with r = pi/mu and mu as the sampler reported it.

    mean_ratio: mean of r over tokens. Its expectation is 1 if mu is reported as it samples and leaves out no token; it is the
    kept mass if mu leaves out tokens.
    kept_mass: pi's probability of the tokens that mu can sample, averaged over tokens; NaN without truncation.
    ess: effective sample size of the ratios of whole sequences, (sum r)^2 / sum r^2, as a share of the batch.
    mismatch_k1, mismatch_k3, mismatch_inverse_k3: -log r, r - 1 - log r and 1/r - 1 + log r, summed over the tokens of a
    sequence, in nats. If the expectation of r is 1, theirs are KL(mu‖pi), KL(mu‖pi) and, of each token, chi2(mu‖pi) -
    KL(mu‖pi): none is KL(pi‖mu).
    """

    mean_ratio: Float[Array, ""]
    kept_mass: Float[Array, ""]
    ess: Float[Array, ""]
    mismatch_k1: Float[Array, ""]
    mismatch_k3: Float[Array, ""]
    mismatch_inverse_k3: Float[Array, ""]


def empty(rollout: RolloutSettings, dtype) -> Mismatch | None:
    """The statistics before the first batch: NaN, or None where the sampler is the policy."""
    return Mismatch(*[jnp.full((), jnp.nan, dtype)] * len(Mismatch._fields)) if rollout.off_policy else None


def measure(
    log_pi: Float[Array, "N T"], reported: Float[Array, "N T"], kept_mass: Float[Array, "N T"] | None, batch: Batch
) -> Mismatch:
    """The statistics of a batch; no gradient flows.

    reported: the log-probabilities of the tokens that the sampler reported. kept_mass: pi's probability of the tokens that the
    sampler can take at each position, 0 at padding; None without truncation.
    """
    mask = jnp.asarray(batch.mask)
    log_ratio = jax.lax.stop_gradient(log_pi) - reported
    of_sequence = jnp.exp(jnp.sum(log_ratio, axis=1))
    length = batch.mean(jnp.sum(mask.astype(log_ratio.dtype), axis=1))

    def per_sequence(values):
        return batch.mean(jnp.sum(jnp.where(mask, values, 0.0), axis=1))

    return Mismatch(
        mean_ratio=per_sequence(jnp.exp(log_ratio)) / length,
        kept_mass=jnp.full((), jnp.nan, log_pi.dtype) if kept_mass is None else per_sequence(kept_mass) / length,
        ess=jnp.square(batch.mean(of_sequence)) / batch.mean(jnp.square(of_sequence)),
        mismatch_k1=per_sequence(-log_ratio),
        mismatch_k3=per_sequence(estimators.REGISTRY["k3"](-log_ratio)),
        mismatch_inverse_k3=per_sequence(estimators.REGISTRY["k3"](log_ratio)),
    )
