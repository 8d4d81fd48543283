"""The cache of compiled programs: a folder of the user's, with a key of all that a program depends on."""

import contextlib
import os
import threading
from pathlib import Path

import jax

from rlkl.config import machine
from rlkl.runs.store import checked_files
from rlkl.runs.store.checked_files import Faults
from rlkl.runs.store.fingerprint import fingerprint
from rlkl.training import programs

MOST_BYTES = 2**30  # beyond which the programs that were used longest ago are deleted, down to half of it


def enable() -> None:
    """From now on, load programs from the user's cache folder and write new ones there, unless jax's own cache is off."""
    if jax.config.values["jax_enable_compilation_cache"]:
        programs.use_cache(ProgramFolder(machine.cache_folder() / "programs"))


class ProgramFolder:
    """A folder of compiled programs. A file that is damaged or cannot be written counts as missing, and nothing is said."""

    def __init__(self, folder: Path):
        self._folder, self._faults = folder, Faults(lambda message: None)
        self._environment = machine.numeric_environment()
        self._lock, self._pruned = threading.Lock(), False

    def read(self, key: str) -> bytes | None:
        """Return the content that was written under this key; None where there is none."""
        file = self._file(key)
        content = checked_files.read(file, bytes, self._faults)
        if content is not None:
            with contextlib.suppress(OSError):
                os.utime(file)
        return content

    def write(self, key: str, content: bytes) -> None:
        """Write this content under a key."""
        with contextlib.suppress(OSError):  # the disk is full
            checked_files.write(self._file(key), content, self._faults)
        with self._lock:
            if not self._pruned:
                self._prune()
            self._pruned = True

    def _file(self, key: str) -> Path:
        return self._folder / fingerprint(key, self._environment)

    def _prune(self) -> None:
        """Delete the files that were used longest ago, if there are too many bytes."""
        with contextlib.suppress(OSError):
            files = sorted(((file.stat(), file) for file in self._folder.iterdir()), key=lambda pair: pair[0].st_mtime)
            excess = sum(status.st_size for status, _ in files) - MOST_BYTES
            excess += MOST_BYTES // 2 if excess > 0 else 0
            for status, file in files:
                if excess <= 0:
                    break
                file.unlink(missing_ok=True)
                excess -= status.st_size
