"""A decoder-only transformer policy over the history of tokens, with a key-value cache for sampling."""

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl.errors import SettingsError
from rlkl.policies import attention, heads
from rlkl.policies.base import AnyPolicy, Network, register
from rlkl.policies.heads import Head
from rlkl.policies.matrix import Matrix


class Products(NamedTuple):
    """What a layer's four weights made of their inputs: a row for each position of each sequence, or None where unknown."""

    attend: Float[Array, "m G"] | None = None
    project: Float[Array, "m H"] | None = None
    expand: Float[Array, "m F"] | None = None
    contract: Float[Array, "m H"] | None = None


class Cache(NamedTuple):
    """What each layer computed for the positions before `position`: keys and values by head, and all its products."""

    keys: tuple[Float[Array, "n h T d"], ...]
    values: tuple[Float[Array, "n h T d"], ...]
    products: tuple[Products, ...]
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

    attend: Matrix  # [H, G]
    project: Matrix  # [H, H]
    expand: Matrix  # [H, F]
    contract: Matrix  # [H, F]
    scales: Float[Array, "two H"]  # of the two norms

    def query_key_value(self, x: Float[Array, "m H"], known: Products) -> Float[Array, "m G"]:
        """Query, key and value of each position."""
        return self.attend.product(norm(x, self.scales[0]), known.attend)

    def output(
        self, x: Float[Array, "m H"], mixed: Float[Array, "m H"], known: Products, keep: Float[Array, "two m H"] | None = None
    ) -> tuple[Float[Array, "m H"], Products]:
        """The block's output, from its input and the mixed values of attention, and its products.

        keep: the factors of dropout for what attention and the GELU layer add; None: no dropout.
        """
        projected = self.project.product(mixed, known.project)
        x = x + (projected if keep is None else keep[0] * projected)
        expanded = self.expand.product(norm(x, self.scales[1]), known.expand)
        contracted = self.contract.T.product(jax.nn.gelu(expanded), known.contract)
        x = x + (contracted if keep is None else keep[1] * contracted)
        return x, Products(known.attend, projected, expanded, contracted)


class Transformer(Network):
    """Pre-norm blocks of causal attention and a GELU layer of width 4H (Vaswani et al. 2017, arXiv 1706.03762).

    kept: with dropout, the units that stay, of what attention and the GELU layer of each block add at each position; the same
    for all sequences. They are divided by 1 - dropout.
    """

    embedding: Float[Array, "VP H"]  # V tokens, then P prompts
    place: Float[Array, "T H"]
    layers: tuple[Layer, ...]
    scale: Float[Array, " H"]
    head: Head
    heads: int = eqx.field(static=True)
    prompt: Int[Array | np.ndarray, " D"] | None = None
    kept: Bool[Array, "L two T H"] | None = None
    dropout: float = eqx.field(static=True, default=0.0)

    def _keep(self) -> Float[Array, "L two T H"] | None:
        """The factors of dropout; None without it."""
        return None if self.kept is None else self.kept.astype(self.place.dtype) / (1.0 - self.dropout)

    def start(self, size: int) -> Cache:
        length, width = self.place.shape

        def zeros(*shape):
            return jnp.zeros((size, *shape), self.place.dtype)

        empty = (zeros(self.heads, length, width // self.heads),) * len(self.layers)
        products = Products(*(zeros(length, times * width) for times in (3, 1, 4, 1)))
        return Cache(empty, empty, (products,) * len(self.layers), jnp.zeros((), jnp.int32))

    def step(self, carry: Cache, token: Int[Array, " n"], state: Int[Array, " n"]) -> tuple[Cache, Float[Array, "n V"]]:
        position = carry.position
        embedded = self.embedding[token]
        x = embedded + jnp.broadcast_to(self.place[position], embedded.shape)

        def put(cached, new):
            return jax.lax.dynamic_update_slice_in_dim(cached, new[..., None, :], position, axis=-2)

        keep = self._keep()
        keys, values, products = [], [], []
        for i, (layer, old_keys, old_values, old_products) in enumerate(zip(self.layers, *carry[:-1], strict=True)):
            attend = layer.query_key_value(x, Products())
            query, key, value = (part.reshape(len(part), self.heads, -1) for part in jnp.split(attend, 3, axis=-1))
            keys.append(put(old_keys, key))
            values.append(put(old_values, value))
            mixed = attention.at_position(query, keys[-1], values[-1], position)
            at_position = None if keep is None else keep[i, :, position, None]
            x, new = layer.output(x, mixed.reshape(x.shape), Products(attend), at_position)
            products.append(jax.tree.map(put, old_products, new))
        cache = Cache(tuple(keys), tuple(values), tuple(products), position + 1)
        return cache, self.head(norm(x, self.scale), state)

    def score(self, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        return self._score(tokens, states, (Products(),) * len(self.layers))

    def score_sampled(self, carry: Cache, tokens: Int[Array, "N T"], states: Int[Array, "N T1"]) -> Float[Array, "N T V"]:
        return self._score(tokens, states, jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), carry.products))

    def _score(self, tokens, states, known: tuple[Products, ...]) -> Float[Array, "N T V"]:
        embedded = self.embedding[heads.fed(tokens, states, self.head.bias.shape[0], self.prompt)]
        x = (embedded + jnp.broadcast_to(self.place, embedded.shape)).reshape(-1, embedded.shape[-1])
        keep = self._keep()
        for i, (layer, products) in enumerate(zip(self.layers, known, strict=True)):
            attend = layer.query_key_value(x, products)
            parts = (*tokens.shape, self.heads, -1)
            query, key, value = (part.reshape(parts) for part in jnp.split(attend, 3, axis=-1))
            of_rows = None if keep is None else jnp.tile(keep[i], (1, tokens.shape[0], 1))
            x, _ = layer.output(x, attention.causal(query, key, value).reshape(x.shape), products, of_rows)
        return self.head(norm(x, self.scale).reshape(embedded.shape), states[:, :-1])


def dropped(policy: AnyPolicy, dropout: float, key: PRNGKeyArray) -> Transformer:
    """The transformer with dropout: each unit that a block adds is 0 with this probability (Srivastava et al., "Dropout: a
    simple way to prevent neural networks from overfitting", 2014). One draw of units is shared by all sequences."""
    assert isinstance(policy, Transformer)
    shape = (len(policy.layers), 2, *policy.place.shape)
    return replace(policy, kept=jax.random.bernoulli(key, 1.0 - dropout, shape), dropout=dropout)


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
    attend, project, expand, contract = (
        heads.normal(keys[0], (depth, width, 3 * width), dtype),
        residual * heads.normal(keys[1], (depth, width, width), dtype),
        heads.normal(keys[2], (depth, width, 4 * width), dtype),
        residual * jnp.swapaxes(heads.normal(keys[3], (depth, 4 * width, width), dtype), 1, 2),
    )
    scales = jnp.ones((2, width), dtype)
    layers = tuple(
        Layer(Matrix(attend[i]), Matrix(project[i]), Matrix(expand[i]), Matrix(contract[i]), scales) for i in range(depth)
    )
    return Transformer(
        jax.random.normal(keys[4], (automaton.vocabulary + automaton.prompts, width), dtype),
        jax.random.normal(keys[5], (automaton.horizon, width), dtype),
        layers,
        jnp.ones((width,), dtype),
        heads.head(settings, task, support, keys[6], width, dtype),
        settings.heads,
        heads.prompt_of(task),
    )
