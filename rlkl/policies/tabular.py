"""Tabular policies: a logit for each token at each position and state."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl.policies.base import Policy, finite_log_reference, normalise, register


class Tabular(Policy):
    """The unrestricted softmax policy of (position, state) on its support."""

    logits: Float[Array, "T D V"]
    support: Bool[Array, "D V"]

    def table(self) -> Float[Array, "T D V"]:
        return normalise(self.logits, jnp.broadcast_to(self.support, self.logits.shape))


@register("tabular", inits=("reference", "uniform", "random"))
def tabular(settings, task, support, key, dtype) -> Tabular:
    """A logit for each (position, state, token); starts at the reference, uniform, or at logits from N(0, init_scale^2)."""
    shape = (task.automaton.horizon, *task.log_reference.shape)
    if settings.init == "reference":
        logits = jnp.broadcast_to(finite_log_reference(task.log_reference, support), shape).astype(dtype)
    elif settings.init == "uniform":
        logits = jnp.zeros(shape, dtype)
    else:
        logits = jnp.asarray(settings.init_scale, dtype) * jax.random.normal(key, shape, dtype)
    return Tabular(logits, support)
