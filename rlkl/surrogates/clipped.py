"""Surrogates that limit the ratio r = pi/pi_old: of each token, or of its sequence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl.rollouts.batch import Batch
from rlkl.settings import AlgorithmSettings
from rlkl.surrogates.registry import TokenLoss, register


def pessimistic(
    ratio: Float[Array, "N T"], advantages: Float[Array, "N T"], options: AlgorithmSettings
) -> tuple[Float[Array, "N T"], Bool[Array, "N T"]]:
    """min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and whether the clip removes the token's gradient."""
    low, high = 1.0 - options.clip_low, 1.0 + options.clip_high
    value = jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    return value, ((advantages > 0.0) & (ratio > high)) | ((advantages < 0.0) & (ratio < low))


@register(
    "ppo",
    "-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)",
    {
        "TRL": "loss_type=grpo, bnpo, dr_grpo or dapo; epsilon, epsilon_high",
        "slime": "--eps-clip, --eps-clip-high",
        "NeMo RL": "ratio_clip_min, ratio_clip_max",
        "SkyRL": "policy_loss_type=regular; eps_clip_low, eps_clip_high",
        "OpenRLHF": "--actor.policy_loss_type ppo, --actor.eps_clip_low_high",
    },
    clip_low=0.2,
    clip_high=0.2,
)
def ppo(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """PPO's clipped ratio (Schulman et al. 2017, "Proximal policy optimization algorithms", arXiv 1707.06347, eq. 7).

    A token with A > 0 has no gradient above 1 + clip_high, one with A < 0 none below 1 - clip_low.
    """
    value, clipped = pessimistic(jnp.exp(log_pi - old_log_pi), advantages, options)
    return TokenLoss(-value, clipped.astype(log_pi.dtype))


@register(
    "dual_clip",
    "as ppo; where A < 0, at most -clip_ratio_c A",
    {
        "verl": "policy_loss.loss_mode=vanilla; clip_ratio_low, clip_ratio_high, clip_ratio_c (3 by default)",
        "TRL": "delta",
        "slime": "--eps-clip-c",
        "NeMo RL": "ratio_clip_c",
        "SkyRL": "policy_loss_type=dual_clip; clip_ratio_c",
        "OpenRLHF": "--actor.dual_clip",
    },
    clip_low=0.2,
    clip_high=0.2,
    clip_ratio_c=3.0,
)
def dual_clip(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """PPO's loss, which where A < 0 is also constant above r = clip_ratio_c (Ye et al. 2020, "Mastering complex control in MOBA
    games with deep reinforcement learning", arXiv 1912.09729)."""
    ratio = jnp.exp(log_pi - old_log_pi)
    value, clipped = pessimistic(ratio, advantages, options)
    negative = advantages < 0.0
    value = jnp.where(negative, jnp.maximum(value, options.clip_ratio_c * advantages), value)
    return TokenLoss(-value, (clipped | (negative & (ratio > options.clip_ratio_c))).astype(log_pi.dtype))


@register(
    "cispo",
    "-sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi",
    {
        "verl": "policy_loss.loss_mode=cispo; clip_ratio_low, clip_ratio_high",
        "TRL": "loss_type=cispo; epsilon_high is 1 + clip_high, with no lower limit",
        "slime": "--advantage-estimator cispo, --eps-clip, --eps-clip-high",
        "NeMo RL": "use_cispo=true; ratio_clip_min, ratio_clip_max",
        "SkyRL": "policy_loss_type=cispo; cispo.cispo_eps_clip_low, ..._high, cispo.cispo_anchor",
    },
    clip_low=1.0,
    clip_high=4.0,
)
def cispo(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """The score-function loss with a clipped ratio as its weight, so that no token loses its gradient (MiniMax 2025,
    "MiniMax-M1", arXiv 2506.13585). clip_low = 1 is no lower limit, as there."""
    ratio = jax.lax.stop_gradient(jnp.exp(log_pi - old_log_pi))
    weight = jnp.clip(ratio, 1.0 - options.clip_low, 1.0 + options.clip_high)
    return TokenLoss(-weight * advantages * log_pi, (weight != ratio).astype(log_pi.dtype))


@register(
    "gspo",
    "-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = sg(exp(mean over the sequence of log r)) pi/sg(pi)",
    {
        "verl": "policy_loss.loss_mode=gspo; clip_ratio_low, clip_ratio_high",
        "TRL": "importance_sampling_level=sequence, loss_type=grpo; epsilon, epsilon_high",
        "slime": "--advantage-estimator gspo, --eps-clip, --eps-clip-high",
        "NeMo RL": "sequence_level_importance_ratios=true, token_level_loss=false",
        "SkyRL": "policy_loss_type=gspo; eps_clip_low, eps_clip_high",
        "OpenRLHF": "--actor.policy_loss_type gspo",
    },
    clip_low=3e-4,
    clip_high=4e-4,
)
def gspo(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """PPO's loss with one ratio for a sequence, the geometric mean of its tokens' ratios (Zheng et al. 2025, "Group sequence
    policy optimization", arXiv 2507.18071, the form with one advantage a token).

    The limits are the paper's, whose loss is a mean over tokens: algorithm.loss_aggregation=seq-mean-token-mean.
    """
    mean = sequence_mean(log_pi - old_log_pi, batch)
    ratio = jnp.exp(jax.lax.stop_gradient(mean) + log_pi - jax.lax.stop_gradient(log_pi))
    value, clipped = pessimistic(ratio, advantages, options)
    return TokenLoss(-value, clipped.astype(log_pi.dtype))


def sequence_mean(values: Float[Array, "N T"], batch: Batch) -> Float[Array, "N 1"]:
    """The mean over the tokens of each sequence of values that are 0 at padding."""
    length = jnp.sum(jnp.asarray(batch.mask).astype(values.dtype), axis=1, keepdims=True)
    return jnp.sum(values, axis=1, keepdims=True) / jnp.maximum(length, 1.0)


@register(
    "sapo",
    "-(4/tau) sigmoid(tau (r - 1)) A, tau = tau_pos where A > 0, else tau_neg",
    {
        "verl": "policy_loss.loss_mode=sapo; tau_pos, tau_neg",
        "TRL": "loss_type=sapo; sapo_temperature_pos, sapo_temperature_neg",
        "SkyRL": "policy_loss_type=sapo; sapo.tau_pos, sapo.tau_neg",
    },
    tau_pos=1.0,
    tau_neg=1.05,
)
def sapo(log_pi, old_log_pi, advantages, batch, options) -> TokenLoss:
    """A smooth gate in the clip's place (Gao et al. 2025, "Soft adaptive policy optimization", arXiv 2511.20347).

    The weight of a token's gradient is r times 4 sigmoid(x) (1 - sigmoid(x)), x = tau (r - 1), which is 1 at r = 1 and falls on
    both sides of it. `touched` is the share of the gradient that this takes away.
    """
    ratio = jnp.exp(log_pi - old_log_pi)
    tau = jnp.where(advantages > 0.0, options.tau_pos, options.tau_neg)
    gate = jax.nn.sigmoid(tau * (ratio - 1.0))
    return TokenLoss(-4.0 / tau * gate * advantages, 1.0 - 4.0 * gate * (1.0 - gate))
