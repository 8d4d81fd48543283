"""Sequences as arrays, in memory or in .npz files: flat with `lengths`, or padded [N, T] with `mask`."""

import itertools
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from rlkl.diagnostics import npz
from rlkl.diagnostics.diagnose.reading import records
from rlkl.diagnostics.diagnose.reading.chunk import (
    FORMAT,
    LOG_PROBS,
    SEQUENCE_FIELDS,
    TOKEN_FIELDS,
    Chunk,
    Header,
    checked,
    checked_header,
    group_number,
    header,
    merged,
    without_masked,
)
from rlkl.errors import SettingsError, nearest

ARRAYS = (*TOKEN_FIELDS, *SEQUENCE_FIELDS, "mask", "lengths")
OF_HEADER = (FORMAT, *Header._fields)
Shapes = Mapping[str, tuple[int, ...]]


def as_numpy(array: Any) -> np.ndarray:
    """The array of NumPy, JAX or PyTorch as one of NumPy; bfloat16 becomes float32."""
    if hasattr(array, "detach"):  # PyTorch's
        array = array.detach()
        array = (array.float() if array.is_floating_point() and array.element_size() < 4 else array).cpu().numpy()
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def from_arrays(values: Mapping[str, Any]) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of arrays by name; keys of the header may stand among them."""
    known = checked_header({key: _plain(values[key]) for key in values if key in Header._fields}, "arrays")
    arrays = {key: _array(key, value) for key, value in values.items() if key not in OF_HEADER and value is not None}
    shapes = {key: array.shape for key, array in arrays.items()}
    _check_shapes(shapes, "arrays")
    columns = {key: _Column(iter([array])) for key, array in arrays.items() if key != "lengths"}
    return known, _chunks(known, shapes, columns, _lengths(shapes, arrays.get("lengths"), "arrays"), "arrays")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return as_numpy(values)
    except (TypeError, ValueError, OverflowError):
        rule = "must be an array: sequences x tokens, with `mask`, or all tokens in one axis, with `lengths`"
        raise SettingsError(f"arrays: {name}", "", rule) from None


def read_npz(path: Path, settings: Header) -> tuple[Header, Iterator[Chunk]]:
    """The header and the chunks of a .npz file in rlkl's format; settings are used where the file says nothing."""
    headers = npz.headers(path, "PATH")
    for key, each in headers.items():
        if each.dtype.hasobject:
            raise SettingsError(f"{path.name}: {key}", "", "holds Python objects, a pickle, which rlkl never loads")
    shapes = {key: each.shape for key, each in headers.items()}
    known = header({key: _scalar(path, key, shapes[key]) for key in OF_HEADER if key in shapes}, path.name)
    known = merged(known, settings, path.name)
    shapes = {key: shape for key, shape in shapes.items() if key not in OF_HEADER}
    _check_shapes(shapes, path.name)
    columns = {
        key: _Column(npz.rows(path, "PATH", key, max(1, records.TOKENS_AT_ONCE // max((1, *shape[1:])))))
        for key, shape in shapes.items()
        if key != "lengths"
    }
    lengths = np.concatenate([*npz.rows(path, "PATH", "lengths", records.TOKENS_AT_ONCE)]) if "lengths" in shapes else None
    return known, _chunks(known, shapes, columns, _lengths(shapes, lengths, path.name), path.name)


def _scalar(path: Path, key: str, shape: tuple[int, ...]) -> Any:
    try:
        if shape:
            raise ValueError
        with np.load(path, allow_pickle=False) as file:
            return file[key].item()
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise SettingsError(f"{path.name}: {key}", "", "is no number and no text") from None


def _check_shapes(shapes: Shapes, source: str) -> None:
    """Raise `SettingsError` unless the arrays are of one of the two layouts, and agree in their numbers of sequences."""
    for name in shapes:
        if name not in ARRAYS:
            raise SettingsError(f"{source}: {name}", "", "is no array of the format; " + nearest(name, ARRAYS))
    first = next((name for name in LOG_PROBS if name in shapes), None)
    if first is None:
        raise SettingsError(source, "", f"needs one of {', '.join(LOG_PROBS)}")
    is_padded = len(shapes[first]) == 2 and "lengths" not in shapes
    if not is_padded and not (len(shapes[first]) == 1 and len(shapes.get("lengths", ())) == 1):
        rule = "must be sequences x tokens, with `mask`, or all tokens in one axis, with `lengths`"
        raise SettingsError(f"{source}: {first}", f"shape {shapes[first]}", rule)
    sequences = shapes[first][:1] if is_padded else shapes["lengths"]
    for name, shape in shapes.items():
        wanted = sequences if name in (*SEQUENCE_FIELDS, "lengths") else shapes[first]
        if shape != wanted and not (name == "advantages" and shape == sequences):
            raise SettingsError(f"{source}: {name}", f"shape {shape}", f"must be of shape {wanted}, by the shape of {first}")
    if not sequences[0]:
        raise SettingsError(source, "", "holds no sequence")


def _lengths(shapes: Shapes, lengths: np.ndarray | None, source: str) -> Int[np.ndarray, " N"]:
    """The length of each sequence, masked tokens included."""
    shape = next(shapes[name] for name in LOG_PROBS if name in shapes)
    if lengths is None:
        return np.full(shape[0], shape[1])
    if lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise SettingsError(f"{source}: lengths", "", "must be whole numbers of at least 0")
    if lengths.sum() != shape[0]:
        raise SettingsError(f"{source}: lengths", "", f"add up to {lengths.sum()}, and there are {shape[0]} tokens")
    return lengths.astype(np.int64)


class _Column:
    """One array, taken a few rows at a time."""

    def __init__(self, stream: Iterator[np.ndarray]):
        self._stream, self._rest = stream, next(stream, np.zeros(0))

    def take(self, count: int) -> np.ndarray:
        """The next `count` rows."""
        parts = [self._rest]
        while sum(map(len, parts)) < count:
            parts.append(next(self._stream))
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._rest = rows[count:]
        return rows[:count]


def _chunks(
    known: Header, shapes: Shapes, columns: Mapping[str, _Column], lengths: Int[np.ndarray, " N"], source: str
) -> Iterator[Chunk]:
    """The chunks of about TOKENS_AT_ONCE tokens of the columns."""
    tokens = next(shapes[name] for name in LOG_PROBS if name in shapes)
    spread = shapes.get("advantages", tokens) != tokens  # one advantage a sequence
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], records.TOKENS_AT_ONCE)[1:])
    for start, stop in itertools.pairwise(np.unique([0, *cuts, len(lengths)]).tolist()):
        part = lengths[start:stop]
        arrays = {}
        for name, column in columns.items():
            is_per_token = name not in SEQUENCE_FIELDS and not (name == "advantages" and spread)
            rows = int(part.sum()) if is_per_token and len(tokens) == 1 else stop - start
            values = _typed(name, column.take(rows).ravel(), source)
            arrays[name] = np.repeat(values, part) if name == "advantages" and spread else values
        chunk = without_masked(part, arrays.pop("mask", None), arrays)
        yield checked(chunk, known, partial(_place, source, start))


def _place(source: str, start: int, index: int) -> str:
    return f"{source}, sequence {start + index}"


def _typed(name: str, values: np.ndarray, source: str) -> np.ndarray:
    """The values of an array in the type of its field."""
    kinds = {"tokens": "iu", "step": "iu", "group": "iuU", "mask": "biuf"}.get(name, "fiu")
    if values.dtype.kind not in kinds and values.size:
        rule = {"iu": "must be whole numbers", "iuU": "must be whole numbers or texts"}.get(kinds, "must be numbers")
        raise SettingsError(f"{source}: {name}", str(values.dtype), rule)
    if name == "group":
        return np.array([group_number(value) for value in values.tolist()], np.int64)
    if name == "mask" and ((values != 0) & (values != 1)).any():
        raise SettingsError(f"{source}: mask", "", "must be of 0 and 1")
    return values.astype(np.int64 if kinds == "iu" else np.float64)
