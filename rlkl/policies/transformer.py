"""A decoder-only transformer policy over the history of tokens, with a key-value cache for sampling."""

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
    """The key-value cache: keys and values of each layer for the positions before `position`."""

    keys: tuple[Float[Array, "n T H"], ...]
    values: tuple[Float[Array, "n T H"], ...]
    position: Int[Array, ""]


def norm(x: Float[Array, "*n H"], scale: Float[Array, " H"]) -> Float[Array, "*n H"]:
    """Root-mean-square layer norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    size = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))
    return x * size * jnp.broadcast_to(scale, x.shape)


class Layer(eqx.Module):
    """The weights of one pre-norm block. G = 3H (query, key and value); F = 4H.

    Inputs are matrices with a row for each position of each sequence, since gradients of batched products are several times
    slower. Each weight has its longer axis last, since XLA computes the gradient of the other orientation half as fast.
    """

    attend: Float[Array, "H G"]
    project: Float[Array, "H H"]
    expand: Float[Array, "H F"]
    contract: Float[Array, "H F"]
    scales: Float[Array, "two H"]  # of the two norms

    def query_key_value(self, x: Float[Array, "m H"]) -> list[Float[Array, "m H"]]:
        """Query, key and value of each position."""
        return jnp.split(norm(x, self.scales[0]) @ self.attend, 3, axis=-1)

    def output(self, x: Float[Array, "m H"], mixed: Float[Array, "m H"]) -> Float[Array, "m H"]:
        """The block's output, from its input and the mixed values of attention."""
        x = x + mixed @ self.project
        return x + jax.nn.gelu(norm(x, self.scales[1]) @ self.expand) @ self.contract.T


class Transformer(Network):
    """Pre-norm blocks of causal attention and a GELU layer of width 4H (Vaswani et al. 2017, arXiv 1706.03762)."""

    embedding: Float[Array, "V1 H"]
    place: Float[Array, "T H"]
    layers: tuple[Layer, ...]
    scale: Float[Array, " H"]
    head: Head
    heads: int = eqx.field(static=True)

    def _attention(self, query, keys, values, visible) -> Float[Array, "n q H"]:
        """Multi-head attention; query: [n, q, H], keys and values: [n, T, H], visible: [q, T]."""
        q, k, v = (x.reshape(*x.shape[:-1], self.heads, -1) for x in (query, keys, values))
        match = jnp.einsum("nqhd,nthd->nhqt", q, k) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        weight = jax.nn.softmax(jnp.where(visible[None, None], match, -jnp.inf), axis=-1)
        return jnp.einsum("nhqt,nthd->nqhd", weight, v).reshape(query.shape)

    def start(self, size: int) -> Cache:
        empty = (jnp.zeros((size, *self.place.shape), self.place.dtype),) * len(self.layers)
        return Cache(empty, empty, jnp.zeros((), jnp.int32))

    def step(self, carry: Cache, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Cache, Float[Array, "n V"]]:
        position = carry.position
        embedded = self.embedding[token]
        x = embedded + jnp.broadcast_to(self.place[position], embedded.shape)
        visible = (jnp.arange(self.place.shape[0], dtype=position.dtype) <= position)[None]
        cached_keys, cached_values = [], []
        for layer, keys, values in zip(self.layers, carry.keys, carry.values, strict=True):
            query, key, value = layer.query_key_value(x)
            cached_keys.append(jax.lax.dynamic_update_slice_in_dim(keys, key[:, None], position, axis=1))
            cached_values.append(jax.lax.dynamic_update_slice_in_dim(values, value[:, None], position, axis=1))
            x = layer.output(x, self._attention(query[:, None], cached_keys[-1], cached_values[-1], visible)[:, 0])
        return Cache(tuple(cached_keys), tuple(cached_values), position + 1), self.head(norm(x, self.scale), state)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        embedded = self.embedding[heads.fed(tokens, self.embedding.shape[0] - 1)]
        visible = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        x = (embedded + jnp.broadcast_to(self.place, embedded.shape)).reshape(-1, embedded.shape[-1])
        for layer in self.layers:
            query, key, value = (part.reshape(embedded.shape) for part in layer.query_key_value(x))
            x = layer.output(x, self._attention(query, key, value, visible).reshape(x.shape))
        return self.head(norm(x, self.scale).reshape(embedded.shape), states[:, :-1])


def check_heads(settings, task) -> None:
    """Refuse a width that is not a multiple of the number of heads."""
    if settings.width % settings.heads:
        raise SettingsError("policy.heads", settings.heads, f"must divide policy.width={settings.width}")


@register("transformer", inits=heads.INITS, restricted=True, network=True, check=check_heads)
def transformer(settings, task, support, key, dtype) -> Transformer:
    """`policy.layers` blocks of `policy.width` units; weights have variance 1/fan-in, the head follows `policy.init`."""
    width, depth, automaton = settings.width, settings.layers, task.automaton
    keys = jax.random.split(key, 7)
    residual = jnp.asarray((2 * depth) ** -0.5, dtype)  # keeps the scale of the residual stream over the blocks
    stacked = (
        heads.normal(keys[0], (depth, width, 3 * width), dtype),
        residual * heads.normal(keys[1], (depth, width, width), dtype),
        heads.normal(keys[2], (depth, width, 4 * width), dtype),
        residual * jnp.swapaxes(heads.normal(keys[3], (depth, 4 * width, width), dtype), 1, 2),
        jnp.ones((depth, 2, width), dtype),
    )
    layers = tuple(Layer(*(weights[i] for weights in stacked)) for i in range(depth))
    return Transformer(
        jax.random.normal(keys[4], (automaton.vocabulary + 1, width), dtype),
        jax.random.normal(keys[5], (automaton.horizon, width), dtype),
        layers,
        jnp.ones((width,), dtype),
        heads.head(settings, task, support, keys[6], width, dtype),
        settings.heads,
    )
