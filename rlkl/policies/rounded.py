"""A policy whose log-probabilities were rounded: what an inference engine of low precision samples from and reports."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlkl.policies.base import AnyPolicy, Network, Policy


class RoundedTable(Policy):
    """A table, rounded. Its rows need not sum to 1: a draw normalises them, what is reported does not."""

    exact: Policy
    dtype: str = eqx.field(static=True)

    def rows(self) -> Float[Array, "P D V"]:
        return _round(self.exact.rows(), self.dtype)

    def table(self) -> Float[Array, "T D V"]:
        return _round(self.exact.table(), self.dtype)


class RoundedNetwork(Network):
    """A network, its outputs rounded."""

    exact: Network
    dtype: str = eqx.field(static=True)

    def start(self, size: int) -> Any:
        return self.exact.start(size)

    def step(self, carry: Any, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Any, Float[Array, "n V"]]:
        carry, log_pi = self.exact.step(carry, token, state)
        return carry, _round(log_pi, self.dtype)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        return _round(self.exact.score(tokens, states), self.dtype)


def rounded(policy: AnyPolicy, dtype: str) -> AnyPolicy:
    """The policy with its log-probabilities rounded to a dtype of fewer bits, in the dtype that they had."""
    return RoundedTable(policy, dtype) if isinstance(policy, Policy) else RoundedNetwork(policy, dtype)


def _round(x: Float[Array, "..."], dtype: str) -> Float[Array, "..."]:
    """By an operation of its own: XLA may leave out a conversion to fewer bits and back."""
    kind = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)
