"""A policy whose rows of log-probabilities are rewritten, whether it is a table or a network."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Int

from rlkl.policies.base import AnyPolicy, Network, Policy

Rewrite = Callable[[Float[Array, "*rows V"]], Float[Array, "*rows V"]]  # a pytree, as an equinox module is


class MappedTable(Policy):
    """A table, rewritten."""

    exact: Policy
    rewrite: Rewrite

    def rows(self) -> Float[Array, "P D V"]:
        return self.rewrite(self.exact.rows())

    def table(self) -> Float[Array, "T D V"]:
        return self.rewrite(self.exact.table())


class MappedNetwork(Network):
    """A network, its outputs rewritten."""

    exact: Network
    rewrite: Rewrite

    def start(self, size: int) -> Any:
        return self.exact.start(size)

    def step(self, carry: Any, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Any, Float[Array, "n V"]]:
        carry, log_pi = self.exact.step(carry, token, state)
        return carry, self.rewrite(log_pi)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        return self.rewrite(self.exact.score(tokens, states))


def mapped(policy: AnyPolicy, rewrite: Rewrite) -> AnyPolicy:
    """The policy with its rows rewritten."""
    return MappedTable(policy, rewrite) if isinstance(policy, Policy) else MappedNetwork(policy, rewrite)
