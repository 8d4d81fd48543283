"""Set up standard output and standard error."""

import io
import sys


def configure() -> None:
    """Make standard output and standard error escape characters that their encoding lacks. Call it once a process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
