"""Stand-ins for packages that a library imports and that its loss never calls: CUDA kernels, servers, cluster tools."""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Absent(type):
    """A class of an absent package: it can be looked up and derived from, but calling it raises."""

    def __getattr__(cls, name: str) -> "Absent":
        return absent(f"{cls.__qualname__}.{name}")

    def __call__(cls, *args: object, **kwargs: object) -> None:
        raise RuntimeError(f"{cls.__qualname__} is a stand-in for a package that is not installed, and was called")


def absent(name: str) -> Absent:
    """Return the stand-in of this full name. Names like __file__ are not there, as in any module without them."""
    if name.rpartition(".")[2].startswith("__"):
        raise AttributeError(name)
    return Absent(name, (), {})


class AbsentPackages(MetaPathFinder, Loader):
    """Imports modules of absent packages as empty ones, in which every name is a stand-in."""

    def __init__(self, packages: tuple[str, ...]):
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.packages else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: absent(f"{module.__name__}.{name}")


def stand_in(*packages: str) -> None:
    """Let these packages be imported. Those that are installed are imported as they are."""
    sys.meta_path.append(AbsentPackages(packages))
