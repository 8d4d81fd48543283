"""Importance weights pi/sampler for samples of another policy, with optional limits."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl import settings
from rlkl.penalties import kl_masks
from rlkl.rollouts.batch import Batch

LIBRARIES: Mapping[tuple[str, str], Mapping[str, str]] = {  # by importance_correction and importance_limit
    ("token", "truncate"): {
        "verl": "rollout_correction.rollout_is=token; rollout_is_threshold",
        "TRL": "vllm_importance_sampling_mode=token_truncate; vllm_importance_sampling_clip_min, ..._clip_max",
        "slime": "--use-tis; --tis-clip-low, --tis-clip",
        "NeMo RL": "truncated_importance_sampling_type=tis; truncated_importance_sampling_ratio_min, ..._ratio",
        "SkyRL": "tis_ratio_type=token; token_tis_ratio_clip_high",
        "OpenRLHF": "--algo.advantage.is_correction_type tis; is_correction_threshold",
    },
    ("token", "mask"): {
        "verl": "rollout_correction.rollout_is=token; rollout_is_threshold=LOWER_UPPER",
        "TRL": "vllm_importance_sampling_mode=token_mask; vllm_importance_sampling_clip_min, ..._clip_max",
        "slime": "icepop_function as --custom-tis-function-path; --tis-clip-low, --tis-clip",
        "NeMo RL": "truncated_importance_sampling_type=icepop; truncated_importance_sampling_ratio_min, ..._ratio",
        "OpenRLHF": "--algo.advantage.is_correction_type icepop; is_correction_threshold",
    },
    ("sequence", "truncate"): {
        "verl": "rollout_correction.rollout_is=sequence; rollout_is_threshold",
        "TRL": "vllm_importance_sampling_mode=sequence_truncate; vllm_importance_sampling_clip_min, ..._clip_max",
        "slime": "tis_level=sequence, tis_mode=clip in mis.yaml; tis_lower_bound, tis_upper_bound",
        "SkyRL": "tis_ratio_type=sequence; sequence_tis_ratio_clip_high",
    },
    ("sequence", "mask"): {
        "TRL": "vllm_importance_sampling_mode=sequence_mask (its default, at most 3)",
        "slime": "tis_level=sequence, tis_mode=mask in mis.yaml; tis_lower_bound, tis_upper_bound",
    },
    ("geometric", "truncate"): {"slime": "tis_level=geometric, tis_mode=clip in mis.yaml; tis_lower_bound, tis_upper_bound"},
    ("geometric", "mask"): {"slime": "tis_level=geometric, tis_mode=mask in mis.yaml; tis_lower_bound, tis_upper_bound"},
}


class Weights(NamedTuple):
    """The importance weight of each token, and the share of weights that a limit changed (None without limits)."""

    of_token: Float[Array, "N T"]
    limited: Float[Array, ""] | None


def weights(
    penalty: settings.PenaltySettings,
    log_pi: Float[Array, "N T"],
    reported: Float[Array, "N T"],
    advantages: Float[Array, "N T"],
    batch: Batch,
) -> Weights:
    """The importance weights of sampled tokens, by `penalty.importance_correction` and its limits; no gradient flows.

    reported: the log-probabilities that the sampler reported. none: weights of 1. sequence: the ratio of the whole sequence at
    each of its tokens; the expected gradient is then that of samples from the policy. token: the ratio of each token, which
    ignores that the sampler visits other states (on a bandit there are none). geometric: the geometric mean of the ratios of a
    sequence's tokens, at each of them.

    Weights above `penalty.truncation` or below `penalty.importance_min` are set to that limit (Ionides, "Truncated importance
    sampling", 2008) or, with importance_limit=mask, to 0. Weights that `penalty.kl_mask` drops are 0 too.
    """
    log_ratio = jax.lax.stop_gradient(log_pi) - reported
    log_weight = _log_weight(penalty.importance_correction, log_ratio, batch)
    beyond = _beyond(penalty, log_weight)
    weight = None
    if penalty.importance_limit == "mask" and beyond is not None:
        weight = jnp.where(beyond, 0.0, jnp.exp(jnp.where(beyond, 0.0, log_weight)))
    else:
        if penalty.truncation is not None and penalty.importance_correction != "none":
            log_weight = jnp.minimum(log_weight, jnp.log(penalty.truncation))
        if penalty.importance_min is not None:
            log_weight = jnp.maximum(log_weight, jnp.log(penalty.importance_min))
        weight = jnp.exp(log_weight)
    if penalty.kl_mask != "none":
        keep = kl_masks.keep(penalty.kl_mask, penalty.kl_mask_limit, log_ratio, advantages, batch)
        weight, beyond = jnp.where(keep, weight, 0.0), ~keep if beyond is None else beyond | ~keep
    return Weights(weight, None if beyond is None else _share(beyond, batch, weight.dtype))


def _log_weight(correction: str, log_ratio: Float[Array, "N T"], batch: Batch) -> Float[Array, "N T"]:
    """The logarithm of the weights without limits."""
    if correction == "none":
        return jnp.zeros_like(log_ratio)
    if correction == "token":
        return log_ratio
    total = jnp.sum(log_ratio, axis=1, keepdims=True)
    if correction == "geometric":
        total = total / jnp.maximum(jnp.sum(jnp.asarray(batch.mask).astype(total.dtype), axis=1, keepdims=True), 1.0)
    return jnp.broadcast_to(total, log_ratio.shape)


def _beyond(penalty: settings.PenaltySettings, log_weight: Float[Array, "N T"]) -> Bool[Array, "N T"] | None:
    """Which weights are beyond a limit; None without limits."""
    if penalty.importance_correction == "none" or (penalty.truncation is None and penalty.importance_min is None):
        return None
    above = False if penalty.truncation is None else log_weight > jnp.log(penalty.truncation)
    below = False if penalty.importance_min is None else log_weight < jnp.log(penalty.importance_min)
    return jnp.asarray(above | below)


def _share(tokens: Bool[Array, "N T"], batch: Batch, dtype) -> Float[Array, ""]:
    """The share of these tokens among all."""
    mask = jnp.asarray(batch.mask)

    def count(each):
        return batch.mean(jnp.sum((mask & each).astype(dtype), axis=1))

    return count(tokens) / count(mask)
