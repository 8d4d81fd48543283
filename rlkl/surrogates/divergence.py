"""Surrogates that mask tokens by how far their probability has moved, not by its ratio (DPPO).

Qi et al. 2026, "Rethinking the trust region in LLM reinforcement learning", arXiv 2602.04879. Each token's distribution is
taken as binary: the token, or any other. verl also limits r to clip_ratio_c in these losses; here r has no such limit.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.surrogates.registry import TokenLoss, register


def _masked(log_pi, old_log_pi, advantages, keep) -> TokenLoss:
    """-r A where a token is kept, else 0."""
    kept = keep.astype(log_pi.dtype)
    return TokenLoss(-kept * jnp.exp(log_pi - old_log_pi) * advantages, 1.0 - kept)


@register(
    "dppo_tv",
    "-M r A; M = [pi - pi_old <= clip_high] where A > 0, else [pi_old - pi <= clip_low]",
    {
        "verl": "policy_loss.loss_mode=dppo_tv; clip_ratio_low, clip_ratio_high, clip_ratio_c",
        "SkyRL": "policy_loss_type=dppo, dppo.dppo_type=binary_tv; dppo.delta_low, dppo.delta_high",
        "prime-rl": "the default loss, without its kl_tau; dppo_mask_low, dppo_mask_high",
    },
    clip_low=0.2,
    clip_high=0.2,
)
def dppo_tv(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """Mask a token whose probability has moved in the direction of its advantage by more than the limit.

    |pi - pi_old| is the total variation of the binary distributions. The limits are differences of probabilities.
    """
    gap = jnp.exp(log_pi) - jnp.exp(old_log_pi)
    keep = jnp.where(advantages > 0.0, gap <= options.clip_high, gap >= -options.clip_low)
    return _masked(log_pi, old_log_pi, advantages, keep)


@register(
    "dppo_kl",
    "-M r A; M as dppo_tv, with KL(pi_old‖pi) of the binary distributions in place of the difference",
    {
        "verl": "policy_loss.loss_mode=dppo_kl; clip_ratio_low, clip_ratio_high, clip_ratio_c",
        "SkyRL": "policy_loss_type=dppo, dppo.dppo_type=binary_kl; dppo.delta_low, dppo.delta_high",
    },
    clip_low=0.05,
    clip_high=0.05,
)
def dppo_kl(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """Mask a token that has moved in the direction of its advantage by more than the limit, in nats of binary KL(pi_old‖pi)."""
    kl = binary_kl(old_log_pi, log_pi)
    up = (kl <= options.clip_high) | (log_pi <= old_log_pi)
    down = (kl <= options.clip_low) | (log_pi >= old_log_pi)
    return _masked(log_pi, old_log_pi, advantages, jnp.where(advantages > 0.0, up, down))


def binary_kl(log_p: Float[Array, "N T"], log_q: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """KL(p‖q) in nats between the two-valued distributions (p, 1 - p) and (q, 1 - q)."""
    least = jnp.finfo(log_p.dtype).eps
    p = jnp.exp(log_p)
    other_p, other_q = (jnp.maximum(-jnp.expm1(log), least) for log in (log_p, log_q))
    return p * (log_p - log_q) + other_p * (jnp.log(other_p) - jnp.log(other_q))
