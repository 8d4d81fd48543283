"""Load a loss from `FILE.py:NAME` or `package.module:NAME`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlkl.errors import SettingsError, nearest, one_line


def load_loss(where: str) -> Callable[..., Any]:
    """The function or callable object that `where` names. The file is executed, as Python imports one."""
    source, separator, name = where.rpartition(":")
    if not separator or not name or not source:
        raise SettingsError("loss", where, "is not FILE.py:NAME and not package.module:NAME")
    module = _module(source, where)
    loss: Any = module
    for part in name.split("."):
        if not hasattr(loss, part):
            functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise SettingsError("loss", where, f"{source} has no {name!r}; {nearest(name, functions)}")
        loss = getattr(loss, part)
    if not callable(loss) or isinstance(loss, type):
        raise SettingsError("loss", where, "is no function and no callable object")
    return loss


def _module(source: str, where: str) -> ModuleType:
    path = Path(source)
    if source.endswith(".py") and not path.is_file():
        raise SettingsError("loss", where, f"there is no file {source}")
    try:
        if not source.endswith(".py"):
            sys.path.insert(0, "")  # as `python -m` does: modules of the working folder
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` does: files beside it
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        extra = "; pip install 'rlkl[torch]'" if error.name == "torch" else ""
        raise SettingsError("loss", where, f"cannot be imported: {one_line(error)}{extra}") from error
    except Exception as error:
        raise SettingsError("loss", where, f"cannot be imported: {type(error).__name__}: {one_line(error)}") from error
