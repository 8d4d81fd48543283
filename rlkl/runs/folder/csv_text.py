"""Write and read CSV so that text stays text, empty text differs from a missing cell, and floats keep every bit."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Text to quote: it is empty, starts like a note, has blanks that readers strip, or holds a separator.
_QUOTED = re.compile(r'\A\Z|\A[#\s]|\s\Z|[",\r\n]')
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\n]*))([,\n])')


def dumps(columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """Return rows as CSV text, with a last line `# note` if there is a note.

    None and NaN become empty cells. Empty text and text that starts with `#` are quoted, so that they are not read as a missing
    cell or a note. Floats are written as Python prints them.
    """
    lines = [",".join(map(_cell, row)) for row in (columns, *rows)]
    return "\n".join([*lines, *([f"# {note}"] if note else []), ""])


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    text = str(value.item() if isinstance(value, np.generic) else value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def loads(text: str) -> dict[str, list[str | None]]:
    """Return the columns of text that `dumps` wrote, by name, with None for missing cells and without notes.

    Raises `ValueError` for text that is not such a table, or only the beginning of one.
    """
    names, *rows = _rows(text) or [[]]
    if not names or None in names or len(set(names)) < len(names):
        raise ValueError("it has no line of different names")
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"it has a line of other than {len(names)} cells")
    return {str(name): [row[i] for row in rows] for i, name in enumerate(names)}


def _rows(text: str) -> list[list[str | None]]:
    if text and not text.endswith("\n"):
        raise ValueError("its last line is not whole")
    if '"' not in text:
        return [[cell or None for cell in line.split(",")] for line in text.split("\n")[:-1] if not line.startswith("#")]
    rows: list[list[str | None]] = [[]]
    position = 0
    while position < len(text):
        if not rows[-1] and text[position] == "#":
            position = text.index("\n", position) + 1
            continue
        cell = _CELL.match(text, position)
        if cell is None:
            raise ValueError(f"it cannot be read from its character {position} on")
        quoted, plain, separator = cell.groups()
        rows[-1].append(quoted.replace('""', '"') if quoted is not None else plain or None)
        rows += [[]] if separator == "\n" else []
        position = cell.end()
    return rows[:-1]


def numbers(cells: Sequence[str | None]) -> list[float]:
    """Return cells as floats, NaN where one is missing; raises `ValueError` for text that is not a number."""
    return [math.nan if cell is None else float(cell) for cell in cells]
