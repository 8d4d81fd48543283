"""Advantages and surrogate losses: pure functions of a batch, whichever way the batch was made."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch

Advantage = Callable[[Float[Array, "N T"], Batch, Float[Array, ""]], Float[Array, "N T"]]


@dataclass(frozen=True)
class Algorithm:
    """A registered sampled algorithm.

    advantage: (returns-to-go, batch, moving average of returns) -> advantages. aggregation: the default of
    `algorithm.loss_aggregation`. clipped: whether it takes several epochs on a batch under PPO's clipped ratio.
    factor: (returns-to-go, batch) -> what the unbiased advantages are multiplied by, where they are: a penalty outside of
    them is then worth beta over the factor.
    """

    advantage: Advantage
    aggregation: str = "seq-mean-token-sum"
    clipped: bool = False
    factor: Callable[[Float[Array, "N T"], Batch], Float[Array, ""]] | None = None


REGISTRY: dict[str, Algorithm] = {}
EXACT = {  # algorithms that sample nothing
    "exact": "The gradient of the exact objective.",
    "natural": "The natural gradient of the exact objective, of policy=tabular; optimizer=sgd takes its steps as they are.",
    "dpo": "The log-loss of the preferences that the reward was fitted to (task=preference/...), without that reward.",
}


def register(name: str, **rest):
    """Decorator: make an advantage function the algorithm `name`; `rest` are the other fields of `Algorithm`."""

    def add(advantage: Advantage) -> Advantage:
        REGISTRY[name] = Algorithm(advantage, **rest)
        return advantage

    return add


def names() -> tuple[str, ...]:
    """Every value of `algorithm`."""
    return (*EXACT, *REGISTRY)


def gradient_kind(name: str) -> str:
    """Whether an algorithm's gradients are exact, sampled, or sampled and scaled; `penalties.options.resolve` asks for it."""
    if name in EXACT:
        return "exact"
    return "sampled" if REGISTRY[name].factor is None else "scaled"


def group_mean(x: Float[Array, "N T"], batch: Batch) -> Float[Array, "1 T"]:
    """The mean over the batch at each position; a sequence that has ended counts as zero."""
    return jnp.sum(batch.weight[:, None] * jnp.where(batch.mask, x, 0.0), axis=0, keepdims=True)


@register("reinforce")
def reinforce(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less a moving average of earlier batches' returns (Williams, Machine Learning 8, 1992)."""
    return returns - baseline


@register("rloo")
def rloo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less the mean of the other draws' (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740)."""
    return returns - (batch.size * group_mean(returns, batch) - returns) / (batch.size - 1)


def centred(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The factor of advantages whose group's mean holds their own return: (B-1)/B."""
    return jnp.asarray((batch.size - 1) / batch.size, returns.dtype)


def standardised(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The factor of such advantages over the group's standard deviation."""
    return centred(returns, batch) / standard_deviation(returns, batch)


@register("dr_grpo", factor=centred)
def dr_grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less the group's mean, not standardised (Liu et al. 2025, arXiv 2503.20783); the batch is one group.

    rloo's advantage times (B-1)/B, summed over tokens: the paper's division by a fixed length is the learning rate's.
    """
    return returns - group_mean(returns, batch)


@register("grpo", aggregation="seq-mean-token-mean", factor=standardised)
def grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less the group's mean, over the standard deviation of the group's returns, averaged over a sequence's tokens
    (Shao et al. 2024, arXiv 2402.03300); the batch is one group, since a task has one prompt.

    A group of equal returns teaches nothing (its advantages are 0). Both divisions weigh sequences by what they are: on
    sequences of unequal length the expected gradient is not that of the objective.
    """
    return (returns - group_mean(returns, batch)) / standard_deviation(returns, batch)


@register("ppo", clipped=True)
def ppo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """rloo's advantage, for several epochs on each batch under the clipped ratio (Schulman et al. 2017, arXiv 1707.06347);
    there is no critic."""
    return rloo(returns, batch, baseline)


def standard_deviation(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The standard deviation of the batch's returns (unbiased variance); 1 where all are equal to rounding."""
    whole = returns[:, 0]
    mean = jnp.sum(batch.weight * whole)
    variance = jnp.sum(batch.weight * jnp.square(whole - mean)) * (batch.size / (batch.size - 1))
    rounding = 64.0 * jnp.finfo(whole.dtype).eps * jnp.maximum(1.0, jnp.max(jnp.abs(whole)))
    return jnp.where(variance > jnp.square(rounding), jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0)), 1.0)


def returns_to_go(rewards: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """The sum of a position's reward and all later ones."""
    return jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def aggregate(kind: str, per_position: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """One number from a value a token read, by the field's names: seq-mean-token-sum (the sum over a sequence, averaged over
    sequences: the sequence's own objective), seq-mean-token-mean (each sequence divided by its length), token-mean (all
    divided by the mean length)."""
    inside = jnp.where(batch.mask, per_position, 0.0)
    length = jnp.sum(batch.mask.astype(per_position.dtype), axis=1)
    whole = jnp.sum(inside, axis=1)
    if kind == "seq-mean-token-mean":
        whole = whole / jnp.maximum(length, 1.0)
    total = jnp.sum(batch.weight * whole)
    return total / jnp.sum(batch.weight * length) if kind == "token-mean" else total


def score_loss(log_pi: Float[Array, "N T"], advantages: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """-A log pi(token): its gradient is minus the score-function estimate of the return's."""
    return -jax.lax.stop_gradient(advantages) * log_pi


def clipped_loss(
    log_pi: Float[Array, "N T"], sampled: Float[Array, "N T"], advantages: Float[Array, "N T"], clip: Float[Array, ""]
) -> Float[Array, "N T"]:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = pi(token)/pi_sampled(token) (arXiv 1707.06347, eq. 7)."""
    ratio, advantages = jnp.exp(log_pi - sampled), jax.lax.stop_gradient(advantages)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages)
