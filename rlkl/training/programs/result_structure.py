"""The tree structure of a program's result as JSON-like values, so that it is known without tracing the program."""

import dataclasses
import importlib
import sys
from typing import Any

import equinox as eqx
import jax

PACKAGES = ("rlkl", "optax")  # whose classes may be nodes of a result; users' plugins are modules that are loaded already


def to_json(structure: jax.tree_util.PyTreeDef) -> Any:
    """Describe a structure of NamedTuples, equinox modules and Python's containers; None where it has something else."""
    example = jax.tree.unflatten(structure, range(structure.num_leaves))
    try:
        description = _to_json(example)
    except TypeError:
        return None
    return description if from_json(description) == structure else None


def from_json(description: Any) -> jax.tree_util.PyTreeDef:
    """The structure that `to_json` described; raises an exception for anything else."""
    return jax.tree.structure(_from_json(description))


def _to_json(node: Any) -> Any:
    if node is None:
        return {"none": True}
    if isinstance(node, int):
        return {"leaf": True}
    if isinstance(node, dict):
        return {"dict": [[key, _to_json(entry)] for key, entry in node.items()]}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {"named": _class_name(node), "entries": [_to_json(entry) for entry in node]}
    if isinstance(node, (tuple, list)):
        return {type(node).__name__: [_to_json(entry) for entry in node]}
    if isinstance(node, eqx.Module):
        entries = {}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if field.metadata.get("static") and not isinstance(value, (bool, int, float, str, type(None))):
                raise TypeError
            entries[field.name] = {"static": value} if field.metadata.get("static") else _to_json(value)
        return {"module": _class_name(node), "entries": entries}
    raise TypeError


def _from_json(node: Any) -> Any:
    kind = next(iter(node))
    value = node[kind]
    if kind == "none":
        return None
    if kind == "leaf":
        return 0
    if kind == "dict":
        return {key: _from_json(entry) for key, entry in value}
    if kind == "named":
        return _class(value)(*map(_from_json, node["entries"]))
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(map(_from_json, value))
    module: Any = object.__new__(_class(value))
    for name, entry in node["entries"].items():
        object.__setattr__(module, name, entry["static"] if "static" in entry else _from_json(entry))
    return module


def _class_name(node: Any) -> list[str]:
    return [type(node).__module__, type(node).__qualname__]


def _class(name: list[str]) -> type:
    module, qualified = name
    found: Any = importlib.import_module(module) if module.partition(".")[0] in PACKAGES else sys.modules[module]
    for part in qualified.split("."):
        found = getattr(found, part)
    if not (issubclass(found, eqx.Module) or (issubclass(found, tuple) and hasattr(found, "_fields"))):
        raise TypeError(f"{qualified} is no node of a result")
    return found
