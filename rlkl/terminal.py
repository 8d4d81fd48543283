"""Text as a terminal can show it: it obeys none of it, and what its encoding lacks is escaped, never raised."""

import io
import sys


def visible(text: str) -> str:
    """The text in one line, with each character that does not print escaped as Python's repr does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def configure() -> None:
    """Have standard output and standard error escape what their encoding lacks; once a process, where a command starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
