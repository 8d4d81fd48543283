"""Name the versions of rlkl and of the libraries that compute, as a run's folder records them."""

import functools
import importlib.metadata

import rlkl

LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "optax", "equinox")
FILE = "versions.yaml"  # beside the record of the config


@functools.cache
def installed() -> dict[str, str]:
    """Return the installed versions of rlkl and of LIBRARIES, by name."""
    return {"rlkl": rlkl.__version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}
