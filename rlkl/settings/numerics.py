"""The settings of jax under which rlkl computes, whatever the user's are."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import jax

from rlkl.errors import SettingsError

# By their names in `jax` (context managers) and, with the prefix `jax_`, in `jax.config`. Promotion of dtypes and ranks is the
# user's: rlkl computes the same under all of it.
PINNED: dict[str, Any] = {
    # Numbers depend on these.
    "enable_x64": True,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "default_matmul_precision": None,  # on GPUs
    "softmax_custom_jvp": False,
    # These fail or slow healthy runs: log-probabilities of minus infinity, gradients that a mask discards, keys used twice.
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

    Entering it where the same values hold already compiles nothing anew. x64: whether in 64 bits. Raises `SettingsError` as
    `check_devices` does.
    """
    check_devices()
    with contextlib.ExitStack() as stack:
        for name, value in (PINNED | {"enable_x64": x64}).items():
            stack.enter_context(getattr(jax, name)(value))
        yield


@functools.cache
def check_devices() -> None:
    """Ask jax for its devices; raises `SettingsError` where the platform that the user named has none."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        key, chosen = "JAX_PLATFORMS", jax.config.values["jax_platforms"]
        if not chosen:
            key, chosen = "JAX_PLATFORM_NAME", os.environ.get("JAX_PLATFORM_NAME", "")
        if not chosen:
            raise
        raise SettingsError(key, chosen, f"jax finds no such device; this machine has: {', '.join(_platforms())}") from error


def _platforms() -> list[str]:
    """The platforms of this machine, whatever the user named."""
    from jax.extend import backend

    chosen = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "")
    try:
        return sorted(set(backend.backends()))
    finally:
        jax.config.update("jax_platforms", chosen)
        backend.clear_backends()  # so that jax asks anew once the user has named another
