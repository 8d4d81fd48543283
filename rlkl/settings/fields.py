"""The two kinds of option: static (each value is compiled anew) and traced (free to sweep), with their allowed values."""

import dataclasses
from typing import Any

Traced = Any  # a number; inside of a compiled program an array
Resolved = Any  # may be null; `config.resolve` then chooses a value
SEED_LIMIT = 2**32
MOST_COUNT = 10**8  # largest number of steps and the like, which are 32-bit integers


def static(default: Any, about: str, allowed: tuple | None = None, kind: type | None = None, **limits: int | float):
    """Declare a static field: each value is compiled anew. about: its meaning; limits: above, at_least, below, at_most."""
    return _field(default, about=about, traced=False, allowed=allowed, kind=kind, **limits)


def traced(
    default: Any,
    about: str,
    above: int | float | None = None,
    at_least: int | float | None = None,
    below: int | float | None = None,
    at_most: int | float | None = None,
):
    """Declare a traced number: it is an input of compiled programs, so that a sweep over it compiles once."""
    return _field(default, about=about, traced=True, kind=float, above=above, at_least=at_least, below=below, at_most=at_most)


def _field(default, **metadata):
    return dataclasses.field(default=default, metadata=metadata)
