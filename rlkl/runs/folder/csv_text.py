"""CSV as rlkl writes it and as it reads back: text stays text, an empty text is no missing cell, floats keep every bit."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Text that is empty, starts as a note would, has blanks that readers strip, or holds a separator.
_QUOTED = re.compile(r'\A\Z|\A[#\s]|\s\Z|[",\r\n]')
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\n]*))([,\n])')


def dumps(columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """CSV text of these rows, with a last line `# note` where there is one.

    None and NaN are empty cells; an empty text and one that starts with `#` are quoted, so that neither is taken for a missing
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
    """The columns of what `dumps` wrote, by name: text as it was, None where a cell is missing; notes are left out.

    Raises `ValueError` for text that is no such table, or only the beginning of one.
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
    at = 0
    while at < len(text):
        if not rows[-1] and text[at] == "#":
            at = text.index("\n", at) + 1
            continue
        found = _CELL.match(text, at)
        if found is None:
            raise ValueError(f"it cannot be read from its character {at} on")
        quoted, plain, separator = found.groups()
        rows[-1].append(quoted.replace('""', '"') if quoted is not None else plain or None)
        rows += [[]] if separator == "\n" else []
        at = found.end()
    return rows[:-1]


def numbers(cells: Sequence[str | None]) -> list[float]:
    """Cells as floats, NaN where one is missing; raises `ValueError` for text that is no number."""
    return [math.nan if cell is None else float(cell) for cell in cells]
