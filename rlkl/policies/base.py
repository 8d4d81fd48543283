"""The two kinds of policy, the registry of policy families, and the masked log-softmax that all of them use."""

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
from rlkl.policies.matrix import Matrix
from rlkl.tasks.automaton import Task


def precise(method: Callable) -> Callable:
    """Wrap a method so that it computes in the precision of the policy's parameters, whatever jax's global setting.

    Where the parameters have 64 bits and jax has x64 disabled, the wrapped method returns float64 NumPy arrays.
    """

    @functools.wraps(method)
    def wrapped(self, *arguments):
        if jax.config.jax_enable_x64:
            return method(self, *arguments)
        leaves = jax.tree.leaves((self, arguments))
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        if traced or all(getattr(leaf, "dtype", None) != np.float64 for leaf in leaves):
            return method(self, *arguments)
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, method(self, *arguments))

    return wrapped


def _precisely(cls: type, names: tuple[str, ...]) -> None:
    for name in names:
        if name in cls.__dict__:
            setattr(cls, name, precise(cls.__dict__[name]))


class Policy(eqx.Module):
    """A policy whose next-token distribution depends on the position and the decision state alone.

    It is a pytree of its parameters, so that snapshots, averages and references are policies too. Its methods compute in the
    precision of its parameters (see `precise`).
    """

    def __init_subclass__(cls, **rest: Any):
        super().__init_subclass__(**rest)
        _precisely(cls, ("table", "rows"))

    @abc.abstractmethod
    def table(self) -> Float[Array, "T D V"]:
        """Log-probability of each token at each position and decision state; -inf off the support."""

    def rows(self) -> Float[Array, "P D V"]:
        """The table without repeated positions: P = 1 for a policy that is the same at every position, else P = T."""
        return self.table()


class Network(eqx.Module):
    """A policy whose next-token distribution depends on the whole history of tokens.

    Each step reads the last token (before the first one V, plus the prompt's number where there are several) and the state that
    it led to. Its methods compute in the precision
    of its parameters (see `precise`).

    stepwise: whether `score` does the same computation as repeated `step`, so that gradients may go through the rows that were
    sampled from.
    """

    stepwise: ClassVar[bool] = False

    def __init_subclass__(cls, **rest: Any):
        super().__init_subclass__(**rest)
        _precisely(cls, ("start", "step", "score", "score_sampled"))

    @abc.abstractmethod
    def start(self, size: int) -> Any:
        """The initial carry of `size` sequences, before their first token."""

    @abc.abstractmethod
    def step(self, carry: Any, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Any, Float[Array, "n V"]]:
        """Read one token: the new carry, and the log-probabilities of the next token."""

    @abc.abstractmethod
    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        """The log-probabilities at every position of these sequences (teacher forcing)."""

    def score_sampled(self, carry: Any, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        """The same as `score`, for sequences that were sampled with this last carry, which a network may read values from."""
        return self.score(tokens, states)


AnyPolicy = Policy | Network


def table_of(policy: AnyPolicy) -> Float[Array, "T D V"]:
    """The table of a policy that must be a `Policy`, not a `Network`."""
    assert isinstance(policy, Policy)
    return policy.table()


Build = Callable[[settings.PolicySettings, Task, Bool[Array, "D V"], PRNGKeyArray, jnp.dtype], AnyPolicy]


@dataclass(frozen=True)
class Family:
    """A registered policy family.

    build: (settings, task, support, key, dtype) -> policy.
    inits: the allowed values of `policy.init`, the default first.
    restricted: whether some policies of (position, state) lie outside of the family.
    network: whether its members are `Network`s, which read the whole history.
    logits: whether its members have logits that can be rounded: the parameters `logits` of a table, the `head` of a network.
    check: (settings, task); raises `SettingsError` for settings that it cannot start from.
    memory: (settings) -> the number of last tokens that its policies depend on, beside the task's own state.
    bounds, member: for a family small enough to be searched for its best member. bounds: (task) -> (low, high), the range of
    its parameter vector. member: (task, support, vector) -> the policy with these parameters.
    """

    build: Build
    inits: tuple[str, ...]
    restricted: bool
    network: bool = False
    logits: bool = True
    check: Callable[[settings.PolicySettings, Task], None] | None = None
    memory: Callable[[settings.PolicySettings], int] | None = None
    bounds: Callable[[Task], tuple[Float[Array, " K"], Float[Array, " K"]]] | None = None
    member: Callable[[Task, Bool[Array, "D V"], Float[Array, " K"]], Policy] | None = None


REGISTRY: dict[str, Family] = {}


def register(name: str, *, inits: tuple[str, ...], restricted: bool = False, **rest: Any):
    """Decorator: register a builder as the policy family `name`; `rest` are the other fields of `Family`."""

    def add(build):
        REGISTRY[name] = Family(build, inits, restricted, **rest)
        return build

    return add


def normalise(logits: Float[Array, "*rows V"], support: Bool[Array, "*rows V"]) -> Float[Array, "*rows V"]:
    """Log-softmax over the supported tokens; -inf elsewhere."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True, where=support)
    return jnp.where(support, logits - total, -jnp.inf)


def finite_log_reference(log_reference: Float[Array, "D V"], support: Bool[Array, "D V"]) -> Float[Array, "D V"]:
    """The reference's log-probabilities as finite logits on `support`.

    A supported token of reference probability zero gets a tenth of the probability of the least likely other token.
    """
    inside = log_reference > -jnp.inf
    least = jnp.min(log_reference, axis=-1, keepdims=True, where=inside, initial=0.0)
    floor = jnp.broadcast_to(least - jnp.log(jnp.asarray(10.0, least.dtype)), log_reference.shape)
    return jnp.where(inside, log_reference, jnp.where(support, floor, 0.0))


class Fixed(Policy):
    """A policy given by its log-probabilities: a row for each state, or a row for each position and state."""

    log_rows: Float[Array | np.ndarray, "*T D V"]
    horizon: int = eqx.field(static=True)

    def rows(self) -> Float[Array, "P D V"]:
        return jnp.reshape(self.log_rows, (-1, *self.log_rows.shape[-2:]))

    def table(self) -> Float[Array, "T D V"]:
        return jnp.broadcast_to(self.log_rows, (self.horizon, *self.log_rows.shape[-2:]))


def cast(tree: Any, dtype) -> Any:
    """The pytree in `dtype`: its floating-point leaves or, for bfloat16, its products of matrices, with leaves in float32."""
    bfloat16, leaf_dtype = jnp.dtype(dtype) == jnp.bfloat16, number_dtype(dtype)

    def converted(x):
        if isinstance(x, Matrix):
            return Matrix(converted(x.weights), bfloat16)
        return jnp.asarray(x, leaf_dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return jax.tree.map(converted, tree, is_leaf=lambda x: isinstance(x, Matrix))


def number_dtype(dtype: Any) -> np.dtype:
    """The dtype of the numbers of a run whose `dtype` this is: float32 where that is bfloat16, of which only products are."""
    return jnp.dtype(jnp.float32 if jnp.dtype(dtype) == jnp.bfloat16 else dtype)
