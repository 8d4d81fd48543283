"""torchforge's simple GRPO loss: each token's k3, with no clamp, averaged over each sequence and then over sequences."""

import jax
import jax.numpy as jnp

from experiments.conformance.read import estimators
from experiments.conformance.read.policy_gradient import sequence_mean, standardized
from experiments.conformance.rows import Row

LIBRARY = "torchforge"
VERSION = "main 6e77f0b37596, 2025-11-15"
SOURCE = (
    "meta-pytorch/torchforge: src/forge/losses/grpo_loss.py (blob 220367b47684), "
    "apps/grpo/main.py (blob 82152e1b84fa: simple_grpo_loss, ComputeAdvantages)"
)


def default(log_probs, ref_log_probs, rewards, mask, beta):
    """Return the loss; its ratio is 1 in value, whoever the sampler was."""
    advantages = standardized(rewards, 1e-4)[:, None]
    actor = -jnp.exp(log_probs - jax.lax.stop_gradient(log_probs)) * advantages
    return sequence_mean(actor + beta * estimators.k3(log_probs, ref_log_probs), mask)


ROWS = (Row("default", default),)
