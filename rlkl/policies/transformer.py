"""A decoder-only transformer over the tokens read so far, with a key-value cache where it draws."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlkl.errors import SettingsError
from rlkl.policies import heads
from rlkl.policies.base import Network, register
from rlkl.policies.heads import Head


class Cache(NamedTuple):
    """Keys and values of each layer up to `position`."""

    keys: tuple[Float[Array, "n T H"], ...]
    values: tuple[Float[Array, "n T H"], ...]
    position: Int[Array, ""]


def norm(x: Float[Array, "*n H"], scale: Float[Array, " H"]) -> Float[Array, "*n H"]:
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    size = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))
    return x * size * jnp.broadcast_to(scale, x.shape)


class Layer(eqx.Module):
    """The weights of a pre-norm block; G = 3H for query, key and value, F = 4H.

    It reads positions as rows of one matrix: the gradient of a batched product is several times slower. Each weight has its
    longer side last: XLA computes the gradient of the other orientation half as fast.
    """

    attend: Float[Array, "H G"]
    project: Float[Array, "H H"]
    expand: Float[Array, "H F"]
    contract: Float[Array, "H F"]
    scales: Float[Array, "two H"]  # of the two norms

    def entered(self, x: Float[Array, "m H"]) -> list[Float[Array, "m H"]]:
        """Query, key and value."""
        return jnp.split(norm(x, self.scales[0]) @ self.attend, 3, axis=-1)

    def left(self, x: Float[Array, "m H"], mixed: Float[Array, "m H"]) -> Float[Array, "m H"]:
        """What the block makes of its input and of what attention mixed."""
        x = x + mixed @ self.project
        return x + jax.nn.gelu(norm(x, self.scales[1]) @ self.expand) @ self.contract.T


class Transformer(Network):
    """Pre-norm blocks of causal attention and a GELU layer four times as wide (Vaswani et al. 2017, arXiv 1706.03762)."""

    embedding: Float[Array, "V1 H"]
    place: Float[Array, "T H"]
    layers: tuple[Layer, ...]
    scale: Float[Array, " H"]
    head: Head
    heads: int = eqx.field(static=True)

    def _attention(self, query, keys, values, seen) -> Float[Array, "n q H"]:
        """query: [n, q, H], keys and values: [n, T, H], seen: [q, T]."""
        split = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)  # noqa: E731
        q, k, v = split(query), split(keys), split(values)
        match = jnp.einsum("nqhd,nthd->nhqt", q, k) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        weight = jax.nn.softmax(jnp.where(seen[None, None], match, -jnp.inf), axis=-1)
        return jnp.einsum("nhqt,nthd->nqhd", weight, v).reshape(query.shape)

    def start(self, size: int) -> Cache:
        empty = (jnp.zeros((size, *self.place.shape), self.place.dtype),) * len(self.layers)
        return Cache(empty, empty, jnp.zeros((), jnp.int32))

    def step(self, carry: Cache, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Cache, Float[Array, "n V"]]:
        at = carry.position
        entered = self.embedding[token]
        x = entered + jnp.broadcast_to(self.place[at], entered.shape)
        seen = (jnp.arange(self.place.shape[0], dtype=at.dtype) <= at)[None]
        put = lambda into, new: jax.lax.dynamic_update_slice_in_dim(into, new[:, None], at, axis=1)  # noqa: E731
        kept_keys, kept_values = [], []
        for layer, keys, values in zip(self.layers, carry.keys, carry.values, strict=True):
            query, key, value = layer.entered(x)
            kept_keys.append(put(keys, key))
            kept_values.append(put(values, value))
            x = layer.left(x, self._attention(query[:, None], kept_keys[-1], kept_values[-1], seen)[:, 0])
        return Cache(tuple(kept_keys), tuple(kept_values), at + 1), self.head(norm(x, self.scale), state)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        entered = self.embedding[heads.fed(tokens, self.embedding.shape[0] - 1)]
        seen = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        x = (entered + jnp.broadcast_to(self.place, entered.shape)).reshape(-1, entered.shape[-1])
        for layer in self.layers:
            query, key, value = (part.reshape(entered.shape) for part in layer.entered(x))
            x = layer.left(x, self._attention(query, key, value, seen).reshape(x.shape))
        return self.head(norm(x, self.scale).reshape(entered.shape), states[:, :-1])


def check_heads(chosen, task) -> None:
    """A width that the heads can share."""
    if chosen.width % chosen.heads:
        raise SettingsError("policy.heads", chosen.heads, f"must divide policy.width={chosen.width}")


@register("transformer", inits=heads.INITS, restricted=True, network=True, check=check_heads)
def transformer(chosen, task, support, key, dtype) -> Transformer:
    """`policy.layers` blocks of `policy.width`, weights drawn by fan-in, the head as `policy.init` says."""
    width, depth, automaton = chosen.width, chosen.layers, task.automaton
    keys = jax.random.split(key, 7)
    residual = jnp.asarray((2 * depth) ** -0.5, dtype)  # so that the stream keeps its size over the blocks
    drawn = (
        heads.normal(keys[0], (depth, width, 3 * width), dtype),
        residual * heads.normal(keys[1], (depth, width, width), dtype),
        heads.normal(keys[2], (depth, width, 4 * width), dtype),
        residual * jnp.swapaxes(heads.normal(keys[3], (depth, 4 * width, width), dtype), 1, 2),
        jnp.ones((depth, 2, width), dtype),
    )
    layers = tuple(Layer(*(weights[i] for weights in drawn)) for i in range(depth))
    return Transformer(
        jax.random.normal(keys[4], (automaton.vocabulary + 1, width), dtype),
        jax.random.normal(keys[5], (automaton.horizon, width), dtype),
        layers,
        jnp.ones((width,), dtype),
        heads.head(chosen, task, support, keys[6], width, dtype),
        chosen.heads,
    )
