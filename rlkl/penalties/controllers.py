"""Controllers and schedules of the penalty's coefficient beta. Controllers steer to a KL(pi‖pi_ref) in nats per sequence."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rlkl import settings

CLIP = 0.2  # bound of the relative error in `adaptive`, as in its source
MEMORY = 0.98  # decay of the average of the batches' KL; clipping the noise of single batches would bias the controller


def average(
    previous: Float[Array, ""], kl: Float[Array, ""], step: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The moving average after this batch's KL, and the divisor that corrects its start at zero (as in Adam)."""
    divisor = 1.0 - jnp.asarray(MEMORY, kl.dtype) ** (step + 1).astype(kl.dtype)
    return MEMORY * previous + (1.0 - MEMORY) * kl, divisor


def after(
    penalty: settings.PenaltySettings, beta: Float[Array, ""], kl: Float[Array, ""], sequences: int | None
) -> Float[Array, ""]:
    """The coefficient after a training step, given the averaged KL(pi‖pi_ref) in nats.

    sequences: the batch size; None for an exact step, which counts as one sequence.
    fixed: unchanged.
    adaptive: multiplied by 1 + clip(KL/target - 1, -0.2, 0.2) sequences/horizon (Ziegler et al. 2019, arXiv 1909.08593, section
    2.2).
    lagrangian: dual ascent on a KL budget in log beta: multiplied by exp(rate clip(KL/target - 1, -1, 1)). The clip limits the
    effect of a single batch (cf. Stooke et al. 2020, arXiv 2007.03964).
    Both are clipped to `settings.BETA_LIMITS`: with an unreachable target beta would go to 0 or infinity.
    """
    if penalty.controller == "fixed":
        return beta
    error = kl / penalty.target_kl - 1.0
    if penalty.controller == "adaptive":
        factor = 1.0 + jnp.clip(error, -CLIP, CLIP) * (sequences or 1) / penalty.horizon
    else:
        factor = jnp.exp(penalty.controller_rate * jnp.clip(error, -1.0, 1.0))
    return jnp.clip(beta * factor, *settings.BETA_LIMITS)


def least_horizon(sequences: int | None) -> float:
    """The horizon at or below which the factor of `adaptive` could become 0 or negative.

    sequences: the batch size; None for an exact step, which counts as one sequence.
    """
    return CLIP * (sequences or 1)


def scheduled(penalty: settings.PenaltySettings, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
    """The scheduled coefficient after `step` of `steps` steps; `exponential` is linear in log beta."""
    first, last = jnp.asarray(penalty.beta), jnp.asarray(penalty.beta_end)
    step = step.astype(first.dtype)  # optax would divide whole numbers in 32 bits
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and values
        if penalty.controller == "linear":
            beta = optax.linear_schedule(first, last, steps)(step)
        elif penalty.controller == "cosine":
            beta = optax.cosine_decay_schedule(first, steps, last / first)(step)
        else:
            beta = jnp.exp(optax.linear_schedule(jnp.log(first), jnp.log(last), steps)(step))
    return jnp.asarray(beta, first.dtype)
