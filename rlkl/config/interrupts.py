"""End the command with one line and exit status 130 when it is interrupted (Ctrl-C).

The process may end at any moment, because no file is ever half written (see `runs.folder.files.write`).
"""

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


class _Handler:
    """Handler of SIGINT. raises: whether the first one raises KeyboardInterrupt; interrupted: whether one has been raised."""

    raises = False
    interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted or not self.raises:
            exit_interrupted()
        self.interrupted = True
        raise KeyboardInterrupt


_HANDLER = _Handler()


def install() -> None:
    """Make an interrupt end this process at once, so that no library can turn it into an error of its own.

    Interrupts that are ignored, as in the background of a script, stay ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # registered first, so called last, when all else is done
    signal.signal(signal.SIGINT, _HANDLER)
    default_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            exit_interrupted()
        default_hook(unraisable)

    sys.unraisablehook = hook


def raise_first() -> None:
    """Make the next interrupt raise KeyboardInterrupt, so that finished jobs are recorded; a second one ends the process."""
    _HANDLER.raises = True


def was_interrupted() -> bool:
    """Tell whether an interrupt raised KeyboardInterrupt, even if other code caught it."""
    return _HANDLER.interrupted


def exit_interrupted() -> NoReturn:
    """End this process at once, with the line and the exit status of an interrupted command."""
    with contextlib.suppress(OSError):  # a stream that is closed
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)
