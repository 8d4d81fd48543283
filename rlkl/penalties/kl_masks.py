"""Masks of tokens or whole sequences that are far from their sampler, by an estimate of KL(sampler‖pi) on them.

With u = log(pi/sampler) of a token of the sampler, k1 = -u, k2 = u^2/2 and k3 = e^u - 1 - u; k1 and k3 estimate KL(sampler‖pi)
without bias, token by token. The names are verl's (`rollout_correction.rollout_rs`), but for opsm, which is slime's.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl.rollouts.batch import Batch
from rlkl.settings import KL_MASKS

ESTIMATES: Mapping[str, Callable[[Float[Array, "N T"]], Float[Array, "N T"]]] = {
    "k1": jnp.negative,
    "k2": lambda u: 0.5 * jnp.square(u),
    "k3": lambda u: jnp.expm1(u) - u,
}
VERL = "rollout_correction.rollout_rs=NAME; rollout_rs_threshold (of k1: e^kl_mask_limit)"
LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "opsm": {"TRL": "off_policy_mask_threshold", "slime": "--use-opsm; --opsm-delta"},
    "token_k1": {"verl": VERL, "SkyRL": "token_mask_is_threshold_low, token_mask_is_threshold_high"},
    "seq_sum_k1": {"verl": VERL, "SkyRL": "sequence_mask_metric=product; product_mask_low, product_mask_high"},
    "seq_mean_k1": {
        "verl": VERL,
        "SkyRL": "sequence_mask_metric=geometric; geo_mask_low, geo_mask_high",
        "NeMo RL": "truncated_importance_sampling_type=seq-mask-tis, with importance_correction=token",
        "OpenRLHF": "--algo.advantage.is_correction_type seq-mask-tis, with importance_correction=token",
    },
} | {name: {"verl": VERL} for name in KL_MASKS if name != "opsm" and not name.endswith("k1")}


def keep(
    name: str,
    limit: Float[Array, ""] | float,
    log_ratio: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    batch: Batch,
) -> Bool[Array, "N T"]:
    """Which tokens keep their gradient under `penalty.kl_mask`.

    log_ratio: log(pi/sampler) of each token, 0 at padding. A token is kept whose own estimate (token), or whose sequence's sum,
    mean or largest (seq_sum, seq_mean, seq_max), is at most the limit, in nats; of k1 its absolute value. opsm: one that has an
    advantage of at least 0, or whose sequence's mean of k1 is at most the limit (DeepSeek-AI 2025, "DeepSeek-V3.2", arXiv
    2512.02556, off-policy sequence masking).
    """
    if name == "opsm":
        return (advantages >= 0.0) | (_of_sequence("mean", -log_ratio, batch) <= limit)
    level, _, estimate = name.rpartition("_")
    statistic = ESTIMATES[estimate](log_ratio)
    if level != "token":
        statistic = _of_sequence(level.removeprefix("seq_"), statistic, batch)
    return jnp.broadcast_to((jnp.abs(statistic) if estimate == "k1" else statistic) <= limit, log_ratio.shape)


def _of_sequence(how: str, values: Float[Array, "N T"], batch: Batch) -> Float[Array, "N 1"]:
    """The sum, mean or maximum over the tokens of each sequence."""
    mask = jnp.asarray(batch.mask)
    if how == "max":
        return jnp.max(jnp.where(mask, values, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.where(mask, values, 0.0), axis=1, keepdims=True)
    length = jnp.sum(mask.astype(values.dtype), axis=1, keepdims=True)
    return total if how == "sum" else total / jnp.maximum(length, 1.0)
