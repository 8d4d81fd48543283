"""Track finished runs in a separate process, because a tracker takes longer over a small run than its training takes.

Run as a module, this is that process. It imports the tracker but not jax.
"""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from rlkl.config import terminal
from rlkl.errors import visible
from rlkl.runs.tracking.about import About
from rlkl.runs.tracking.tracker import Tracker


class BackgroundTracker:
    """Sends finished runs to a process that tracks them in turn. After a failure it warns once and tracks no more."""

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        command = [sys.executable, "-m", __name__]  # in a session of its own: interrupting the sweep must not end it
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def track(self, about: About, folder: Path) -> None:
        """Track the finished run, or the sweep, in a folder. Waits while the pipe is full."""
        stream = self.process.stdin
        assert stream is not None
        if stream.closed:
            return
        try:
            pickle.dump((about, folder), stream)
            stream.flush()
        except OSError as error:
            self._warn(
                f"the tracker's process has ended ({error.strerror}); the sweep goes on untracked, its folder has everything"
            )
            self.close()

    def close(self) -> None:
        """Wait until all runs are tracked."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended, and buffered data cannot be sent
            self.process.stdin.close()
        self.process.wait()


def draw(folder: Path) -> bytes:
    """Return the figure of the run or the sweep in a folder as the content of a PNG."""
    from rlkl.reports import plots

    return plots.png(folder)


def serve(stream: BufferedIOBase | BinaryIO, warn: Callable[[str], None]) -> None:
    """Track each run that is pickled in the stream, until it ends; each warning is given once."""
    warnings: set[str] = set()

    def warn_once(message: str) -> None:
        if message not in warnings:
            warnings.add(message)
            warn(message)

    while True:
        try:
            about, folder = pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            return
        Tracker(about, folder, warn_once, draw).finish(succeeded=True)


if __name__ == "__main__":
    terminal.configure()
    serve(sys.stdin.buffer, lambda message: print(f"warning: {visible(message)}", file=sys.stderr, flush=True))
