"""SkyRL's GRPO: each token's k3 in the loss by default, clamped to 10.

The policy's loss is averaged as `loss_reduction` says, but the KL always over each sequence's tokens and then over sequences.
In the reward, the KL is taken off before the group's mean and standard deviation are.
"""

import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import (
    clipped_surrogate,
    leave_one_out,
    sequence_mean,
    standardized,
    token_mean,
)
from experiments.conformance.rows import Row

LIBRARY = "SkyRL"
VERSION = "main a9564572eb8e, 2026-08-21"
SOURCE = (
    "NovaSky-AI/SkyRL: skyrl/backends/skyrl_train/utils/ppo_utils.py (blob 98f8cfbc8a57), "
    "skyrl/backends/skyrl_train/workers/worker.py (blob b56d56b5186c), skyrl/train/trainer.py (blob ae5eec4dfc7c), "
    "its defaults in skyrl/train/config/config.py (blob 57c7521910c7)"
)


def absolute(log_probs, ref_log_probs):
    """Return the absolute log-ratio."""
    return jnp.abs(log_probs - ref_log_probs)


def kl_in_loss(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimator, mean=token_mean):
    """Return the clipped surrogate plus `beta` times the KL, whose mean does not follow `mean`."""
    actor = mean(clipped_surrogate(log_probs, old_log_probs, standardized(rewards)), mask)
    kl = sequence_mean(estimator(log_probs, ref_log_probs), mask)
    return actor + beta * kl, {"policy_kl": kl}


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with clamped k3, the surrogate averaged over tokens."""
    return kl_in_loss(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k3_clamped)


def k1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 in the place of k3."""
    return kl_in_loss(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k1)


def k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k2 in the place of k3."""
    return kl_in_loss(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k2)


def absolute_value(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with the absolute log-ratio in the place of k3."""
    return kl_in_loss(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, absolute)


def kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimator):
    """Return each sequence's reward less `beta` times its tokens' KL, and the KL as it is logged."""
    kl = estimator(old_log_probs, ref_log_probs)
    return rewards - beta * (kl * mask).sum(1), {"loss/avg_kl": sequence_mean(kl, mask)}


def grpo_kl_in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return GRPO's loss, clamped k3 taken off each sequence's reward before it is standardised."""
    penalized, metrics = kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k3_clamped)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, standardized(penalized)), mask), metrics


def rloo_k1_in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return RLOO's loss, k1 taken off each sequence's reward before the mean of the others is."""
    penalized, metrics = kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k1)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, leave_one_out(penalized)), mask), metrics


ROWS = (
    Row("default", default, "KL divergence loss"),
    Row("kl_estimator_type=k1", k1, "KL divergence loss"),
    Row("kl_estimator_type=k2", k2, "KL divergence loss"),
    Row("kl_estimator_type=abs", absolute_value, "KL divergence loss"),
    Row("use_kl_in_reward=true", grpo_kl_in_reward, "KL penalty in the rewards"),
    Row("use_kl_in_reward=true kl_estimator_type=k1 rloo", rloo_k1_in_reward, "KL penalty in the rewards"),
)
