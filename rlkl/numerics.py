"""The settings of jax under which rlkl computes, whatever the user's are."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

# By their names in `jax` (context managers) and, with the prefix `jax_`, in `jax.config`. Promotion of dtypes and ranks is the
# user's: rlkl computes the same under all of it.
PINNED: dict[str, Any] = {
    # Numbers depend on these.
    "enable_x64": True,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "default_matmul_precision": None,
    "softmax_custom_jvp": False,
    # These fail healthy runs: log-probabilities of minus infinity, the gradients that a mask discards, keys that are folded.
    "debug_nans": False,
    "debug_infs": False,
    "debug_key_reuse": False,
    "check_tracer_leaks": False,
    "disable_jit": False,
    "transfer_guard": "allow",
}


@contextlib.contextmanager
def pinned(x64: bool = True) -> Iterator[None]:
    """A context in which this thread computes under rlkl's settings of jax; the user's are left as they were.

    Entering it where the same values hold already compiles nothing anew. x64: whether in 64 bits.
    """
    with contextlib.ExitStack() as stack:
        for name, value in (PINNED | {"enable_x64": x64}).items():
            stack.enter_context(getattr(jax, name)(value))
        yield
