"""What the command asks of the machine, once a process; importing rlkl asks nothing."""

import functools
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from rlkl.errors import SettingsError

FLAG = "xla_force_host_platform_device_count"
# Settings of jax that fail healthy runs, or move their numbers, and that only a whole process can set.
UNSET = {
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_random_seed_offset": 0,
}
# What numbers depend on beside what rlkl sets itself: settings of jax, and variables of the environment.
SETTINGS = (
    "jax_random_seed_offset",  # which the command resets, and the library does not
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_level",
    "jax_memory_fitting_effort",
    "jax_disable_most_optimizations",
    "jax_compiler_enable_remat_pass",
    "jax_allow_f16_reductions",
    "jax_high_dynamic_range_gumbel",
    "jax_threefry_gpu_kernel_lowering",
    "jax_use_direct_linearize",
    "jax_default_device",
)
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # a Mac has no affinity


def import_jax() -> None:
    """Import jax; raises `SettingsError` where a variable of the environment has a value that jax refuses."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        key, value = _blamed(str(error))
        raise SettingsError(key, value, f"jax refuses this variable of the environment: {error}") from error


def _blamed(message: str) -> tuple[str, str]:
    """The variable of the environment that jax's message names."""
    given = {key: value for key, value in os.environ.items() if key.startswith("JAX_")}
    named = [key for key in given if key.lower() in message.lower().replace("jax.", "jax_")]
    keys = named or list(given)
    return ", ".join(keys), ", ".join(given[key] for key in keys)


def configure() -> None:
    """jax under rlkl's settings, on a device a core, with compiled programs kept in the user's cache folder.

    A number of host devices in XLA_FLAGS, or JAX_COMPILATION_CACHE_DIR, is the user's word and stands. Raises `SettingsError`
    where the environment asks jax for what it refuses, or for a device that is not there.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    names_a_file = bool(flags) and not flags.startswith("--")
    if "jax" not in sys.modules and FLAG not in flags and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}={cores()}".strip()
    import_jax()
    import jax

    from rlkl.settings import numerics

    for name, value in (UNSET | {f"jax_{name}": value for name, value in numerics.PINNED.items()}).items():
        jax.config.update(name, value)
    numerics.check_devices()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "rlkl", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def numeric_environment() -> dict[str, Any]:
    """What numbers depend on of this machine, and of how jax is set up on it; the number of devices is no part of it."""
    import jax
    from jax.extend.backend import get_backend

    backend, device, values = get_backend(), jax.local_devices()[0], jax.config.values
    flags = {name: re.sub(rf"--{FLAG}=\S*", "", os.environ.get(name, "")).split() for name in VARIABLES}
    return {
        "device": [backend.platform, backend.platform_version, device.device_kind, _instructions()],
        "settings": {name: str(values.get(name)) for name in SETTINGS},
        "variables": flags,
    }


@functools.cache
def _instructions() -> list[str]:
    """The processor's kind, and its vector instructions where the system tells."""
    listed, known = Path("/proc/cpuinfo"), ""
    if listed.exists():
        with listed.open() as lines:
            known = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    vectors = re.findall(r"\b(?:sse|avx|fma|f16c|amx|asimd|sve)\w*", known)
    return [platform.machine(), *sorted(set(vectors))]
