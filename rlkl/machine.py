"""What the command asks of the machine, once a process; importing rlkl asks nothing."""

import os
import sys

FLAG = "xla_force_host_platform_device_count"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # a Mac has no affinity


def configure() -> None:
    """jax under rlkl's settings, on a device a core, with compiled programs kept in the user's cache folder.

    A number of host devices in XLA_FLAGS, or JAX_COMPILATION_CACHE_DIR, is the user's word and stands.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "jax" not in sys.modules and FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}={cores()}".strip()
    import jax

    from rlkl import numerics

    for name, value in numerics.PINNED.items():
        jax.config.update(f"jax_{name}", value)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "rlkl", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
