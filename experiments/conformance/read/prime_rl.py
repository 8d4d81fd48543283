"""prime-rl's losses: the KL of its default is to the sampler, not to a reference.

`kl_tau` multiplies (log pi/sampler)^2, which has no gradient where the policy is its own sampler. No reference enters this
loss. A reference enters by the `ref_kl` component, which an algorithm can route tokens to with a weight of their own; the
library's own `opd` sends it all tokens, so that no reward is left. Here it stands beside the reward's, `beta` its weight.
"""

import jax
import jax.numpy as jnp

from experiments.conformance.read.policy_gradient import token_mean
from experiments.conformance.rows import Row

LIBRARY = "prime-rl"
VERSION = "main 559b44772e47, 2026-08-21"
SOURCE = (
    "PrimeIntellect-ai/prime-rl: src/prime_rl/trainer/rl/loss.py (blob 7d9dcce88b8f), "
    "its defaults in packages/prime-rl-configs/src/prime_rl/configs/trainer.py (blob d54bdd7bb3d5)"
)
KL_TAU = 1e-3


def trust_region(log_probs, old_log_probs, advantages, low=0.2, high=0.2):
    """Return where a token's probability has not moved too far in the direction that its advantage pushes."""
    moved = jnp.exp(log_probs) - jnp.exp(old_log_probs)
    return jnp.where(advantages > 0, moved <= high, moved >= -low)


def default(log_probs, old_log_probs, advantages, mask, beta):
    """Return the loss with `beta` times the squared log-ratio of the policy to its sampler; `advantages` is [N]."""
    advantages = advantages[:, None]
    log_ratio = log_probs - old_log_probs
    actor = jnp.where(trust_region(log_probs, old_log_probs, advantages), -advantages * jnp.exp(log_ratio), 0)
    mismatch = jax.lax.stop_gradient(jnp.exp(log_ratio) - log_ratio - 1)
    return token_mean(actor + beta * log_ratio**2, mask), {"unmasked_mismatch_kl": token_mean(mismatch, mask)}


def ref_kl(log_probs, old_log_probs, ref_log_probs, advantages, mask, beta):
    """Return the default loss plus `beta` times the ref_kl component: a detached log-ratio times the policy's ratio."""
    log_ratio = log_probs - old_log_probs
    signal = ref_log_probs - log_probs
    keep = jnp.exp(log_probs) - jnp.exp(old_log_probs) >= -0.2
    component = jnp.where(keep, -jax.lax.stop_gradient(signal) * jnp.exp(log_ratio), 0) + KL_TAU * log_ratio**2
    reward_part, _ = default(log_probs, old_log_probs, advantages, mask, KL_TAU)
    return reward_part + beta * token_mean(component, mask), {"ref_kl": token_mean(signal, mask)}


ROWS = (
    Row("default", default, "KL term, as in Kimi K2.5"),
    Row("ref_kl component beside the reward's", ref_kl, "reverse KL to the reference as the policy gradient's signal"),
)
