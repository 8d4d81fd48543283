"""Executables as bytes. The functions of jax that this takes are not public; its minor version is pinned."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.extend.backend import get_backend
from jaxlib import xla_client

_thread = threading.local()


def _count_hit(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _thread.hits = getattr(_thread, "hits", 0) + 1


jax.monitoring.register_event_listener(_count_hit)


def compile_flat(
    function: Callable, leaves: Sequence[Any], compiler_options: dict[str, Any] | None
) -> tuple[Any, bytes | None]:
    """Compile a function of a list of arrays that returns a list of arrays; also returns the executable as bytes.

    They are None for an executable from jax's own cache, since jaxlib 0.10.2 writes such a one without its code.
    """
    before = getattr(_thread, "hits", 0)
    with _outside_the_cache():
        compiled = jax.jit(function, keep_unused=True, compiler_options=compiler_options).lower(leaves).compile()
    executable = compiled.runtime_executable()
    if getattr(_thread, "hits", 0) > before:
        return executable, None
    return executable, get_backend().serialize_executable(executable)


def load(content: bytes, device: jax.Device) -> Any:
    """The executable on a device, whichever it was compiled for; raises an exception for one of another jaxlib."""
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    return get_backend().deserialize_executable(content, [device], options)


def call(executable: Any, leaves: Sequence[Any], device: jax.Device) -> list[jax.Array]:
    """Call an executable on a list of arrays."""
    results = executable.execute_sharded(jax.device_put(list(leaves), device))
    return [parts[0] for parts in results.disassemble_into_single_device_arrays()]


@contextmanager
def _outside_the_cache() -> Iterator[None]:
    """Compile without writing to jax's own cache, which would hold each program twice."""
    name = "jax_persistent_cache_min_compile_time_secs"
    least = jax.config.values[name]
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, least)
