"""Causal attention of whole sequences, with its gradient written out, and of one position over a cache."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def _weights(match: Float[Array, "*n T"], visible: Bool[Array, "*ones T"], depth: int) -> Float[Array, "*n T"]:
    """Softmax over the visible positions of products of a query with keys, over the root of their length `depth`."""
    scaled = match * jnp.asarray(depth**-0.5, match.dtype)
    return jax.nn.softmax(jnp.where(visible, scaled, -jnp.inf), axis=-1)


def at_position(
    query: Float[Array, "n h d"], keys: Float[Array, "n h T d"], values: Float[Array, "n h T d"], position: Int[Array, ""]
) -> Float[Array, "n h d"]:
    """Attention of the query at `position` over the keys and values up to there."""
    visible = (jnp.arange(keys.shape[2], dtype=position.dtype) <= position)[None, None]
    return jnp.einsum("nht,nhtd->nhd", _weights(jnp.einsum("nhd,nhtd->nht", query, keys), visible, query.shape[-1]), values)


@jax.custom_vjp
def causal(
    query: Float[Array, "n T h d"], key: Float[Array, "n T h d"], value: Float[Array, "n T h d"]
) -> Float[Array, "n T h d"]:
    """Causal attention at every position.

    Its gradient is that of automatic differentiation, but takes the sum of a row of weights times their gradients as the
    product of output and gradient (Dao et al. 2022, arXiv 2205.14135), and keeps XLA from computing a product by slow loops.
    """
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    visible = jnp.tril(jnp.ones((query.shape[1],) * 2, bool))[None, None]
    weight = _weights(jnp.einsum("nqhd,nthd->nhqt", query, key), visible, query.shape[-1])
    output = jnp.einsum("nhqt,nthd->nqhd", weight, value)
    return output, (query, key, value, weight, output)


def _backward(saved, gradient):
    query, key, value, weight, output = saved
    of_weight = jnp.einsum("nqhd,nthd->nhqt", gradient, value)
    mean = jnp.swapaxes(jnp.sum(gradient * output, axis=-1), 1, 2)[..., None]
    of_match = weight * (of_weight - mean) * jnp.asarray(query.shape[-1] ** -0.5, weight.dtype)
    of_match = jax.lax.optimization_barrier(of_match)
    of_query, of_key = jnp.einsum("nhqt,nthd->nqhd", of_match, key), jnp.einsum("nhqt,nqhd->nthd", of_match, query)
    return of_query, of_key, jnp.einsum("nhqt,nqhd->nthd", weight, gradient)


causal.defvjp(_forward, _backward)
