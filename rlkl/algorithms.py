"""Advantages of the algorithms, and the mean of token losses: pure functions of a batch, sampled, counted or enumerated."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl.rollouts.batch import Batch
from rlkl.settings import AlgorithmSettings

Advantage = Callable[[Float[Array, "N T"], Batch, Float[Array, ""]], Float[Array, "N T"]]


@dataclass(frozen=True)
class Algorithm:
    """A registered algorithm that learns from samples.

    advantage: (returns-to-go, batch, moving average of returns) -> advantages.
    aggregation: the default of `algorithm.loss_aggregation`.
    surrogate, epochs: the defaults of `algorithm.surrogate` and of `algorithm.epochs`.
    factor: (returns-to-go, batch) -> the factor between its advantages, before they are scaled, and unbiased ones; None where
    it is 1. A penalty in the loss is not scaled by it, so that its effective coefficient is beta/factor.
    scale: the default of `algorithm.scale_advantages`. smallest_group: the least number of samples in a group.
    """

    advantage: Advantage
    aggregation: str = "seq-mean-token-sum"
    surrogate: str = "none"
    epochs: int = 1
    factor: Callable[[Float[Array, "N T"], Batch], Float[Array, ""]] | None = None
    scale: str = "none"
    smallest_group: int = 1


REGISTRY: dict[str, Algorithm] = {}
EXACT = {  # algorithms that draw no samples
    "exact": "The gradient of the exact objective.",
    "natural": "The natural gradient of the exact objective, of policy=tabular; optimizer=sgd takes its steps as they are.",
    "dpo": "The log-loss of the preferences (task=preference/...) under the reward beta f'(pi/pi_ref); no reward is fitted.",
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


def gradient_kind(name: str, scale_advantages: str | None = None) -> str:
    """The kind of an algorithm's gradients: exact, sampled, or scaled (sampled, with advantages times a factor).

    scale_advantages: as in the settings; null: the algorithm's own.
    """
    if name in EXACT:
        return "exact"
    scale = REGISTRY[name].scale if scale_advantages is None else scale_advantages
    return "sampled" if REGISTRY[name].factor is None and scale == "none" else "scaled"


def over_groups(x: Float[Array, "N T"], batch: Batch) -> Float[Array, "G1 T"]:
    """The mean of each group at each position: a row for each sequence, or one row where the batch is one group."""
    if batch.groups == 1:
        return batch.mean(x)[None]
    grouped, weight = x.reshape(batch.groups, -1, x.shape[1]), jnp.asarray(batch.weight).reshape(batch.groups, -1)
    total = jnp.sum(weight, axis=1, keepdims=True)
    share = weight / jnp.where(total > 0.0, total, 1.0)
    means = jnp.einsum("gn,gnt->gt", share, grouped, precision=jax.lax.Precision.HIGHEST)
    return jnp.repeat(means, grouped.shape[1], axis=0)


def group_mean(x: Float[Array, "N T"], batch: Batch) -> Float[Array, "G1 T"]:
    """The mean of each group at each position; sequences that have ended count as zero."""
    return over_groups(jnp.where(batch.mask, x, 0.0), batch)


def group_size(batch: Batch) -> int:
    """The number of samples in a group."""
    return batch.size // batch.groups


@register("reinforce")
def reinforce(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus a moving average of earlier batches' returns (Williams, Machine Learning 8, 1992)."""
    return returns - baseline


@register("rloo", smallest_group=2)
def rloo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the mean return of the group's other samples (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740)."""
    size = group_size(batch)
    return returns - (size * group_mean(returns, batch) - returns) / (size - 1)


def centring_factor(returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""]:
    """The factor (G-1)/G of advantages whose baseline, the mean of a group of G, includes their own return."""
    return jnp.asarray((group_size(batch) - 1) / group_size(batch), returns.dtype)


@register("dr_grpo", factor=centring_factor, smallest_group=2)
def dr_grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the group's mean, not standardised (Liu et al. 2025, arXiv 2503.20783).

    This is rloo's advantage times (G-1)/G. The paper also divides by a fixed length, which is left to the learning rate.
    """
    return returns - group_mean(returns, batch)


@register("grpo", aggregation="seq-mean-token-mean", factor=centring_factor, scale="group", smallest_group=2)
def grpo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Returns minus the group's mean, which `scale_advantages` divides by the group's standard deviation (Shao et al. 2024,
    arXiv 2402.03300).

    A group of equal returns has advantages of 0. The loss is also averaged over the tokens of each sequence.
    Both divisions weigh sequences unequally: where lengths differ, or groups do, the expected gradient is not that of the
    objective (`exact.utility` for rewards of two values).
    """
    return dr_grpo(returns, batch, baseline)


@register("ppo", surrogate="ppo", epochs=4, smallest_group=2)
def ppo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """rloo's advantages (no critic), for several updates on each batch with the clipped ratio (Schulman et al. 2017, arXiv
    1707.06347)."""
    return rloo(returns, batch, baseline)


def advantages(
    algorithm: AlgorithmSettings, returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]
) -> Float[Array, "N T"]:
    """The algorithm's advantages, weighted for pass@k where `pass_k` says so, or divided by a standard deviation where
    `scale_advantages` does."""
    unscaled = REGISTRY[algorithm.name].advantage(returns, batch, baseline)
    if algorithm.pass_k is not None:
        return unscaled * pass_at_k_weight(algorithm.pass_k, returns[:, 0], batch)[:, None]
    return unscaled if scale_of(algorithm) == "none" else unscaled / standard_deviation(algorithm, returns, batch)


def pass_at_k_weight(k: int, reward: Float[Array, " N"], batch: Batch) -> Float[Array, " N"]:
    """The weight of each sample's advantage that makes its expected gradient that of pass@k, 1 - (1 - p)^k.

    reward: 0 or 1 of each sample. The weight is k times the share of the subsets of k - 1 of the group's other samples that
    have no success: C(F, k - 1)/C(G - 1, k - 1), for F failures among the other G - 1. It does not depend on the sample itself,
    and its mean is k (1 - p)^(k - 1). For k = 1 it is 1. That share is the part of pass@k's unbiased estimate that one success
    adds (Walder and Karkhanis 2025, "Pass@k policy optimization: solving harder reinforcement learning problems", arXiv
    2505.15201; Chen et al. 2025, "Pass@k training for adaptively balancing exploration and exploitation of large reasoning
    models", arXiv 2508.10751).
    """
    others = group_size(batch) - 1
    failures = others - (group_size(batch) * over_groups(reward[:, None], batch)[:, 0] - reward)
    drawn = jnp.arange(k - 1, dtype=reward.dtype)[None]
    # Counts are rounded: means of single precision are not quite whole multiples of 1/G.
    left = jnp.maximum(jnp.round(failures)[:, None] - drawn, 0.0)
    return k * jnp.prod(left / (others - drawn), axis=1)


def scale_of(algorithm: AlgorithmSettings) -> str:
    """How advantages are scaled: as the settings say or, where they do not, as the algorithm does."""
    return algorithm.scale_advantages or REGISTRY[algorithm.name].scale


def effective_factor(algorithm: AlgorithmSettings, returns: Float[Array, "N T"], batch: Batch) -> Float[Array, ""] | None:
    """The factor between the algorithm's advantages and unbiased ones, averaged over groups; None where it is 1.

    Where there are several groups, those of equal returns, whose advantages are zero, have the factor zero.
    """
    factor, scale = REGISTRY[algorithm.name].factor, scale_of(algorithm)
    if factor is None and scale == "none":
        return None
    unscaled = jnp.ones((), returns.dtype) if factor is None else factor(returns, batch)
    if scale == "none":
        return unscaled
    deviation = standard_deviation(algorithm, returns, batch)
    if deviation.ndim == 0:
        return unscaled / deviation
    varies = _squared_deviation(algorithm, returns, batch) > 0.0
    return unscaled * batch.mean(jnp.where(varies, 1.0 / deviation, 0.0))[0]


def standard_deviation(
    algorithm: AlgorithmSettings, returns: Float[Array, "N T"], batch: Batch
) -> Float[Array, ""] | Float[Array, "N one"]:
    """The standard deviation of the returns of each sequence's group, or of the batch, by `scale_advantages` and `std`.

    It is 1 where they differ by rounding errors only.
    """
    variance = _squared_deviation(algorithm, returns, batch)
    return jnp.where(variance > 0.0, jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0)), 1.0)


def _squared_deviation(algorithm: AlgorithmSettings, returns: Float[Array, "N T"], batch: Batch) -> Float[Array, "..."]:
    """The variance of the returns of each sequence's group, or of the batch; 0 where they differ by rounding errors only."""
    per_sequence, in_groups = returns[:, 0], scale_of(algorithm) == "group" and batch.groups > 1
    size = group_size(batch) if in_groups else batch.size
    correction = 1.0 if algorithm.std == "population" else size / (size - 1)
    largest = jnp.max(jnp.abs(per_sequence))
    if in_groups:
        per_sequence = per_sequence[:, None]
        variance = over_groups(jnp.square(per_sequence - over_groups(per_sequence, batch)), batch) * correction
    else:
        variance = batch.mean(jnp.square(per_sequence - batch.mean(per_sequence))) * correction
    rounding = 64.0 * jnp.finfo(returns.dtype).eps * jnp.maximum(1.0, largest)
    return jnp.where(variance > jnp.square(rounding), variance, 0.0)


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
    if kind != "token-mean":
        return total
    tokens = batch.mean(length)
    return total / jnp.where(tokens > 0.0, tokens, 1.0)  # no tokens: every group was dropped
