"""Write files of the store with a checksum of their name and content, and read them only where the checksum holds."""

import errno
import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from rlkl.runs.folder import files as folder_files

LARGEST = 2**30  # bytes in a file of the store, compressed or not
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CHECKSUM_SIZE = hashlib.sha256().digest_size
T = TypeVar("T")


class DamagedError(Exception):
    """A file of the store does not hold what was written; the message says why."""


class Faults:
    """Reports files of the store that are damaged or cannot be written: the first of each kind at once, the rest as a count.

    `close` reports the count. Threads may share an object. warn: prints a message.
    """

    def __init__(self, warn: Callable[[str], None]):
        self._warn, self._lock = warn, threading.Lock()
        self._damaged, self._unwritten = set[Path](), set[Path]()

    def damaged(self, file: Path, why: str) -> None:
        """Report a file that exists and cannot be used."""
        self._note(self._damaged, file, f"the store's entry {file} is damaged ({why}); what it held is trained anew")

    def unwritten(self, file: Path, why: str) -> None:
        """Report a file that cannot be written."""
        message = f"the store's entry {file} cannot be written ({why}); the same command would train it anew"
        self._note(self._unwritten, file, message)

    def close(self) -> None:
        """Report how many more files of each kind there were."""
        for files, what in ((self._damaged, "are damaged"), (self._unwritten, "could not be written")):
            if len(files) > 1:
                self._warn(f"{len(files) - 1} more of the store's entries {what}")

    def _note(self, files: set[Path], file: Path, message: str) -> None:
        with self._lock:
            first = not files
            files.add(file)
        if first:
            self._warn(message)


def read(file: Path, parse: Callable[[bytes], T], faults: Faults) -> T | None:
    """Read and parse a file of the store; returns None where it is missing, or damaged, which is reported to `faults`.

    parse: turns the content into the result, and raises `DamagedError` or any other exception if it cannot.
    """
    try:
        return parse(_content(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # unpacking a malicious file may raise anything
        faults.damaged(file, _reason(error))
        return None


def write(file: Path, content: bytes, faults: Faults) -> None:
    """Write a file of the store, or report to `faults` why it cannot be written; raises `OSError` only if the disk is full."""
    try:
        folder_files.write(file, content_checksum(file, content) + content)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        faults.unwritten(file, _reason(error))


def members(content: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each file in a .zip, in the order of `names`.

    Raises `DamagedError` if the archive holds other files, or too much.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if sorted(info.filename for info in infos) != sorted(names):
            raise DamagedError("it lacks a file, or holds one of another name")
        if sum(info.file_size for info in infos) > LARGEST:  # reading never unpacks more than the declared size
            raise DamagedError("what it holds is too large")
        return {name: archive.read(name) for name in names}


def unpack_arrays(content: bytes) -> list[np.ndarray]:
    """Return the leaves that `folder.files.pack_arrays` was given; raises an exception if the content holds anything else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [f"leaf_{i}.npy" for i in range(len(archive.infolist()))]
    return [np.lib.format.read_array(io.BytesIO(member), allow_pickle=False) for member in members(content, names).values()]


def check_arrays(arrays: Sequence[np.ndarray], like: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Raise `DamagedError` if the arrays differ from `like` in number, shape or dtype."""
    if [(x.shape, x.dtype) for x in arrays] != [(x.shape, x.dtype) for x in like]:
        raise DamagedError("its arrays are of other numbers, shapes or dtypes")


def _content(file: Path) -> bytes:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError("it is no file")
    if status.st_size > LARGEST:
        raise DamagedError("it is too large")
    data = file.read_bytes()
    checksum, content = data[:CHECKSUM_SIZE], data[CHECKSUM_SIZE:]
    if checksum != content_checksum(file, content):
        raise DamagedError("its content and its checksum differ")
    return content


def content_checksum(file: Path, content: bytes) -> bytes:
    """SHA-256 of a file's name and content."""
    return hashlib.sha256(file.name.encode() + b"\n" + content).digest()


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedError):
        return str(error)
    return (isinstance(error, OSError) and error.strerror) or f"it cannot be unpacked: {type(error).__name__}"
