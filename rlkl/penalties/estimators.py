"""Estimators of a divergence from the log-ratio of one sampled token or sequence, in nats.

u = log pi(x) - log pi_ref(x) at x ~ pi. Source of the names k1, k2, k3: Schulman, "Approximating KL Divergence" (2020). What
the gradient of an estimator descends depends on its placement: see `penalties.expected_gradient`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences

Estimator = Callable[[Float[Array, "*n"]], Float[Array, "*n"]]
REGISTRY: dict[str, Estimator] = {}
ALIASES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}  # names in other libraries


def register(name: str):
    """Decorator: register a function of u as the estimator `name`."""

    def add(estimate: Estimator) -> Estimator:
        REGISTRY[name] = estimate
        return estimate

    return add


@register("k1")
def k1(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """u: unbiased for KL(pi||pi_ref), but may be negative."""
    return u


@register("k2")
def k2(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """u^2/2: biased, never negative; its gradient in the loss, with the sample held fixed, is that of KL(pi||pi_ref)."""
    return 0.5 * jnp.square(u)


@register("k3")
def k3(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """e^-u - 1 + u: unbiased for KL(pi||pi_ref) and never negative; its gradient in the loss, with the sample held fixed, is
    that of KL(pi_ref||pi)."""
    return jnp.expm1(-u) + u


@register("abs")
def absolute(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """|u|: biased; its gradient in the loss, with the sample held fixed, is that of twice the total variation."""
    return jnp.abs(u)


def full(
    div: divergences.Divergence,
    params: divergences.Params,
    log_pi: Float[Array, "R V"],
    log_ref: Float[Array, "R V"],
) -> Float[Array, " R"]:
    """The exact divergence of each row, summed over the vocabulary; the sampled token adds no variance."""
    return divergences.exact(div, params, log_pi, log_ref)
