"""Files of the store: written with a checksum of their content and their name, and read only where that holds."""

import errno
import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from rlkl.runs.folder import files as folder_files

LARGEST = 2**30  # bytes in a file of the store, packed or unpacked
FULL = (errno.ENOSPC, errno.EDQUOT)
SIZE = hashlib.sha256().digest_size
T = TypeVar("T")


class DamagedError(Exception):
    """A file of the store does not hold what it should; the message says why."""


class Faults:
    """What is wrong with the store that a command uses: the first damaged file and the first that cannot be written are said
    at once, the others are counted, and `close` says how many they were. Threads may share one."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._lock = say, threading.Lock()
        self._damaged, self._unwritten = set[Path](), set[Path]()

    def damaged(self, file: Path, why: str) -> None:
        """A file is there, and cannot be used."""
        self._note(self._damaged, file, f"the store's entry {file} is damaged ({why}); what it held is trained anew")

    def unwritten(self, file: Path, why: str) -> None:
        """A file cannot be written."""
        said = f"the store's entry {file} cannot be written ({why}); the same command would train it anew"
        self._note(self._unwritten, file, said)

    def close(self) -> None:
        """Say how many more there were."""
        for files, what in ((self._damaged, "are damaged"), (self._unwritten, "could not be written")):
            if len(files) > 1:
                self._say(f"{len(files) - 1} more of the store's entries {what}")

    def _note(self, files: set[Path], file: Path, said: str) -> None:
        with self._lock:
            first = not files
            files.add(file)
        if first:
            self._say(said)


def read(file: Path, parse: Callable[[bytes], T], faults: Faults) -> T | None:
    """What `parse` makes of a file's content; None where there is no such file, or where it is damaged, which `faults` hears.

    parse: raises `DamagedError`, or anything else, where the content is not what it should be.
    """
    try:
        return parse(_content(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # what was written to do harm may raise anything where it is unpacked
        faults.damaged(file, _reason(error))
        return None


def write(file: Path, content: bytes, faults: Faults) -> None:
    """Write a file, or tell `faults` why it cannot be written; raises `OSError` where the disk is full: the next could not be
    written either."""
    try:
        folder_files.write(file, _checksum(file, content) + content)
    except OSError as error:
        if error.errno in FULL:
            raise
        faults.unwritten(file, _reason(error))


def members(content: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The files of a .zip, in the order of their `names`; raises `DamagedError` where it holds others, or too much."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if sorted(info.filename for info in infos) != sorted(names):
            raise DamagedError("it lacks a file, or holds one of another name")
        if sum(info.file_size for info in infos) > LARGEST:  # no more than this size is ever unpacked of a member
            raise DamagedError("what it holds is too large")
        return {name: archive.read(name) for name in names}


def packed(leaves: Iterable[Any]) -> bytes:
    """Arrays as an .npz."""
    out = io.BytesIO()
    arrays: Mapping[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(out, **arrays)
    return out.getvalue()


def arrays(content: bytes) -> list[np.ndarray]:
    """The arrays that `packed` took; raises where the content holds anything else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [f"leaf_{i}.npy" for i in range(len(archive.infolist()))]
    return [np.lib.format.read_array(io.BytesIO(member), allow_pickle=False) for member in members(content, names).values()]


def check_arrays(found: Sequence[np.ndarray], like: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Raise `DamagedError` where arrays are not of these shapes and dtypes."""
    if [(x.shape, x.dtype) for x in found] != [(x.shape, x.dtype) for x in like]:
        raise DamagedError("its arrays are of other numbers, shapes or dtypes")


def _content(file: Path) -> bytes:
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DamagedError("it is no file")
    if about.st_size > LARGEST:
        raise DamagedError("it is too large")
    whole = file.read_bytes()
    if whole[:SIZE] != _checksum(file, whole[SIZE:]):
        raise DamagedError("its content and its checksum differ")
    return whole[SIZE:]


def _checksum(file: Path, content: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + b"\n" + content).digest()


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedError):
        return str(error)
    return (isinstance(error, OSError) and error.strerror) or f"it cannot be unpacked: {type(error).__name__}"
