"""Write files atomically, so that no other process sees half a file, and fill a run's folder; make YAML and .npz."""

import contextlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically: to a temporary file that is then renamed. Raises `OSError`, which names `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML's dumper, in C if available, changed to quote text that Hydra would read as a number."""


def _represent_text(dumper, text: str):
    try:
        float(text.replace("_", ""))
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _represent_text)


def yaml_text(values: Mapping[str, Any] | list[Any]) -> str:
    """Return plain values as YAML that Hydra reads back unchanged."""
    plain = values if isinstance(values, list) else dict(values)
    return yaml.dump(plain, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def pack_arrays(leaves: Iterable[Any], **named: Any) -> bytes:
    """Return arrays as the content of an .npz file: the named ones, then the leaves as leaf_0, leaf_1, ..."""
    out = io.BytesIO()
    np.savez(out, **named, **{f"leaf_{i}": leaf for i, leaf in enumerate(leaves)})
    return out.getvalue()


def fill(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a run's files into its folder, in their order, and delete the temporary files of a command that was killed."""
    for temporary in folder.glob(".*.part"):
        temporary.unlink(missing_ok=True)
    for name, content in contents.items():
        write(folder / name, content)
