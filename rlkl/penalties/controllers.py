"""What moves the coefficient of a penalty while a policy trains: towards a wanted KL(pi‖pi_ref) of a sequence, in nats."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rlkl import settings

CLIP = 0.2  # of the relative error that `adaptive` acts on, as in its source
MEMORY = 0.98  # of the average of batches' KL: their noise, cut by the clips, would be a bias


def average(before: Float[Array, ""], kl: Float[Array, ""], step: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The moving average with this batch's KL, and by what it is to be divided since it started at zero."""
    seen = 1.0 - jnp.asarray(MEMORY, kl.dtype) ** (step + 1).astype(kl.dtype)
    return MEMORY * before + (1.0 - MEMORY) * kl, seen


def after(
    penalty: settings.PenaltySettings, beta: Float[Array, ""], kl: Float[Array, ""], sequences: int | None
) -> Float[Array, ""]:
    """The coefficient after a batch of `sequences` (None: an exact step, of one) with this averaged KL(pi‖pi_ref).

    fixed: as it was. adaptive: times 1 + clip(KL/target - 1, -0.2, 0.2) sequences/horizon (Ziegler et al. 2019, arXiv
    1909.08593, section 2.2). lagrangian: dual ascent on the budget in log beta, times exp(rate (KL/target - 1)), the error
    held within 1 so that one wild batch moves it little (cf. Stooke et al. 2020, arXiv 2007.03964). Both stay within
    `settings.BETA_LIMITS`: a target that cannot be reached would bring beta to 0 or infinity.
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
    """The horizon at or below which a batch of `sequences` (None: an exact step, of one) could bring `adaptive`'s factor to 0
    or below."""
    return CLIP * (sequences or 1)


def scheduled(penalty: settings.PenaltySettings, step: Int[Array, ""], steps: int) -> Float[Array, ""]:
    """The coefficient after `step` of `steps` of a schedule by optax; `exponential` is linear in log beta."""
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
