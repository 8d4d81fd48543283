"""slime's policy loss: no KL by default; both coefficients are 0, and k1 is the kind of either.

kl_coef is the reward's, kl_loss_coef the loss's. GRPO, the default estimator, computes the KL that kl_coef asks for and
leaves it out of its returns. Everything is averaged over a sequence's tokens, then over sequences.
PPO stands here without a critic, at lambda 1 (its default).
"""

import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import (
    at_last_token,
    clipped_surrogate,
    reward_to_go,
    sequence_mean,
    standardized,
    whitened,
)
from experiments.conformance.rows import Row

LIBRARY = "slime"
VERSION = "main 624b824a898a, 2026-08-21"
SOURCE = (
    "THUDM/slime: slime/utils/ppo_utils.py (blob 4746af4f3a62), slime/backends/megatron_utils/loss.py (blob e7ac97c19e0e), "
    "slime/ray/rollout.py (blob 246e828fb18e), its defaults in slime/utils/arguments.py (blob 33381cf0a342)"
)


def kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, kl):
    """Return the clipped surrogate plus `beta` times the KL, each averaged by sequences."""
    actor = sequence_mean(clipped_surrogate(log_probs, old_log_probs, standardized(rewards)), mask)
    penalty = sequence_mean(kl, mask)
    return actor + beta * penalty, {"kl_loss": penalty}


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1."""
    return kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, estimators.k1(log_probs, ref_log_probs))


def low_var_kl(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k3 clamped to 10."""
    kl = jnp.clip(estimators.k3(log_probs, ref_log_probs), -10, 10)
    return kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, kl)


def k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k2."""
    return kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, estimators.k2(log_probs, ref_log_probs))


def unbiased_k1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 times the policy's ratio."""
    kl = jnp.exp(log_probs - old_log_probs) * estimators.k1(log_probs, ref_log_probs)
    return kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, kl)


def unbiased_low_var_kl(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k3 times the policy's ratio, the product clamped to 10."""
    kl = jnp.clip(jnp.exp(log_probs - old_log_probs) * estimators.k3(log_probs, ref_log_probs), -10, 10)
    return kl_in_loss(log_probs, old_log_probs, rewards, mask, beta, kl)


def grpo_kl_coef(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return GRPO's loss, whose returns leave out the KL that kl_coef asks for."""
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, standardized(rewards)), mask)


def returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return each token's reward to go, of which k1 is taken off."""
    kl = estimators.k1(old_log_probs, ref_log_probs) * mask
    return reward_to_go(at_last_token(rewards, mask) - beta * kl)


def ppo_kl_coef(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return PPO's loss, k1 in the reward of each token."""
    advantages = returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, advantages), mask)


def reinforce_plus_plus(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return REINFORCE++'s loss: k1 in the reward of each token, the returns then standardised over all tokens."""
    advantages = whitened(returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta), mask)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, advantages), mask)


def reinforce_plus_plus_baseline(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return its loss: each token pays its own k1 alone, and the advantages are standardised over all tokens."""
    advantages = (rewards - rewards.mean())[:, None] - beta * estimators.k1(old_log_probs, ref_log_probs)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, whitened(advantages, mask)), mask)


ROWS = (
    # use_kl_loss is off and kl_loss_coef 0 by default; its examples switch on low_var_kl
    Row("default, with the coefficient above 0", default, "KL loss from GRPO"),
    Row("kl_loss_type=low_var_kl", low_var_kl, "non-negative, unbiased, of lower variance"),
    Row("kl_loss_type=k2", k2),
    Row("use_unbiased_kl", unbiased_k1, "unbiased KL estimation"),
    Row("use_unbiased_kl kl_loss_type=low_var_kl", unbiased_low_var_kl, "unbiased KL estimation (DeepSeek-V3.2)"),
    Row("kl_coef", grpo_kl_coef, "KL applied to the reward before advantages"),
    Row("kl_coef advantage_estimator=ppo", ppo_kl_coef, "KL applied to the reward before advantages"),
    Row("kl_coef reinforce_plus_plus", reinforce_plus_plus, "KL applied to the reward before advantages"),
    Row("kl_coef reinforce_plus_plus_baseline", reinforce_plus_plus_baseline, "KL applied to the reward before advantages"),
)
