"""The JSON values of a file: a line each (JSON lines), the entries of a list, or one document over several lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.errors import SettingsError

LONGEST_LINE = 2**28  # bytes; a longer line is a file of another kind


class Value(NamedTuple):
    """A JSON value, and where it stands, as in `run.jsonl, line 7`."""

    where: str
    content: Any


def json_values(path: Path, source: str) -> Iterator[Value]:
    """The values of a file one after another; those of a list are its entries. source: the file's name in messages.

    Raises `SettingsError` for a line that is no JSON. Only a document over several lines is read at once.
    """
    with path.open("rb") as file:
        is_first = True
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            if line.isspace():
                continue
            where = f"{source}, line {number}"
            if len(line) == LONGEST_LINE:
                raise SettingsError(where, "", f"is longer than {LONGEST_LINE // 2**20} MiB")
            try:
                content = _parsed(where, line)
            except SettingsError:
                if not is_first:
                    raise
                content = _parsed(where, line + file.read())  # one document over several lines
            is_first = False
            if isinstance(content, list):
                yield from (Value(f"{where}, entry {entry}", each) for entry, each in enumerate(content, 1))
            else:
                yield Value(where, content)


def _parsed(where: str, text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SettingsError(where, "", "is no text in UTF-8") from None
    except (ValueError, RecursionError):
        ends = "" if text.endswith(b"\n") else "; the file ends in it: is it truncated?"
        raise SettingsError(where, "", f"is no JSON{ends}") from None
