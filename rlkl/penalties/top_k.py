"""A KL over k tokens of the next-token distribution: what distillation computes where a teacher reports its k largest alone.

The k most likely tokens are those of the policy or of the reference, and ties are broken by index. The set is held fixed: no
gradient flows through the choice.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl import divergences

DIRECTIONS = {"kl_pi_ref": 1.0, "kl_ref_pi": -1.0}  # divergences that it is of; the sign of pi(K) - pi_ref(K), see `top_k`


def top_k(
    div: divergences.Divergence,
    k: int,
    source: str,
    tail: str,
    log_pi: Float[Array, "R V"],
    log_ref: Float[Array, "R V"],
) -> Float[Array, " R"]:
    """A KL of each row over its k most likely tokens K; with the tail dropped it is no divergence, and may be negative.

    source: whose most likely tokens, "policy" or "reference". tail: what becomes of the other tokens. "dropped": the terms of K
    alone, as in sum_K pi log(pi/pi_ref); "renormalised": both distributions restricted to K, over their mass there; "bucket":
    the other tokens are one token.
    """
    inside = most_likely(log_pi if source == "policy" else log_ref, k)
    rows = [jnp.where(inside, each, -jnp.inf) for each in (log_pi, log_ref)]
    if tail == "renormalised":
        rows = [each - _log_mass(each, empty=0.0) for each in rows]
    elif tail == "bucket":
        outside = [_log_mass(jnp.where(inside, -jnp.inf, each), empty=-jnp.inf) for each in (log_pi, log_ref)]
        rows = [jnp.concatenate(each, axis=-1) for each in zip(rows, outside, strict=True)]
    value = divergences.exact(div, divergences.Params(), *rows)
    if tail == "dropped":  # where rows do not sum to 1, `exact` has pi_ref - pi more in its sum, or pi - pi_ref
        mass, reference_mass = (jnp.sum(jnp.exp(each), axis=-1) for each in rows)
        value = value + DIRECTIONS[div.name] * (mass - reference_mass)
    return value


def most_likely(log_p: Float[Array, "R V"], k: int) -> Bool[Array, "R V"]:
    """Whether each token is one of the k most likely of its row; of equal ones the first count."""
    _, places = jax.lax.top_k(jax.lax.stop_gradient(log_p), min(k, log_p.shape[-1]))
    return jnp.put_along_axis(jnp.zeros(log_p.shape, bool), places, True, axis=-1, inplace=False)


def _log_mass(log_p: Float[Array, "R V"], empty: float) -> Float[Array, "R 1"]:
    """The logarithm of the sum of each row; `empty` where all of it is 0, without a gradient there."""
    possible = jnp.any(log_p > -jnp.inf, axis=-1, keepdims=True)
    return jnp.where(possible, jax.nn.logsumexp(jnp.where(possible, log_p, 0.0), axis=-1, keepdims=True), empty)
