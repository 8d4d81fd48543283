"""Surrogates that act on the tokens with a large covariance of advantage and log-probability, which lower the entropy most.

Cui et al. 2025, "The entropy mechanism of reinforcement learning for reasoning language models", arXiv 2505.22617. A token's
covariance is (A - mean A)(log pi - mean log pi), with means over all tokens of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch
from rlkl.surrogates.clipped import pessimistic
from rlkl.surrogates.registry import TokenLoss, register


def token_weights(batch: Batch, dtype) -> Float[Array, "N T"]:
    """The weight of each token among all tokens of the batch; they sum to 1."""
    weight = jnp.asarray(batch.weight, dtype)[:, None] * jnp.asarray(batch.mask).astype(dtype)
    return weight / jnp.sum(weight)


def covariances(
    log_pi: Float[Array, "N T"], advantages: Float[Array, "N T"], weight: Float[Array, "N T"]
) -> Float[Array, "N T"]:
    """(A - mean A)(log pi - mean log pi) of each token, without a gradient."""
    log_pi = jax.lax.stop_gradient(log_pi)
    return (advantages - jnp.sum(weight * advantages)) * (log_pi - jnp.sum(weight * log_pi))


@register(
    "clip_cov",
    "as ppo, without the gradient of a share cov_share of all tokens, taken from those with cov_low < covariance < cov_high",
    {
        "verl": "policy_loss.loss_mode=clip_cov; policy_loss.clip_cov_ratio, clip_cov_lb, clip_cov_ub",
        "SkyRL": "policy_loss_type=clip_cov; clip_cov.clip_ratio, clip_cov.clip_cov_lb, clip_cov.clip_cov_ub",
    },
    clip_low=0.2,
    clip_high=0.2,
    cov_share=2e-4,
    cov_low=1.0,
    cov_high=5.0,
)
def clip_cov(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """PPO's loss without a share of the tokens of large covariance (the paper's Clip-Cov).

    The source draws the tokens at random from those between the limits, at least one. Here every token between the limits loses
    the same share of its gradient, the probability with which it would be drawn: the mean over these draws, in large batches.
    """
    value, clipped = pessimistic(jnp.exp(log_pi - old_log_pi), advantages, options)
    weight = token_weights(batch, log_pi.dtype)
    covariance = covariances(log_pi, advantages, weight)
    between = (covariance > options.cov_low) & (covariance < options.cov_high) & ~clipped
    number = jnp.sum(jnp.where(between, weight, 0.0))
    share = jnp.where(between, jnp.minimum(1.0, options.cov_share / jnp.where(number > 0.0, number, 1.0)), 0.0)
    return TokenLoss(-value * (1.0 - share), jnp.where(clipped, 1.0, share))


@register(
    "kl_cov",
    "-r A, plus kl_coef |log r| for the share cov_share of tokens with the largest covariance",
    {
        "verl": "policy_loss.loss_mode=kl_cov; policy_loss.kl_cov_ratio, ppo_kl_coef",
        "SkyRL": "policy_loss_type=kl_cov; kl_cov.kl_cov_frac, kl_cov.ppo_kl_coef",
    },
    cov_share=2e-4,
    kl_coef=1.0,
)
def kl_cov(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """The unclipped loss with a penalty on tokens of large covariance (the paper's KL-Cov, with verl's |log r| as the KL).

    At r = 1 the penalty has no gradient: |x| is least at 0, where its derivative is 0, as torch takes it. So it acts from the
    second update on a batch on, or where old_log_probs=reported and the sampler is not the policy. Its gradient does not grow
    with |log r|: where r differs from 1 by rounding alone, it is kl_coef times the sign of a rounding error. The source takes a
    whole number of tokens, at least one; here the last token that the share reaches counts in part.
    """
    log_ratio = log_pi - old_log_pi
    weight = token_weights(batch, log_pi.dtype)
    chosen = jax.lax.stop_gradient(largest(covariances(log_pi, advantages, weight), weight, options.cov_share))
    penalty = options.kl_coef * jax.lax.stop_gradient(jnp.sign(log_ratio)) * log_ratio  # jax's gradient of |x| is 1 at 0
    return TokenLoss(-jnp.exp(log_ratio) * advantages + chosen * penalty, jnp.where(log_ratio == 0.0, 0.0, chosen))


def largest(values: Float[Array, "N T"], weight: Float[Array, "N T"], share: Float[Array, ""] | float) -> Float[Array, "N T"]:
    """How much of each token belongs to the share of the weight with the largest values: 1, 0, or a part for the last one."""
    order = jnp.argsort(jnp.where(weight > 0.0, -values, jnp.inf), axis=None)
    sorted_weight = weight.ravel()[order]
    left = share - (jnp.cumsum(sorted_weight) - sorted_weight)
    part = jnp.clip(left / jnp.where(sorted_weight > 0.0, sorted_weight, 1.0), 0.0, 1.0)
    return jnp.zeros_like(part).at[order].set(jnp.where(sorted_weight > 0.0, part, 0.0)).reshape(values.shape)
