"""The Python API of a module or package, from signatures and docstrings."""

import functools
import importlib
import inspect
import pkgutil
from types import ModuleType

import rlkl

UNLISTED = ("__main__", "trl_table_model")  # a command, and what needs PyTorch to be imported


def modules(name: str) -> list[ModuleType]:
    """A module, or the modules of a package in alphabetical order (packages of packages included)."""
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        return [module]
    inner = [each.name for each in pkgutil.walk_packages(module.__path__, f"{name}.")]
    return [module, *(importlib.import_module(each) for each in sorted(inner) if not each.endswith(UNLISTED))]


def public(module: ModuleType) -> list[tuple[str, object]]:
    """The public functions and classes that a module defines, in the order of the source."""
    own = [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]
    return sorted(own, key=lambda pair: inspect.getsourcelines(inspect.unwrap(pair[1]))[1])


def methods(cls: type) -> list[tuple[str, object]]:
    """The public methods and properties that a class defines itself, in the order of the source."""
    names = [name for name in vars(cls) if not name.startswith("_")]
    return [(name, member) for name in names if _is_property(member := getattr(cls, name)) or inspect.isroutine(member)]


def _is_property(member: object) -> bool:
    return isinstance(member, (property, functools.cached_property))


def api(name: str) -> str:
    """The entries of a module or package, a heading for each module."""
    parts = []
    for module in modules(name):
        entries = public(module)
        if entries:
            summary = (inspect.getdoc(module) or "").split("\n\n")[0]
            parts.append(f"## `{module.__name__}`\n\n{summary}\n\n:::{{py:module}} {module.__name__}\n:::\n")
            parts += [_entry(name, value) for name, value in entries]
    return "\n".join(parts)


def top_level() -> str:
    """The entries of the names that `import rlkl` offers."""
    return "\n".join([":::{py:currentmodule} rlkl\n:::\n", *(_entry(name, getattr(rlkl, name)) for name in rlkl.__all__)])


def _signature(value: object, skip: int = 0) -> str:
    """The signature of a function or a class, without types. skip: how many first parameters are left out (self)."""
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "()"
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()][skip:]
    defaults = [each if _readable(each.default) else each.replace(default=...) for each in plain]
    return str(signature.replace(parameters=defaults, return_annotation=inspect.Signature.empty))


def _readable(default: object) -> bool:
    return default is inspect.Parameter.empty or isinstance(default, (str, int, float, bool, type(None), tuple))


def _types(value: object) -> str:
    """The annotated arguments of a function, as a list: shapes are in the types."""
    annotations = getattr(value, "__annotations__", {})
    lines = [f"- `{name}`: `{_type(each)}`" for name, each in annotations.items() if name != "return"]
    if "return" in annotations:
        lines.append(f"- returns `{_type(annotations['return'])}`")
    return "\n".join(lines)


def _type(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for module in ("jaxtyping.", "typing.", "jaxlib._jax.", "collections.abc.", "numpy.", "pathlib."):
        text = text.replace(module, "")
    return " ".join(text.split())


def _entry(name: str, value: object) -> str:
    kind = "class" if inspect.isclass(value) else "function"
    parts = [inspect.getdoc(value) or "", _types(value)]
    if isinstance(value, type):
        parts += [_method(value, inner, member) for inner, member in methods(value)]
    body = "\n\n".join(filter(None, parts))
    return f"::::{{py:{kind}}} {name}{_signature(value)}\n\n{body}\n::::\n"


def _method(cls: type, name: str, member: object) -> str:
    """The entry of a method or a property: its signature, and the first paragraph of its docstring."""
    if _is_property(member):
        kind, signature = "property", ""
    else:
        bound = inspect.ismethod(member) or isinstance(inspect.getattr_static(cls, name), staticmethod)
        kind, signature = "method", _signature(member, skip=0 if bound else 1)
    return f":::{{py:{kind}}} {name}{signature}\n\n{method_summary(cls, name)}\n:::"


def method_summary(cls: type, name: str) -> str:
    """The first paragraph of the docstring of a method or a property; where it has none, of the one that it overrides."""
    documented = (inspect.getdoc(vars(each)[name]) or _doc(getattr(each, name)) for each in cls.__mro__ if name in vars(each))
    return " ".join(next(filter(None, documented), "").split("\n\n")[0].split())


def _doc(member: object) -> str:
    function = getattr(member, "func", None) or getattr(member, "fget", None) or member
    return inspect.getdoc(function) or ""
