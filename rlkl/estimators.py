"""Estimates of a divergence at one position, in nats.

u = log pi(x) - log pi_ref(x) at the sampled token x ~ pi. Source of the names k1, k2, k3: Schulman, "Approximating KL
Divergence" (2020). What each one's *gradient* descends depends on where it is placed; `rlkl.penalty` holds that.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences


def k1(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """u: unbiased for KL(pi||pi_ref), of either sign."""
    return u


def k2(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """u^2/2: biased, never negative; its pathwise gradient is that of KL(pi||pi_ref)."""
    return 0.5 * jnp.square(u)


def k3(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """e^-u - 1 + u: unbiased for KL(pi||pi_ref) and never negative."""
    return jnp.expm1(-u) + u


def full(
    div: divergences.Divergence,
    params: divergences.Params,
    log_pi: Float[Array, "R V"],
    log_ref: Float[Array, "R V"],
) -> Float[Array, " R"]:
    """The divergence of each row, summed over the vocabulary: no variance from the sampled token."""
    return divergences.exact(div, params, log_pi, log_ref)
