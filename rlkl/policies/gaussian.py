"""Discretised Gaussians over ordered arms: a restricted family that shows mode-seeking and mass-covering behaviour."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlkl.errors import SettingsError
from rlkl.policies.base import Policy, normalise, register


class Gaussian(Policy):
    """pi(x) proportional to exp(-(x - mean)^2 / (2 scale^2)) on the tokens' coordinates.

    scale^2 = spacing^2 + exp(2 log_scale), so that the scale is at least one spacing and always has a gradient. The logits are
    the quadratic itself, so that no density underflows.
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
    """Refuse an initial scale that is not above the smallest spacing of the coordinates."""
    spacing = float(np.min(np.diff(np.sort(task.coordinates))))
    if settings.scale <= spacing:
        raise SettingsError("policy.scale", settings.scale, f"must be above one spacing of the arms ({spacing:.4g})")


def spacing_of(coordinates: Float[Array, " V"]) -> Float[Array, ""]:
    """The smallest distance between two arms."""
    return jnp.min(jnp.diff(jnp.sort(coordinates)))


def bounds(task) -> tuple[Float[Array, " 2"], Float[Array, " 2"]]:
    """Bounds of (mean, log_scale): means somewhat beyond the arms, scales from one spacing to several times their width."""
    low, high = jnp.min(task.coordinates), jnp.max(task.coordinates)
    width = high - low
    narrowest = jnp.log(0.01 * spacing_of(task.coordinates))
    return jnp.stack([low - 0.5 * width, narrowest]), jnp.stack([high + 0.5 * width, jnp.log(4.0 * width)])


def member(task, support, vector: Float[Array, " 2"]) -> Gaussian:
    """The Gaussian with these parameters (mean, log_scale)."""
    spacing = spacing_of(task.coordinates)
    return Gaussian(vector[0], vector[1], task.coordinates, spacing, support, task.automaton.horizon)


@register("gaussian", inits=("given",), restricted=True, logits=False, check=check_scale, bounds=bounds, member=member)
def gaussian(settings, task, support, key, dtype) -> Gaussian:
    """A Gaussian over the arms; starts at `policy.mean` and `policy.scale`, in units of the task's coordinates."""
    scale = jnp.asarray(settings.scale, dtype)
    log_scale = 0.5 * jnp.log(jnp.square(scale) - jnp.square(spacing_of(task.coordinates)))
    return member(task, support, jnp.stack([jnp.asarray(settings.mean, dtype), log_scale]))
