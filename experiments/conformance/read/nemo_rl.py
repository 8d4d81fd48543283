"""NeMo-RL's clipped policy gradient loss: since v0.7.0 its KL is multiplied by a ratio that has the sampling's gradient.

On a batch of its own the ratio is exp(x - sg(x)): 1 in value, with the gradient of log pi. The product is clamped to
[-10, 10], so a token whose k3 is above 10 (log pi/pi_ref below -2.61) has no gradient. Its defaults divide advantages by
the leave-one-out standard deviation of their group.
"""

import jax
import jax.numpy as jnp

from experiments.conformance.read.policy_gradient import clipped_surrogate, sequence_mean, token_mean, whitened
from experiments.conformance.rows import Row

LIBRARY = "NeMo-RL"
VERSION = "main 7ea279abfbeb, 2026-08-22"
SOURCE = (
    "NVIDIA-NeMo/RL: nemo_rl/algorithms/loss/loss_functions.py (blob 11e68df88dcb: ClippedPGLossFn), "
    "nemo_rl/algorithms/utils.py (blob bca9766c404a: calculate_kl, calculate_baseline_and_std_per_prompt), "
    "nemo_rl/algorithms/advantage_estimator.py (blob 491de0d9414c), its defaults in examples/configs/grpo_math_1B.yaml "
    "(blob afaf8a38af39); v0.6.0: nemo_rl/algorithms/loss/loss_functions.py (blob df6ff6bc54b2)"
)
CLAIM = "KL(pi‖pi_ref), estimated"


def grpo_advantages(rewards):
    """Return rewards less the mean of the others, over the sample standard deviation of the others."""
    others = len(rewards) - 1
    mean = (rewards.sum() - rewards) / others
    square = ((rewards**2).sum() - rewards**2) / others
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0) * others / (others - 1))
    return (rewards - mean) / jnp.where(deviation > 0, deviation + 1e-6, 1)


def calculate_kl(log_probs, ref_log_probs, kind="k3", weights=1.0, clamp=20.0, largest=10.0):
    """Return each token's estimate times `weights`, the log-ratio and the product clamped; a clamped token has no gradient."""
    raw = ref_log_probs - log_probs
    log_ratio = jnp.clip(raw, -clamp, clamp)
    weights = jnp.where(raw == log_ratio, weights, jax.lax.stop_gradient(weights))
    kinds = {"k1": -log_ratio, "k2": log_ratio**2 / 2, "k3": jnp.exp(log_ratio) - 1 - log_ratio}
    return jnp.clip(weights * kinds[kind], -largest, largest)


def with_kl(log_probs, old_log_probs, rewards, mask, beta, kl, mean=token_mean):
    """Return the clipped surrogate plus `beta` times the KL, and the KL as it is logged."""
    penalty = mean(kl, mask)
    actor = mean(clipped_surrogate(log_probs, old_log_probs, grpo_advantages(rewards)), mask)
    return actor + beta * penalty, {"kl_penalty": penalty}


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, kind="k3", mean=token_mean):
    """Return the loss with k3 times exp(x - sg(x)), averaged over tokens."""
    weights = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
    return with_kl(log_probs, old_log_probs, rewards, mask, beta, calculate_kl(log_probs, ref_log_probs, kind, weights), mean)


def k1(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k1 in the place of k3."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, "k1")


def k2(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k2 in the place of k3."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, "k2")


def sequence_level(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss averaged over each sequence's tokens, then over sequences."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, mean=sequence_mean)


def on_policy_kl(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with k3 times the ratio of the policy to its sampler."""
    kl = calculate_kl(log_probs, ref_log_probs, weights=jnp.exp(log_probs - old_log_probs))
    return with_kl(log_probs, old_log_probs, rewards, mask, beta, kl)


def kl_in_reward(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return Reinforce++'s loss: each token pays its own k3 alone, before all advantages are standardised over tokens."""
    kl = calculate_kl(old_log_probs, ref_log_probs)
    advantages = (rewards - rewards.mean())[:, None] - beta * kl
    return token_mean(clipped_surrogate(log_probs, old_log_probs, whitened(advantages, mask, ddof=0)), mask)


def before_v0_7(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss of v0.6.0, in which no ratio multiplies k3."""
    return with_kl(log_probs, old_log_probs, rewards, mask, beta, calculate_kl(log_probs, ref_log_probs))


ROWS = (
    Row("default", default, CLAIM),
    Row("reference_policy_kl_type=k1", k1, CLAIM),
    Row("reference_policy_kl_type=k2", k2, CLAIM),
    Row("token_level_loss=false", sequence_level, CLAIM),
    Row("use_on_policy_kl_approximation=true", on_policy_kl, "KL(pi‖pi_ref), unbiased and positive"),
    Row("reinforce_plus_plus, use_kl_in_reward=true", kl_in_reward, "KL in the reward"),
    Row("default (v0.6.0)", before_v0_7, CLAIM),
)
