"""TRL's PPO and online DPO, which stand apart from its GRPO.

PPO: each token's k1 in its reward, the advantages standardised over all tokens. It stands here without a critic and at
lambda 1, so that a token's advantage is its reward to go; the trainer's lambda is .95, with a learned value. TRL 1.16 no
longer has it.
Online DPO: pairs of completions, the better one by reward preferred; here all pairs of the batch, as if drawn independently.
Its beta is a temperature, not the coefficient of a penalty: at 0 the loss is constant, and rewards matter by their order only.
"""

import jax
import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import clipped_surrogate, reward_to_go, token_mean, whitened
from experiments.conformance.rows import Row

LIBRARY = "TRL"
VERSION = "PPO: main f2cd57710ae3, 2026-07-24; online DPO: 1.16.0"
SOURCE = (
    "huggingface/trl: trl/experimental/ppo/ppo_trainer.py (blob ed5d5ec1ebe2), its defaults in "
    "trl/experimental/ppo/ppo_config.py (blob b96ee3947349); "
    "trl/experimental/online_dpo/online_dpo_trainer.py (blob 3f87959f3542)"
)


def token_rewards(old_log_probs, ref_log_probs, rewards, mask, beta, estimator):
    """Return each token's reward, the mask that counts one token after the end too, and the KL as it is logged."""
    kl = estimator(old_log_probs, ref_log_probs) * mask
    length, columns = mask.sum(1)[:, None], jnp.arange(mask.shape[1])
    scored = columns == jnp.minimum(length, mask.shape[1] - 1)
    metrics = {"objective/kl": kl.sum(1).mean()}
    return rewards[:, None] * scored - beta * kl, (columns <= length).astype(mask.dtype), metrics


def ppo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimator=estimators.k1):
    """Return PPO's loss with k1 in the reward."""
    shaped, _, metrics = token_rewards(old_log_probs, ref_log_probs, rewards, mask, beta, estimator)
    advantages = whitened(reward_to_go(shaped), mask)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, advantages), mask), metrics


def ppo_k3(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return PPO's loss with k3 in the reward."""
    return ppo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k3)


def ppo_whitened_rewards(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return PPO's loss whose rewards of tokens, k1 included, are scaled about their mean to a standard deviation of 1."""
    shaped, counted, metrics = token_rewards(old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k1)
    shaped = (whitened(shaped, counted) + token_mean(shaped, counted)) * counted
    advantages = whitened(reward_to_go(shaped), mask)
    return token_mean(clipped_surrogate(log_probs, old_log_probs, advantages), mask), metrics


def online_dpo(log_probs, ref_log_probs, rewards, mask, beta):
    """Return online DPO's sigmoid loss over all pairs, the first of a pair preferred where rewards are equal."""
    log_ratios = (estimators.k1(log_probs, ref_log_probs) * mask).sum(1)
    preferred = jnp.where(rewards[:, None] >= rewards, 1, -1)
    margins = preferred * (log_ratios[:, None] - log_ratios)
    return -jax.nn.log_sigmoid(beta * margins).mean(), {"objective/kl": log_ratios.mean()}


ROWS = (
    Row("PPO default", ppo, "k1: unbiased"),
    Row("PPO kl_estimator=k3", ppo_k3, "k3: unbiased, of lower variance"),
    Row("PPO whiten_rewards=true", ppo_whitened_rewards, "k1: unbiased"),
    Row("online DPO default", online_dpo, "beta controls the deviation from the reference"),
)
