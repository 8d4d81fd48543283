"""What a policy is, how one is named, and the one place where logits become log-probabilities."""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl import settings
from rlkl.tasks.automaton import Task


def precise(method: Callable) -> Callable:
    """The method, computed in the precision of the policy's parameters whatever jax's setting is where it is called: where
    those have 64 bits and jax has them switched off, it returns NumPy arrays, which keep them."""

    @functools.wraps(method)
    def computed(self, *arguments):
        if jax.config.jax_enable_x64:
            return method(self, *arguments)
        leaves = jax.tree.leaves((self, arguments))
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        if traced or all(getattr(leaf, "dtype", None) != np.float64 for leaf in leaves):
            return method(self, *arguments)
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, method(self, *arguments))

    return computed


def _precisely(cls: type, names: tuple[str, ...]) -> None:
    for name in names:
        if name in cls.__dict__:
            setattr(cls, name, precise(cls.__dict__[name]))


class Policy(eqx.Module):
    """A policy of (position, state): one pytree of parameters and code, so that a snapshot, an average and a reference are
    policies too. Its methods compute in the precision of its parameters (see `precise`)."""

    def __init_subclass__(cls, **rest: Any):
        super().__init_subclass__(**rest)
        _precisely(cls, ("table", "rows"))

    @abc.abstractmethod
    def table(self) -> Float[Array, "T D V"]:
        """Log-probability of each token at each position and decision state; -inf off the support."""

    def rows(self) -> Float[Array, "P D V"]:
        """The table; of a policy that is the same at every position, that position alone (P = 1)."""
        return self.table()


class Network(eqx.Module):
    """A policy that sees the whole history. It is fed the token read last (V before the first) and the state it led to.
    Its methods compute in the precision of its parameters (see `precise`).

    stepwise: whether its score is nothing but its steps, so that the rows it drew from are as good to differentiate.
    """

    stepwise: ClassVar[bool] = False

    def __init_subclass__(cls, **rest: Any):
        super().__init_subclass__(**rest)
        _precisely(cls, ("start", "step", "score"))

    @abc.abstractmethod
    def start(self, size: int) -> Any:
        """What `size` sequences carry before their first token."""

    @abc.abstractmethod
    def step(self, carry: Any, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Any, Float[Array, "n V"]]:
        """The carry after this token, and the log-probabilities of the next one."""

    @abc.abstractmethod
    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        """The log-probabilities at every position of given sequences (teacher forcing)."""


AnyPolicy = Policy | Network


def table_of(policy: AnyPolicy) -> Float[Array, "T D V"]:
    """The table of a policy that is known to be one."""
    assert isinstance(policy, Policy)
    return policy.table()


Build = Callable[[settings.PolicySettings, Task, Bool[Array, "D V"], PRNGKeyArray, jnp.dtype], AnyPolicy]


@dataclass(frozen=True)
class Family:
    """A registered policy family.

    build: (settings, task, support, key, dtype) -> policy. inits: the values of `policy.init` that it takes, its
    default first. restricted: whether it holds less than every policy of (position, state). network: whether it reads
    the whole history (a `Network`). check: raises `SettingsError` for settings that it cannot start from. memory:
    (settings) -> how many of the last tokens it tells states apart by, beside what the task's own states tell. box:
    (task) -> (low, high) of its parameters as one vector, and at: (task, support, vector) -> policy, where the family is
    small enough to be searched for its best member.
    """

    build: Build
    inits: tuple[str, ...]
    restricted: bool
    network: bool = False
    check: Callable[[settings.PolicySettings, Task], None] | None = None
    memory: Callable[[settings.PolicySettings], int] | None = None
    box: Callable[[Task], tuple[Float[Array, " K"], Float[Array, " K"]]] | None = None
    at: Callable[[Task, Bool[Array, "D V"], Float[Array, " K"]], Policy] | None = None


REGISTRY: dict[str, Family] = {}


def register(name: str, *, inits: tuple[str, ...], restricted: bool = False, **rest: Any):
    """Decorator: make a builder the policy family `name`; `rest` are the other fields of `Family`."""

    def add(build):
        REGISTRY[name] = Family(build, inits, restricted, **rest)
        return build

    return add


def normalise(logits: Float[Array, "*rows V"], support: Bool[Array, "*rows V"]) -> Float[Array, "*rows V"]:
    """Log-softmax over the supported tokens, -inf elsewhere."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True, where=support)
    return jnp.where(support, logits - total, -jnp.inf)


def finite_log_reference(log_reference: Float[Array, "D V"], support: Bool[Array, "D V"]) -> Float[Array, "D V"]:
    """Logits of the reference on `support`.

    A supported token of reference probability zero has no finite logit: it starts at a tenth of the least likely
    other token's probability.
    """
    inside = log_reference > -jnp.inf
    least = jnp.min(log_reference, axis=-1, keepdims=True, where=inside, initial=0.0)
    floor = jnp.broadcast_to(least - jnp.log(jnp.asarray(10.0, least.dtype)), log_reference.shape)
    return jnp.where(inside, log_reference, jnp.where(support, floor, 0.0))


class Fixed(Policy):
    """Rows of log-probabilities: one a state, at every position alike, or one a position and state."""

    log_rows: Float[Array | np.ndarray, "*T D V"]
    horizon: int = eqx.field(static=True)

    def rows(self) -> Float[Array, "P D V"]:
        return jnp.reshape(self.log_rows, (-1, *self.log_rows.shape[-2:]))

    def table(self) -> Float[Array, "T D V"]:
        return jnp.broadcast_to(self.log_rows, (self.horizon, *self.log_rows.shape[-2:]))


def cast(tree: Any, dtype) -> Any:
    """Every floating-point leaf in `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree)
