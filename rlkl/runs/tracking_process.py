"""Finished runs tracked by a process of its own: wandb takes longer over a small run than its training did, and a sweep would
wait for it. Run as a module it is that process, which imports wandb but not jax."""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

from rlkl.config import terminal
from rlkl.errors import visible
from rlkl.runs.tracking import About, Tracker


class BackgroundTracker:
    """Tracks what it is given, in turn; after a failure it warns once and stays silent."""

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        command = [sys.executable, "-m", __name__]  # in a session of its own: an interrupted sweep's runs are tracked, too
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def track(self, about: About, folder: Path, columns: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Track a finished run: its history's columns, `step` among them, and its summary. Waits while the pipe is full."""
        given = self._process.stdin
        assert given is not None
        if given.closed:
            return
        try:
            pickle.dump((about, folder, dict(columns), dict(summary)), given)
            given.flush()
        except OSError as error:
            self._warn(f"wandb's process has ended ({error.strerror}); the sweep goes on untracked, its folder has everything")
            self.close()

    def close(self) -> None:
        """Wait until all is tracked."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what is left cannot be sent to a process that has ended
            self._process.stdin.close()
        self._process.wait()


def serve(given: BufferedIOBase | BinaryIO, say: Callable[[str], None]) -> None:
    """Track each run that is given until there are no more; what goes wrong is said once."""
    said: set[str] = set()

    def warn(message: str) -> None:
        if message not in said:
            said.add(message)
            say(message)

    while True:
        try:
            about, folder, columns, summary = pickle.load(given)
        except (EOFError, pickle.UnpicklingError):
            return
        tracker = Tracker(about, folder, warn)
        tracker.log(columns)
        tracker.finish(summary)


if __name__ == "__main__":
    terminal.configure()
    serve(sys.stdin.buffer, lambda message: print(f"warning: {visible(message)}", file=sys.stderr, flush=True))
