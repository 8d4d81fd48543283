"""Arrays inside .npz files, read a few rows at a time: what is larger than memory is never loaded."""

import contextlib
import zipfile
import zlib
from collections.abc import Generator, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from rlkl.errors import SettingsError


class Header(NamedTuple):
    """What an array is, known before any of it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def headers(path: Path, key: str) -> dict[str, Header]:
    """The arrays in a file, by name; raises `SettingsError`, naming `key`, where it is no whole .npz of plain arrays."""
    with _refused(path, key), zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            with archive.open(name) as member:
                found[name.removesuffix(".npy")] = _header(member, path, key)
        return found


def rows(path: Path, key: str, name: str, at_once: int) -> Generator[np.ndarray, None, None]:
    """The rows of one array (its first axis), `at_once` at a time; a file that ends early is refused when that is seen."""
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
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in read:
        raise SettingsError(key, str(path), "holds an array with named fields; log-probabilities are plain numbers")
    shape, by_column, dtype = read[version](member)
    if by_column and len(shape) > 1:
        raise SettingsError(key, str(path), "is stored column by column; save np.ascontiguousarray of it")
    return Header(shape, dtype)


@contextlib.contextmanager
def _refused(path: Path, key: str) -> Iterator[None]:
    """What can be wrong with a file, as one line."""
    try:
        yield
    except FileNotFoundError:
        raise SettingsError(key, str(path), "there is no such file") from None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        raise SettingsError(key, str(path), "is truncated or damaged, or no .npz file (numpy.savez writes them)") from None
    except OSError as error:
        raise SettingsError(key, str(path), f"cannot be read ({error.strerror})") from None
    except SettingsError:
        raise
    except ValueError:
        raise SettingsError(key, str(path), "holds no arrays of NumPy's") from None
