"""A policy whose log-probabilities were rounded: what an inference engine of low precision samples from and reports."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.policies.base import AnyPolicy
from rlkl.policies.mapped import mapped


class Round(eqx.Module):
    """Log-probabilities in a dtype of fewer bits. Rows need not sum to 1: a draw normalises them, what is reported does not."""

    dtype: str = eqx.field(static=True)

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        kind = jnp.finfo(self.dtype)  # by an operation of its own: XLA may leave out a conversion to fewer bits and back
        return jax.lax.reduce_precision(log_pi, kind.nexp, kind.nmant)


def rounded(policy: AnyPolicy, dtype: str) -> AnyPolicy:
    """The policy with its log-probabilities rounded to a dtype of fewer bits, in the dtype that they had."""
    return mapped(policy, Round(dtype))
