"""A Gaussian over ordered arms: the restricted family in which mode-seeking and mass-covering appear."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlkl.errors import SettingsError
from rlkl.policies.base import Policy, normalise, register


class Gaussian(Policy):
    """pi(x) proportional to exp(-(x - mean)^2 / (2 scale^2)) on the tokens' coordinates.

    scale^2 = spacing^2 + exp(2 log_scale): never below one spacing, and never without a gradient. The logits are the
    quadratic itself, so nothing is a density that underflows.
    """

    mean: Float[Array, ""]
    log_scale: Float[Array, ""]
    coordinates: Float[Array, " V"]
    spacing: Float[Array, ""]
    support: Bool[Array, "D V"]
    horizon: int = eqx.field(static=True)

    def table(self) -> Float[Array, "T D V"]:
        coordinates, spacing = jax.lax.stop_gradient((self.coordinates, self.spacing))
        variance = jnp.square(spacing) + jnp.exp(2.0 * self.log_scale)
        logits = -0.5 * jnp.square(coordinates - self.mean) / variance
        rows = normalise(jnp.broadcast_to(logits, self.support.shape), self.support)
        return jnp.broadcast_to(rows, (self.horizon, *rows.shape))


def check_scale(settings, task) -> None:
    """A start no narrower than the family's floor, one spacing of the coordinates."""
    spacing = float(np.min(np.diff(np.sort(task.coordinates))))
    if settings.scale <= spacing:
        raise SettingsError("policy.scale", settings.scale, f"must be above one spacing of the arms ({spacing:.4g})")


def spacing_of(coordinates: Float[Array, " V"]) -> Float[Array, ""]:
    """The least distance between two arms."""
    return jnp.min(jnp.diff(jnp.sort(coordinates)))


def box(task) -> tuple[Float[Array, " 2"], Float[Array, " 2"]]:
    """Means somewhat beyond the arms, scales from one spacing to several times the arms' width."""
    low, high = jnp.min(task.coordinates), jnp.max(task.coordinates)
    width = high - low
    narrowest = jnp.log(0.01 * spacing_of(task.coordinates))
    return jnp.stack([low - 0.5 * width, narrowest]), jnp.stack([high + 0.5 * width, jnp.log(4.0 * width)])


def at(task, support, vector: Float[Array, " 2"]) -> Gaussian:
    """The member with this (mean, log_scale)."""
    spacing = spacing_of(task.coordinates)
    return Gaussian(vector[0], vector[1], task.coordinates, spacing, support, task.automaton.horizon)


@register("gaussian", inits=("given",), restricted=True, check=check_scale, box=box, at=at)
def gaussian(settings, task, support, key, dtype) -> Gaussian:
    """Start at `policy.mean` and `policy.scale`, in the units of the task's coordinates."""
    scale = jnp.asarray(settings.scale, dtype)
    log_scale = 0.5 * jnp.log(jnp.square(scale) - jnp.square(spacing_of(task.coordinates)))
    return at(task, support, jnp.stack([jnp.asarray(settings.mean, dtype), log_scale]))
