"""Rounding of numbers to a dtype of fewer bits, while their own dtype is kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NAMES = {"float8_e4m3": "float8_e4m3fn"}  # names of rlkl that are not those of ml_dtypes


def round_to(x: Float[Array, "*n"], dtype: str) -> Float[Array, "*n"]:
    """The nearest numbers of `dtype`, ties to even, in the dtype of x.

    float8_e4m3 has no infinities: beyond its largest number, 448, it saturates ("OCP 8-bit floating point specification", OFP8,
    2023).
    `reduce_precision` rounds, since XLA may remove a conversion to fewer bits and back. It makes 0 of subnormal numbers, so
    that these are rounded apart: they are multiples of the smallest one.
    """
    kind = jnp.finfo(NAMES.get(dtype, dtype))
    exponent_bits = kind.nexp
    if dtype == "float8_e4m3":
        x = jnp.clip(x, -float(kind.max), float(kind.max))
        exponent_bits += 1  # its largest exponent is one that other formats keep for infinities
    rounded = jax.lax.reduce_precision(x, exponent_bits, kind.nmant)
    unit = float(kind.smallest_subnormal)
    if unit < float(jnp.finfo(x.dtype).smallest_normal):
        return rounded
    step = jnp.asarray(unit, x.dtype)
    return jnp.where(jnp.abs(x) < jnp.asarray(float(kind.smallest_normal), x.dtype), jnp.round(x / step) * step, rounded)
