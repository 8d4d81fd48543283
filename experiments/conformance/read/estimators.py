"""Estimates of each token's KL(pi‖pi_ref), shared by the libraries that agree on them."""

import jax.numpy as jnp


def k1(log_probs, ref_log_probs):
    """Return the log-ratio of policy to reference."""
    return log_probs - ref_log_probs


def k2(log_probs, ref_log_probs):
    """Return half the squared log-ratio."""
    return 0.5 * (log_probs - ref_log_probs) ** 2


def k3(log_probs, ref_log_probs):
    """Return pi_ref/pi - 1 - log pi_ref/pi, with no clamp."""
    log_ratio = ref_log_probs - log_probs
    return jnp.exp(log_ratio) - 1 - log_ratio


def k3_clamped(log_probs, ref_log_probs):
    """Return k3 with its log-ratio clamped to [-20, 20] and its value to [-10, 10]."""
    log_ratio = jnp.clip(ref_log_probs - log_probs, -20, 20)
    return jnp.clip(jnp.exp(log_ratio) - 1 - log_ratio, -10, 10)
