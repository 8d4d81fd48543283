"""Transforms of a policy: temperature, top-k, top-p, min-p, rounding to fewer bits, and the sampler that they make."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlkl import settings
from rlkl.policies.base import AnyPolicy, Network, Policy, normalise
from rlkl.policies.rounding import round_to

Rewrite = Callable[[Float[Array, "*rows V"]], Float[Array, "*rows V"]]  # an equinox module, and so a pytree


class MappedTable(Policy):
    """A `Policy` with its rows transformed."""

    exact: Policy
    rewrite: Rewrite

    def rows(self) -> Float[Array, "P D V"]:
        return self.rewrite(self.exact.rows())

    def table(self) -> Float[Array, "T D V"]:
        return self.rewrite(self.exact.table())


class MappedNetwork(Network):
    """A `Network` with its output rows transformed."""

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
    """The policy with `rewrite` applied to its rows of log-probabilities."""
    return MappedTable(policy, rewrite) if isinstance(policy, Policy) else MappedNetwork(policy, rewrite)


class Temper(eqx.Module):
    """Raise each row to the power 1/temperature and renormalise."""

    temperature: Float[Array, ""] | float

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        return normalise(log_pi / jnp.asarray(self.temperature, log_pi.dtype), log_pi > -jnp.inf)


class TopK(eqx.Module):
    """Keep the k most likely tokens of each row, with ties of the last of them (Fan et al. 2018, arXiv 1805.04833)."""

    k: int = eqx.field(static=True)

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        last = jax.lax.top_k(log_pi, min(self.k, log_pi.shape[-1]))[0][..., -1:]
        return normalise(log_pi, (log_pi >= last) & (log_pi > -jnp.inf))


class TopP(eqx.Module):
    """Keep the smallest set of most likely tokens with total probability p (Holtzman et al. 2020, arXiv 1904.09751)."""

    p: Float[Array, ""] | float

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        descending = -jnp.sort(-log_pi, axis=-1)
        before = jnp.cumsum(jnp.exp(descending), axis=-1) - jnp.exp(descending)
        count = jnp.maximum(jnp.sum(before < jnp.asarray(self.p, log_pi.dtype), axis=-1, keepdims=True), 1)
        rank = jnp.argsort(jnp.argsort(-log_pi, axis=-1, stable=True), axis=-1)  # rank of each token by probability
        return normalise(log_pi, (rank < count) & (log_pi > -jnp.inf))


class MinP(eqx.Module):
    """Keep the tokens at least `share` times as likely as the row's most likely one (Nguyen et al. 2024, arXiv 2407.01082)."""

    share: Float[Array, ""] | float

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        least = jnp.max(log_pi, axis=-1, keepdims=True) + jnp.log(jnp.asarray(self.share, log_pi.dtype))
        return normalise(log_pi, (log_pi >= least) & (log_pi > -jnp.inf))


def tempered(policy: AnyPolicy, temperature: Float[Array, ""] | float) -> AnyPolicy:
    """The policy with pi(v|s)^(1/temperature), renormalised for each token (not for the whole sequence)."""
    return mapped(policy, Temper(temperature))


def decoded(policy: AnyPolicy, rules: settings.DecodingSettings | settings.RolloutSettings) -> AnyPolicy:
    """The policy under the decoding rules that are set, applied in this order: temperature, top-k, top-p, min-p."""
    if rules.temperature is not None:
        policy = tempered(policy, rules.temperature)
    if rules.top_k is not None:
        policy = mapped(policy, TopK(rules.top_k))
    if rules.top_p is not None:
        policy = mapped(policy, TopP(rules.top_p))
    if rules.min_p is not None:
        policy = mapped(policy, MinP(rules.min_p))
    return policy


class Round(eqx.Module):
    """Round log-probabilities to a dtype of fewer bits. The rows need not sum to 1; only sampling normalises them."""

    dtype: str = eqx.field(static=True)

    def __call__(self, log_pi: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        return jnp.where(log_pi > -jnp.inf, round_to(log_pi, self.dtype), -jnp.inf)


def rounded(policy: AnyPolicy, dtype: str, what: str = "log_probs") -> AnyPolicy:
    """The policy rounded to the precision of `dtype`, as `rollout.rounded` says; the dtype of its numbers is unchanged.

    log_probs: the rows, which then need not sum to 1. logits: a network's logits, or a table's (which are its parameters),
    before they are normalised. weights: all floating-point parameters.
    """
    if what == "log_probs":
        return mapped(policy, Round(dtype))
    if what == "weights":
        return jax.tree.map(lambda x: round_to(x, dtype) if eqx.is_inexact_array(x) else x, policy)
    if isinstance(policy, Policy):
        return eqx.tree_at(lambda table: table.logits, policy, replace_fn=lambda x: round_to(x, dtype))
    return eqx.tree_at(lambda network: network.head, policy, replace_fn=lambda head: replace(head, rounding=dtype))


class Sampler(NamedTuple):
    """The policy that samples, and the policy whose log-probabilities it reports."""

    policy: AnyPolicy
    reported: AnyPolicy


def deployed(policy: AnyPolicy, rollout: settings.RolloutSettings) -> Sampler:
    """The sampler that `rollout` makes of a policy: rounded, then tempered and truncated.

    It reports the rounded policy (raw) or what is left of it after temperature and truncation (processed).
    """
    if rollout.dtype is not None:
        policy = rounded(policy, rollout.dtype, rollout.rounded or "log_probs")
    sampler = decoded(policy, rollout)
    return Sampler(sampler, sampler if rollout.reported == "processed" else policy)
