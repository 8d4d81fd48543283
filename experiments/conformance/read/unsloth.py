"""Unsloth's GRPO: each token's k3 in the loss, with no ratio, averaged over tokens (loss_type=bnpo).

It replaces the loss of TRL's trainer by one of its own, which does not read `use_bias_correction_kl`: with a TRL from 1.10.0
on, the same script without Unsloth multiplies k3 by the ratio. Its default beta is .001, where TRL's is 0.
Advantages are TRL's, divided by the standard deviation of their group by default.
"""

import jax
import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import clipped_surrogate, sequence_mean, standardized, token_mean
from experiments.conformance.rows import Row

LIBRARY = "Unsloth"
VERSION = "main 015bdef0d94a, 2026-08-22; unsloth-zoo main ce232d6cef9c, 2026-08-20"
SOURCE = (
    "unslothai/unsloth-zoo: unsloth_zoo/rl_replacements.py (blob 44d6a48c32cf: grpo_compute_loss); "
    "unslothai/unsloth: unsloth/models/rl_replacements.py (blob 7a9fa4ca2492), "
    "its defaults in unsloth/models/rl.py (blob ac790ece7e01)"
)
CLAIM = "reverse KL, low variance and low bias"


def default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, mean=token_mean):
    """Return the loss with k3, averaged over tokens."""
    kl = estimators.k3(log_probs, ref_log_probs)
    actor = clipped_surrogate(log_probs, old_log_probs, standardized(rewards, 1e-4))
    return mean(actor + beta * kl, mask), {"mean_kl": sequence_mean(kl, mask)}


def grpo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss averaged over each sequence's tokens, then over sequences."""
    return default(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta, sequence_mean)


def cispo(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return CISPO's loss: the ratio is capped at epsilon_high itself, .2 by default, and not at 1 + epsilon_high."""
    kl = estimators.k3(log_probs, ref_log_probs)
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_probs - old_log_probs), 0.2))
    actor = -weight * standardized(rewards, 1e-4)[:, None] * log_probs
    return token_mean(actor + beta * kl, mask), {"mean_kl": sequence_mean(kl, mask)}


def sequence_ratio(log_probs, old_log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss with one ratio for each sequence in the surrogate; the KL stays each token's."""
    kl = estimators.k3(log_probs, ref_log_probs)
    ratio = (((log_probs - old_log_probs) * mask).sum(1) / mask.sum(1))[:, None]
    actor = clipped_surrogate(ratio, 0.0, standardized(rewards, 1e-4))
    return token_mean(actor + beta * kl, mask), {"mean_kl": sequence_mean(kl, mask)}


ROWS = (
    Row("default", default, CLAIM),
    Row("loss_type=grpo", grpo, CLAIM),
    Row("loss_type=cispo", cispo, CLAIM),
    Row("importance_sampling_level=sequence", sequence_ratio, CLAIM),
)
