"""Ctrl-C ends the command with one line and status 130, at whatever moment it comes. Files are whole at any moment (see
`runs.folder.files.write`), so that the process may end there and then."""

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
    """What SIGINT does. raises: whether the first is to be a KeyboardInterrupt; came: whether it was."""

    raises = False
    came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.came or not self.raises:
            end()
        self.came = True
        raise KeyboardInterrupt


_HANDLER = _Handler()


def install() -> None:
    """Let an interrupt end this process at once; what is imported and composed then cannot turn it into an error of its own.

    Where interrupts are ignored, as in the background of a script, they still are.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the first registered is the last called: all is done then
    signal.signal(signal.SIGINT, _HANDLER)
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            end()
        usual(unraisable)

    sys.unraisablehook = hook


def raise_first() -> None:
    """From here on the first interrupt raises KeyboardInterrupt, so that what has finished is recorded; a second one ends the
    process at once."""
    _HANDLER.raises = True


def came() -> bool:
    """Whether an interrupt was raised, whatever became of it."""
    return _HANDLER.came


def end() -> NoReturn:
    """End this process as interrupted."""
    with contextlib.suppress(OSError):  # a stream that is closed
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)
