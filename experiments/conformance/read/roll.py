"""ROLL's RLVR actor: no KL by default; k3 clamped to 10 in the loss, or k1 in the reward of each token.

The kind in the loss is fixed: `kl_penalty` is the reward's alone. Rewards are normalised (if they are) before the KL is taken
off them, so that it keeps its coefficient, unless the advantages are whitened too. Its default advantages are GAE's; here is
no critic, and each token has its reward to go.
"""

import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import (
    at_last_token,
    clipped_surrogate,
    reward_to_go,
    sequence_mean,
    standardized,
    token_mean,
    whitened,
)
from experiments.conformance.rows import Row

LIBRARY = "ROLL"
VERSION = "main 8eb27cc2dc34, 2026-08-19"
SOURCE = (
    "alibaba/ROLL: roll/utils/functionals.py (blob 24ea0e655fae), roll/pipeline/rlvr/actor_worker.py (blob eb713a359fca), "
    "roll/pipeline/rlvr/rlvr_pipeline.py (blob 1f3dca2a5e65), its defaults in roll/configs/base_config.py (blob 12262b9f3106)"
)


def sequence_sum(values, mask):
    """Return the mean over sequences of each sequence's sum over its tokens."""
    return (values * mask).sum(1).mean()


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, mean=sequence_mean):
    """Return the loss with k3 clamped to 10."""
    kl = mean(jnp.clip(estimators.k3(log_probs, ref_log_probs), -10, 10), mask)
    returns = reward_to_go(at_last_token(rewards, mask))
    return mean(clipped_surrogate(log_probs, old_log_probs, returns), mask) + beta * kl, {"actor/kl_loss": kl}


def token_level(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss averaged over all tokens."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, token_mean)


def sum_of_tokens(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss summed over tokens and averaged over sequences."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, sequence_sum)


def returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta, estimator=estimators.k1):
    """Return each token's reward to go, of which `beta` times the KL is taken off, and the KL as it is logged."""
    kl = estimator(old_log_probs, ref_log_probs) * mask
    return reward_to_go(at_last_token(rewards, mask) - beta * kl), {"critic/kl": sequence_mean(kl, mask)}


def kl_in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 in the reward of each token."""
    returns, metrics = returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, returns), mask), metrics


def mse_in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k2 in the reward of each token."""
    returns, metrics = returns_with_kl(old_log_probs, ref_log_probs, rewards, mask, beta, estimators.k2)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, returns), mask), metrics


def normalized(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 taken off rewards that are standardised in their group, the advantages then whitened."""
    returns, metrics = returns_with_kl(old_log_probs, ref_log_probs, standardized(rewards), mask, beta)
    return sequence_mean(clipped_surrogate(log_probs, old_log_probs, whitened(returns, mask)), mask), metrics


ROWS = (
    # use_kl_loss is false and kl_loss_coef 0 by default
    Row("default, with the coefficient above 0", default, "KL loss"),
    Row("loss_agg_mode=token-mean", token_level, "KL loss"),
    Row("loss_agg_mode=seq-mean-token-sum", sum_of_tokens, "KL loss"),
    Row("add_token_level_kl", kl_in_reward, "KL penalty of each token"),
    Row("add_token_level_kl kl_penalty=mse", mse_in_reward, "mean squared error"),
    Row("add_token_level_kl norm_mean_type=norm_std_type=group whiten_advantages", normalized, "KL penalty of each token"),
)
