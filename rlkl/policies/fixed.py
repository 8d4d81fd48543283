"""A policy given by its probabilities: what a task's reference and a table's optimum are."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl.policies.base import Policy


class Fixed(Policy):
    """Rows of log-probabilities: one a state, at every position alike, or one a position and state."""

    log_rows: Float[Array | np.ndarray, "*T D V"]
    horizon: int = eqx.field(static=True)

    def rows(self) -> Float[Array, "P D V"]:
        return jnp.reshape(self.log_rows, (-1, *self.log_rows.shape[-2:]))

    def table(self) -> Float[Array, "T D V"]:
        return jnp.broadcast_to(self.log_rows, (self.horizon, *self.log_rows.shape[-2:]))
