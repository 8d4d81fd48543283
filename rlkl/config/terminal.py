"""Standard output and standard error that escape what their encoding lacks."""

import io
import sys


def configure() -> None:
    """Have standard output and standard error escape what their encoding lacks; once a process, where a command starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
