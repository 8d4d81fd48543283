"""Describe the static part of a program's arguments in text that is the same in every process.

Python's hashes and `repr` differ between processes for functions and objects, so each kind of value has its rule here. A value
without a rule is refused: what depends on it is then not kept between processes.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import numpy as np

from rlkl.tasks.automaton import Automaton


class NoStaticKeyError(TypeError):
    """A static value has no description that holds in other processes."""


def structure_key(structure: Any) -> list[Any]:
    """Describe a tree structure: the types of its nodes and their static values."""
    node, children = structure.node_data(), structure.children()
    if node is None:
        return ["leaf" if structure.num_leaves else "none"]
    kind, static = node
    return [value_key(kind), value_key(static), *map(structure_key, children)]


def value_key(value: Any) -> Any:
    """Describe a static value with lists, strings, numbers and None; raises `NoStaticKeyError` for a kind without a rule."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, (tuple, list)):
        return [type(value).__qualname__, *map(value_key, value)]
    if isinstance(value, dict):
        return ["dict", *([value_key(key), value_key(entry)] for key, entry in value.items())]
    if isinstance(value, type):
        return ["type", value.__module__, value.__qualname__, _source_digest(value.__module__)]
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Automaton):
        return ["automaton", value.digest]
    if isinstance(value, functools.partial):
        return ["partial", value_key(value.func), value_key(value.args), value_key(value.keywords)]
    if isinstance(value, FunctionType):
        return _function_key(value)
    if dataclasses.is_dataclass(value):
        fields = [[field.name, value_key(getattr(value, field.name))] for field in dataclasses.fields(value)]
        return ["dataclass", value_key(type(value)), *fields]
    structure: Any = jax.tree.structure(value)
    if structure.node_data() == (type(value), None):  # a node without content, as equinox's mark of no value
        return ["empty", value_key(type(value))]
    raise NoStaticKeyError(f"no rule for {type(value).__qualname__}")


def _function_key(function: Callable) -> list[Any]:
    """Describe a function by its place in its module's source, its defaults and what it closes over."""
    code = function.__code__
    enclosed = [value_key(cell.cell_contents) for cell in function.__closure__ or ()]
    defaults = [value_key(function.__defaults__), value_key(function.__kwdefaults__)]
    source = _source_digest(function.__module__)
    return ["function", function.__module__, function.__qualname__, code.co_firstlineno, source, *defaults, *enclosed]


@functools.cache
def _source_digest(module: str) -> str:
    """Hash a module's source file; raises `NoStaticKeyError` for what was typed in, which has none.

    rlkl's own modules and those of libraries are left to whoever keeps programs, by their versions.
    """
    if module.partition(".")[0] in ("rlkl", "optax", "equinox", "jax", "builtins"):
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module == "__main__":
        raise NoStaticKeyError(f"the source of {module} is unknown")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
