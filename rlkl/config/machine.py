"""Set up jax and the devices of the process for a command. Importing rlkl changes nothing."""

import functools
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from rlkl.errors import SettingsError

DEVICE_COUNT_FLAG = "xla_force_host_platform_device_count"
# Settings of jax that make healthy runs fail or change their numbers, and that hold for the whole process.
RESET_SETTINGS = {
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    "jax_random_seed_offset": 0,
}
# Settings of jax and variables of the environment that a run's numbers depend on, and that rlkl does not set.
NUMERIC_SETTINGS = (
    "jax_random_seed_offset",  # reset by the command, not by the library
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
# Flags of XLA under which small programs that run for milliseconds take half the time to compile.
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
NUMERIC_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has no affinity


def import_jax() -> None:
    """Import jax; raises `SettingsError` if jax refuses the value of an environment variable."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        key, value = variable_at_fault(str(error))
        raise SettingsError(key, value, f"jax refuses this variable of the environment: {error}") from error


def variable_at_fault(message: str) -> tuple[str, str]:
    """Return name and value of the environment variable that jax's message names, or of all of jax's if it names none."""
    variables = {key: value for key, value in os.environ.items() if key.startswith("JAX_")}
    keys = [key for key in variables if key.lower() in message.lower().replace("jax.", "jax_")] or list(variables)
    return ", ".join(keys), ", ".join(variables[key] for key in keys)


def compile_quickly() -> None:
    """Let this process, which has not imported jax, compile programs without optimising them; XLA_FLAGS of the user stay."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "jax" not in sys.modules and (not flags or flags.startswith("--")):
        os.environ["XLA_FLAGS"] = f"{UNOPTIMISED} {flags}".strip()


def configure() -> None:
    """Set jax up for a command: rlkl's settings, one CPU device per core, compiled programs cached in the user's cache folder.

    A device count in XLA_FLAGS and the folder in JAX_COMPILATION_CACHE_DIR are kept. Raises `SettingsError` if the environment
    asks jax for something that it refuses, or for a device that does not exist.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    names_a_file = bool(flags) and not flags.startswith("--")
    if "jax" not in sys.modules and DEVICE_COUNT_FLAG not in flags and not names_a_file:
        os.environ["XLA_FLAGS"] = f"{flags} --{DEVICE_COUNT_FLAG}={cores()}".strip()
    import_jax()
    import jax

    from rlkl.settings import numerics

    for name, value in (RESET_SETTINGS | {f"jax_{name}": value for name, value in numerics.PINNED.items()}).items():
        jax.config.update(name, value)
    numerics.check_devices()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> Path:
    """Return rlkl's folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")) / "rlkl"


def numeric_environment() -> dict[str, Any]:
    """Return what a run's numbers depend on in this machine and in jax's setup; the number of devices is not part of it."""
    import jax
    from jax.extend.backend import get_backend

    backend, device, values = get_backend(), jax.local_devices()[0], jax.config.values
    flags = {name: re.sub(rf"--{DEVICE_COUNT_FLAG}=\S*", "", os.environ.get(name, "")).split() for name in NUMERIC_VARIABLES}
    return {
        "device": [backend.platform, backend.platform_version, device.device_kind, _instructions()],
        "settings": {name: str(values.get(name)) for name in NUMERIC_SETTINGS},
        "variables": flags,
    }


@functools.cache
def _instructions() -> list[str]:
    """Return the processor's architecture and, where the system lists them, its vector instructions."""
    cpuinfo, features = Path("/proc/cpuinfo"), ""
    if cpuinfo.exists():
        with cpuinfo.open() as lines:
            features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    vector_instructions = re.findall(r"\b(?:sse|avx|fma|f16c|amx|asimd|sve)\w*", features)
    return [platform.machine(), *sorted(set(vector_instructions))]
