"""Track runs in a separate process, because a tracker takes longer over a small run than its training takes.

Run as a module, this is that process. It imports the tracker but not jax.
"""

import contextlib
import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

from rlkl.config import terminal
from rlkl.errors import visible
from rlkl.runs.tracking.about import About
from rlkl.runs.tracking.tracker import Tracker


class BackgroundTracker:
    """Sends runs to a process that tracks them one after the other. After a failure it warns once and tracks no more.

    library: the tracker's, which the process imports while it waits. The process is in a session of its own, so that
    interrupting the command does not end it.
    """

    def __init__(self, warn: Callable[[str], None], library: str | None = None):
        self._warn = warn
        command = [sys.executable, "-m", __name__, *([library] if library else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def track(self, about: About, folder: Path) -> None:
        """Track the finished run, or the sweep, in a folder."""
        self.start(about, folder)
        self._send("finish", True, False)

    def start(self, about: About, folder: Path) -> "BackgroundTracker":
        """Start tracking a run; `log` and `finish` are then those of its `Tracker`."""
        self._send("start", about, folder)
        return self

    def log(self, columns: Mapping[str, Any]) -> None:
        """Log rows of the run that was started."""
        self._send("log", dict(columns))

    def finish(self, succeeded: bool) -> None:
        """Log the results of the run that was started; the process prints where its log is, once it ends."""
        self._send("finish", succeeded, True)

    def close(self) -> None:
        """Wait until all runs are tracked."""
        assert self.process.stdin is not None
        sys.stdout.flush()  # the process may print
        with contextlib.suppress(OSError):  # the process has ended, and buffered data cannot be sent
            self.process.stdin.close()
        self.process.wait()

    def _send(self, *message: Any) -> None:
        """Send a message. Waits while the pipe is full."""
        stream = self.process.stdin
        assert stream is not None
        if stream.closed:
            return
        try:
            pickle.dump(message, stream)
            stream.flush()
        except OSError as error:
            self._warn(
                f"the tracker's process has ended ({error.strerror}); training goes on untracked, its folder has everything"
            )
            self.close()


def draw(folder: Path) -> bytes:
    """Return the figure of the run or the sweep in a folder as the content of a PNG."""
    from rlkl.reports import plots

    return plots.png(folder)


def serve(stream: BufferedIOBase | BinaryIO, warn: Callable[[str], None]) -> list[str]:
    """Track the runs of the messages that are pickled in the stream, until it ends; each warning is given once.

    A run that is not finished then is closed as failed. Returns what tells the user where the logs are, for the runs of which
    this is to be printed.
    """
    warnings: set[str] = set()

    def warn_once(message: str) -> None:
        if message not in warnings:
            warnings.add(message)
            warn(message)

    tracker: Tracker | None = None
    notes = []
    while True:
        try:
            action, *arguments = pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            break
        if action == "start":
            about, folder = arguments
            tracker = Tracker(about, folder, warn_once, draw)
        elif action == "log" and tracker is not None:
            tracker.log(*arguments)
        elif action == "finish" and tracker is not None:
            succeeded, is_printed = arguments
            note, tracker = tracker.finish(succeeded), None
            notes += [note] if note and is_printed else []
    if tracker is not None:
        tracker.finish(succeeded=False)
    return notes


def main(libraries: list[str]) -> None:
    """Serve the messages on standard input."""
    terminal.configure()
    for name in libraries:
        with contextlib.suppress(ImportError):  # who uses it warns
            importlib.import_module(name)
    for note in serve(sys.stdin.buffer, lambda message: print(f"warning: {visible(message)}", file=sys.stderr, flush=True)):
        print(visible(note), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    terminal.end_process(0)
