"""AReaL's PPO actor: each token's k1 in its reward, clamped to [-10, 10], credited to the tokens up to it.

Its default coefficient is .1, though its examples set 0. Without a critic, as here, values are 0; lambda is 1 by default.
Advantages are not normalised by default; its examples normalise them over the tokens of a batch.
"""

import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import (
    at_last_token,
    clipped_surrogate,
    reward_to_go,
    standardized,
    token_mean,
    whitened,
)
from experiments.conformance.rows import Row

LIBRARY = "AReaL"
VERSION = "main 4aef98d8d818, 2026-05-21"
SOURCE = (
    "inclusionAI/AReaL: areal/trainer/ppo/actor.py (blob 07944a31a571), areal/utils/data.py (blob 09368e4ef268: KLEstimator), "
    "areal/utils/functional/functional.py (blob 848edd23d3d4), its defaults in areal/api/cli_args.py (blob ea55f557a81e)"
)


def kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimator):
    """Return each token's reward to go, and the mean of -beta KL, which is what is logged."""
    kl_rewards = -beta * jnp.clip(estimator(old_log_probs, ref_log_probs), -10, 10) * mask
    returns = reward_to_go(at_last_token(rewards, mask) + kl_rewards)
    return returns, {"kl_rewards": token_mean(kl_rewards, mask)}


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimator=estimators.k1):
    """Return the loss with clamped k1 in the reward."""
    advantages, metrics = kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimator)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, advantages), mask), metrics


def k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with clamped k2 in the reward."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k2)


def k3(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with clamped k3 in the reward."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k3)


def reward_norm(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss whose rewards are standardised in their group before k1 is taken off."""
    return default(log_probs, old_log_probs, ref_log_probs, standardized(rewards, 1e-5), mask, beta)


def adv_norm(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss whose advantages, k1 included, are standardised over all tokens."""
    advantages, metrics = kl_in_reward(old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k1)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, whitened(advantages, mask)), mask), metrics


def distillation(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the joint loss of a teacher (the reference here): k1 in the loss, times distill_loss_weight."""
    kl = token_mean(estimators.k1(log_probs, ref_log_probs), mask)
    returns = reward_to_go(at_last_token(rewards, mask))
    return token_mean(clipped_surrogate(log_probs, old_log_probs, returns), mask) + beta * kl, {"rkl_loss": kl}


ROWS = (
    Row("default", default, "KL divergence"),
    Row("kl_estimator=k2", k2, "KL divergence"),
    Row("kl_estimator=k3", k3, "KL divergence"),
    Row("reward_norm: group", reward_norm, "KL divergence"),
    Row("adv_norm: batch", adv_norm, "KL divergence"),
    Row("teacher, joint loss", distillation, "reverse KL"),
)
