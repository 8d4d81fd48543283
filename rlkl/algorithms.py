"""Advantages and surrogate losses of the algorithms: pure functions of a batch, sampled, counted or enumerated."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch

Advantage = Callable[[Float[Array, "N T"], Batch, Float[Array, ""]], Float[Array, "N T"]]


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm that learns from samples.

    advantage: (returns-to-go, batch, moving average of returns) -> advantages.
    aggregation: the default of `algorithm.loss_aggregation`.
    clipped: whether it makes several updates on each batch, with PPO's clipped ratio.
    factor: (returns-to-go, batch) -> the factor between its advantages and unbiased ones; None where it is 1. A penalty in the
    loss is not scaled by it, so that its effective coefficient is beta/factor.
    """

    advantage: Advantage
    aggregation: str = "seq-mean-token-sum"
    clipped: bool = False
    factor: Callable[[Float[Array, "N T"], Batch], Float[Array, ""]] | None = None


REGISTRY: dict[str, Algorithm] = {}
EXACT = {  # algorithms that draw no samples
    "exact": "The gradient of the exact objective.",
    "natural": "The natural gradient of the exact objective, of policy=tabular; optimizer=sgd takes its steps as they are.",
    "dpo": "The log-loss of the preferences that the reward was fitted to (task=preference/...), without that reward.",
}


def register(name: str, **fields):
    """Decorator that registers an advantage function as the algorithm `name`; `fields` are the other fields of `Algorithm`."""

    def add(advantage: Advantage) -> Advantage:
        REGISTRY[name] = Algorithm(advantage, **fields)
        return advantage

    return add


def names() -> tuple[str, ...]:
    """The names of all algorithms: the values of `algorithm`."""
    return (*EXACT, *REGISTRY)


def gradient_kind(name: str) -> str:
    """The kind of an algorithm's gradients: exact, sampled, or scaled (sampled, times `Algorithm.factor`)."""
    if name in EXACT:
        return "exact"
    return "sampled" if REGISTRY[name].factor is None else "scaled"


def group_mean(x: Float[Array, "N T"], batch: Batch) -> Float[Array, "1 T"]:
    """The mean of the batch at each position; sequences that have ended count as zero."""
    return batch.mean(jnp.where(batch.mask, x, 0.0))[None]


@register("reinforce")
def reinforce(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus a moving average of earlier batches' returns (Williams, Machine Learning 8, 1992)."""
    return returns - baseline


@register("rloo")
def rloo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the mean return of the other samples (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740)."""
    return returns - (batch.size * group_mean(returns, batch) - returns) / (batch.size - 1)


def centring_factor(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The factor (B-1)/B of advantages whose baseline, the group's mean, includes their own return."""
    return jnp.asarray((batch.size - 1) / batch.size, returns.dtype)


def standardising_factor(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The factor (B-1)/B of such advantages, divided by the group's standard deviation."""
    return centring_factor(returns, batch) / standard_deviation(returns, batch)


@register("dr_grpo", factor=centring_factor)
def dr_grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the group's mean, not standardised (Liu et al. 2025, arXiv 2503.20783); the batch is one group.

    This is rloo's advantage times (B-1)/B. The paper also divides by a fixed length, which is left to the learning rate.
    """
    return returns - group_mean(returns, batch)


@register("grpo", aggregation="seq-mean-token-mean", factor=standardising_factor)
def grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the group's mean, divided by the standard deviation of the group's returns (Shao et al. 2024, arXiv
    2402.03300). The batch is one group, since a task has one prompt.

    A group of equal returns has advantages of 0. The loss is also averaged over the tokens of each sequence.
    Both divisions weigh sequences unequally: where lengths differ, the expected gradient is not that of the objective.
    """
    return (returns - group_mean(returns, batch)) / standard_deviation(returns, batch)


@register("ppo", clipped=True)
def ppo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """rloo's advantages (no critic), for several updates on each batch with the clipped ratio (Schulman et al. 2017, arXiv
    1707.06347)."""
    return rloo(returns, batch, baseline)


def standard_deviation(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The standard deviation of the batch's returns (unbiased variance); 1 where they differ by rounding errors only."""
    per_sequence = returns[:, 0]
    mean = batch.mean(per_sequence)
    variance = batch.mean(jnp.square(per_sequence - mean)) * (batch.size / (batch.size - 1))
    rounding = 64.0 * jnp.finfo(per_sequence.dtype).eps * jnp.maximum(1.0, jnp.max(jnp.abs(per_sequence)))
    return jnp.where(variance > jnp.square(rounding), jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0)), 1.0)


def returns_to_go(rewards: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """The sum of the rewards from each position on, as a product with a triangle of ones: on CPUs `cumsum` takes longer."""
    later = jnp.asarray(np.tri(rewards.shape[1]), rewards.dtype)
    return jnp.matmul(rewards, later, precision=jax.lax.Precision.HIGHEST)


def aggregate(kind: str, per_token: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """Reduce a loss of each token to one number, as `algorithm.loss_aggregation` names it.

    seq-mean-token-sum: sum over the tokens of a sequence, mean over sequences. seq-mean-token-mean: mean over the tokens of a
    sequence, mean over sequences. token-mean: as seq-mean-token-sum, divided by the mean length.
    """
    length = jnp.sum(batch.mask.astype(per_token.dtype), axis=1)
    per_sequence = jnp.sum(jnp.where(batch.mask, per_token, 0.0), axis=1)
    if kind == "seq-mean-token-mean":
        per_sequence = per_sequence / jnp.maximum(length, 1.0)
    total = batch.mean(per_sequence)
    return total / batch.mean(length) if kind == "token-mean" else total


def score_loss(log_pi: Float[Array, "N T"], advantages: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """-A log pi(token); minus its gradient is the score-function estimate of the gradient of the expected return."""
    return -jax.lax.stop_gradient(advantages) * log_pi


def clipped_loss(
    log_pi: Float[Array, "N T"], old_log_pi: Float[Array, "N T"], advantages: Float[Array, "N T"], clip: Float[Array, ""]
) -> Float[Array, "N T"]:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = pi(token)/pi_old(token) (arXiv 1707.06347, eq. 7)."""
    ratio, advantages = jnp.exp(log_pi - old_log_pi), jax.lax.stop_gradient(advantages)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages)
