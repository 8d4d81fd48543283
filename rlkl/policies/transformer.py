"""A decoder-only transformer over the tokens read so far, with a key-value cache where it draws."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlkl.policies import heads
from rlkl.policies.base import Network, register
from rlkl.policies.heads import Head
from rlkl.settings import SettingsError


class Cache(NamedTuple):
    """Keys and values of every layer up to `position`."""

    keys: Float[Array, "L n T H"]
    values: Float[Array, "L n T H"]
    position: Int[Array, ""]


class Layers(eqx.Module):
    """The weights of L pre-norm blocks, stacked; G = 3H for query, key and value, F = 4H."""

    attend: Float[Array, "L H G"]
    project: Float[Array, "L H H"]
    expand: Float[Array, "L H F"]
    contract: Float[Array, "L F H"]
    scales: Float[Array, "L two H"]  # of the two norms


def norm(x: Float[Array, "*n H"], scale: Float[Array, " H"]) -> Float[Array, "*n H"]:
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    size = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))
    return x * size * jnp.broadcast_to(scale, x.shape)


class Transformer(Network):
    """Pre-norm blocks of causal attention and a GELU layer four times as wide (Vaswani et al. 2017, arXiv 1706.03762)."""

    embedding: Float[Array, "V1 H"]
    place: Float[Array, "T H"]
    layers: Layers
    scale: Float[Array, " H"]
    head: Head
    heads: int = eqx.field(static=True)

    def _attention(self, query, keys, values, seen) -> Float[Array, "n q H"]:
        """query: [n, q, H], keys and values: [n, T, H], seen: [q, T]."""
        split = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)  # noqa: E731
        q, k, v = split(query), split(keys), split(values)
        scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        if query.shape[1] == 1:  # while drawing: sums of products are faster than many products of small matrices
            match = jnp.where(seen[..., None], jnp.sum(q * k, axis=-1) * scale, -jnp.inf)
            return jnp.sum(jax.nn.softmax(match, axis=1)[..., None] * v, axis=1).reshape(query.shape)
        match = jnp.einsum("nqhd,nthd->nhqt", q, k) * scale
        weight = jax.nn.softmax(jnp.where(seen[None, None], match, -jnp.inf), axis=-1)
        return jnp.einsum("nhqt,nthd->nqhd", weight, v).reshape(query.shape)

    def _through(self, x: Float[Array, "n q H"], layer: Layers, cached, seen) -> tuple[Float[Array, "n q H"], Any]:
        """One block; `cached(key, value)` says what is attended to."""
        flat = x.reshape(-1, x.shape[-1])  # as one matrix: the gradient of a batched product is several times slower
        query, key, value = (
            part.reshape(x.shape) for part in jnp.split(norm(flat, layer.scales[0]) @ layer.attend, 3, axis=-1)
        )
        keys, values = cached(key, value)
        flat = flat + self._attention(query, keys, values, seen).reshape(flat.shape) @ layer.project
        flat = flat + jax.nn.gelu(norm(flat, layer.scales[1]) @ layer.expand) @ layer.contract
        return flat.reshape(x.shape), (keys, values)

    def start(self, size: int) -> Cache:
        shape = (self.layers.project.shape[0], size, *self.place.shape)
        empty = jnp.zeros(shape, self.place.dtype)
        return Cache(empty, empty, jnp.zeros((), jnp.int32))

    def step(self, carry: Cache, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Cache, Float[Array, "n V"]]:
        at = carry.position
        entered = self.embedding[token]
        x = (entered + jnp.broadcast_to(self.place[at], entered.shape))[:, None]
        seen = (jnp.arange(self.place.shape[0], dtype=at.dtype) <= at)[None]
        put = lambda into, new: jax.lax.dynamic_update_slice_in_dim(into, new, at, axis=1)  # noqa: E731

        def through(x, inputs):
            layer, keys, values = inputs
            return self._through(x, layer, lambda key, value: (put(keys, key), put(values, value)), seen)

        x, (keys, values) = jax.lax.scan(through, x, (self.layers, carry.keys, carry.values), unroll=True)
        return Cache(keys, values, at + 1), self.head(norm(x[:, 0], self.scale), state)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        entered = self.embedding[heads.fed(tokens, self.embedding.shape[0] - 1)]
        seen = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))

        def through(x, layer):
            return self._through(x, layer, lambda key, value: (key, value), seen)[0], None

        x, _ = jax.lax.scan(through, entered + jnp.broadcast_to(self.place, entered.shape), self.layers, unroll=True)
        return self.head(norm(x, self.scale), states[:, :-1])


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
    layers = Layers(
        heads.normal(keys[0], (depth, width, 3 * width), dtype),
        residual * heads.normal(keys[1], (depth, width, width), dtype),
        heads.normal(keys[2], (depth, width, 4 * width), dtype),
        residual * heads.normal(keys[3], (depth, 4 * width, width), dtype),
        jnp.ones((depth, 2, width), dtype),
    )
    return Transformer(
        jax.random.normal(keys[4], (automaton.vocabulary + 1, width), dtype),
        jax.random.normal(keys[5], (automaton.horizon, width), dtype),
        layers,
        jnp.ones((width,), dtype),
        heads.head(chosen, task, support, keys[6], width, dtype),
        chosen.heads,
    )
