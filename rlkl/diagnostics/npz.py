"""Streaming access to arrays in .npz files: a few rows at a time, so that files may be larger than memory."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Generator, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from rlkl.errors import SettingsError


class Header(NamedTuple):
    """The shape and dtype of an array, read without its data."""

    shape: tuple[int, ...]
    dtype: np.dtype


def headers(path: Path, key: str) -> dict[str, Header]:
    """The headers of the arrays in a file, by name; raises `SettingsError` for `key` unless it is a valid .npz file."""
    with _refused(path, key), zipfile.ZipFile(path) as archive:
        by_name = {}
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise ValueError
            with archive.open(info) as member:
                header = _header(member, path, key)
                is_whole = math.prod(header.shape) * header.dtype.itemsize == info.file_size - member.tell()
                if not is_whole and not header.dtype.hasobject:  # objects are pickled, in any number of bytes
                    raise EOFError
            by_name[info.filename.removesuffix(".npy")] = header
        return by_name


def rows(path: Path, key: str, name: str, at_once: int) -> Generator[np.ndarray, None, None]:
    """Iterate over one array along its first axis, `at_once` rows at a time; a truncated file raises at its end."""
    with _refused(path, key), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        header = _header(member, path, key)
        width = int(np.prod(header.shape[1:], dtype=np.int64))
        for first in range(0, header.shape[0], at_once):
            count = min(at_once, header.shape[0] - first)
            content = member.read(count * width * header.dtype.itemsize)
            if len(content) < count * width * header.dtype.itemsize:
                raise EOFError
            yield np.frombuffer(content, header.dtype).reshape(count, *header.shape[1:])


def _header(member: IO[bytes] | BufferedIOBase, path: Path, key: str) -> Header:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in readers:
        raise SettingsError(key, path, "holds an array with named fields; log-probabilities are plain numbers")
    shape, fortran_order, dtype = readers[version](member)
    if fortran_order and len(shape) > 1:
        raise SettingsError(key, path, "is stored column by column; save np.ascontiguousarray of it")
    return Header(shape, dtype)


@contextlib.contextmanager
def _refused(path: Path, key: str) -> Iterator[None]:
    """Turn the errors of reading a file into one-line `SettingsError`s."""
    try:
        yield
    except FileNotFoundError:
        raise SettingsError(key, path, "there is no such file") from None
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError):
        raise SettingsError(key, path, "is truncated or damaged, or no .npz file (numpy.savez writes them)") from None
    except OSError as error:
        raise SettingsError(key, path, f"cannot be read ({error.strerror})") from None
    except SettingsError:
        raise
    except ValueError:
        raise SettingsError(key, path, "holds no arrays of NumPy's") from None
