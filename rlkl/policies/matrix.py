"""Weight matrices of networks, whose products may be in bfloat16."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Matrix(eqx.Module):
    """A weight matrix. bfloat16: whether the factors of its products, and of their gradients, are rounded to bfloat16.

    The sums of a product, and its result, are in the dtype of the weights.
    """

    weights: Float[Array, "K N"]
    bfloat16: bool = eqx.field(static=True, default=False)

    @property
    def T(self) -> "Matrix":
        """The transposed matrix."""
        return Matrix(self.weights.T, self.bfloat16)

    def product(self, x: Float[Array, "m K"], known: Float[Array, "m N"] | None = None) -> Float[Array, "m N"]:
        """The rows of x times this matrix. Where the result is `known`, only its gradient is computed."""
        if known is None and not self.bfloat16:
            return x @ self.weights
        return _product(self.bfloat16, x, self.weights, known)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(bfloat16, x, weights, known):
    return _multiply(bfloat16, x, weights) if known is None else known


def _forward(bfloat16, x, weights, known):
    return _product(bfloat16, x, weights, known), (x, weights)


def _backward(bfloat16, saved, gradient):
    x, weights = saved
    return _multiply(bfloat16, gradient, weights.T), _multiply(bfloat16, x.T, gradient), None


_product.defvjp(_forward, _backward)


def _multiply(bfloat16: bool, left: Float[Array, "m K"], right: Float[Array, "K N"]) -> Float[Array, "m N"]:
    if not bfloat16:
        return left @ right
    return jnp.matmul(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), preferred_element_type=left.dtype)
