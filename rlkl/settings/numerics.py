"""The jax settings under which rlkl computes, whatever the user's own settings are."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import jax

from rlkl.errors import SettingsError

# Names of context managers in `jax` and, with the prefix `jax_`, of entries in `jax.config`. Promotion of dtypes and ranks is
# not pinned: rlkl computes the same under every setting of it.
PINNED: dict[str, Any] = {
    # These change numbers.
    "enable_x64": True,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "default_matmul_precision": None,  # on GPUs
    "softmax_custom_jvp": False,
    # These break or slow healthy runs: log-probabilities of minus infinity, gradients that a mask discards, keys used twice.
    "debug_nans": False,
    "debug_infs": False,
    "debug_key_reuse": False,
    "check_tracer_leaks": False,
    "disable_jit": False,
    "transfer_guard": "allow",
}


@contextlib.contextmanager
def pinned(x64: bool = True) -> Iterator[None]:
    """A context manager: this thread computes under rlkl's jax settings, and the user's settings are restored at the end.

    x64: whether 64-bit dtypes are enabled. Where the same values already hold, nothing is compiled again. Raises
    `SettingsError` as `check_devices` does.
    """
    check_devices()
    with contextlib.ExitStack() as stack:
        for name, value in (PINNED | {"enable_x64": x64}).items():
            stack.enter_context(getattr(jax, name)(value))
        yield


@functools.cache
def check_devices() -> None:
    """Initialise jax's devices; raises `SettingsError` if the platform that the user named has no device."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        key, platform = "JAX_PLATFORMS", jax.config.values["jax_platforms"]
        if not platform:
            key, platform = "JAX_PLATFORM_NAME", os.environ.get("JAX_PLATFORM_NAME", "")
        if not platform:
            raise
        raise SettingsError(key, platform, f"jax finds no such device; this machine has: {', '.join(_platforms())}") from error


def _platforms() -> list[str]:
    """The platforms of this machine, whichever the user named."""
    from jax.extend import backend

    platform = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "")
    try:
        return sorted(set(backend.backends()))
    finally:
        jax.config.update("jax_platforms", platform)
        backend.clear_backends()  # so that jax looks for devices again once the user names another platform
