"""open-instruct's GRPO: each token's k3 in the loss (kl_estimator 2 of 0 to 3), its log-ratio clamped to [-40, 40].

Estimator 3 is k1 times the policy's ratio, through which its gradient also goes. Rewards are centred, not divided by their
standard deviation. The averages that it logs are of each sequence's tokens.
"""

import jax.numpy as jnp

from experiments.conformance.read.policy_gradient import clipped_surrogate, sequence_mean, token_mean
from experiments.conformance.rows import Row

LIBRARY = "open-instruct"
VERSION = "main e6c3044aa620, 2026-08-20"
SOURCE = (
    "allenai/open-instruct: open_instruct/grpo_utils.py (blob 73674a86b768: its defaults, compute_grpo_loss), "
    "open_instruct/model_utils.py (blob 8f8ec61e841c: estimate_kl), open_instruct/grpo_fast.py (blob 7deba5c4b022), "
    "open_instruct/data_loader.py (blob 6af2aef348c6)"
)


def estimates(log_probs, old_log_probs, ref_log_probs):
    """Return the four estimates of each token's KL, by the numbers that the library gives them."""
    log_ratio = jnp.clip(log_probs - ref_log_probs, -40, 40)
    weighted = jnp.exp(log_probs - old_log_probs) * log_ratio
    return log_ratio, log_ratio**2 / 2, jnp.expm1(-log_ratio) + log_ratio, weighted


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, kl_estimator=2, deviation=1.0):
    """Return the loss with k3, averaged over tokens."""
    kls = estimates(log_probs, old_log_probs, ref_log_probs)
    advantages = (rewards - rewards.mean()) / deviation
    actor = clipped_surrogate(log_probs, old_log_probs, advantages, 0.2, 0.272)
    metrics = {f"objective/kl{i}_avg": sequence_mean(kl, mask) for i, kl in enumerate(kls)}
    return token_mean(actor + beta * kls[kl_estimator], mask), metrics


def k1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, 0)


def k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k2."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, 1)


def weighted_k1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 times the policy's ratio."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, 3)


def standard(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss whose advantages are divided by the standard deviation of the rewards."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, deviation=rewards.std() + 1e-8)


ROWS = (
    Row("default", default, "numerically stable form of the KL"),
    Row("kl_estimator=0", k1, "linear approximation of the KL"),
    Row("kl_estimator=1", k2, "quadratic approximation of the KL"),
    Row("kl_estimator=3", weighted_k1, "importance-weighted KL"),
    Row("advantage_normalization_type=standard", standard, "numerically stable form of the KL"),
)
