"""Lay a report out as one A4 page in PDF: the figure, then tables and settings in small type."""

import io
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from rlkl.reports import plots
from rlkl.reports.one_page.contents import Contents
from rlkl.reports.one_page.page import values
from rlkl.reports.sheet import Sheet

WIDTH, HEIGHT = 595.0, 842.0  # of the page in points
MARGIN, GAP, TOP, FIGURE_HEIGHT = 36.0, 6.0, 76.0, 205.0
MONO = "DejaVu Sans Mono"
LONGEST_CELL, MOST_CHANGED = 56, 24  # characters, rows
ADVANCE = 0.602  # width of one of MONO's characters, in font sizes
BODY, SMALL = 6.4, 5.0  # font sizes in points
LEADING = 1.3  # distance of two lines, in font sizes
SETTINGS_COLUMNS = 3


class Box(NamedTuple):
    """A column of the page, in points from its left edge."""

    x: float
    width: float


FULL = Box(MARGIN, WIDTH - 2 * MARGIN)
LEFT = Box(MARGIN, FULL.width / 2 - GAP)
RIGHT = Box(MARGIN + FULL.width / 2 + GAP, FULL.width / 2 - GAP)


def document(report: Contents) -> bytes:
    """Return the report as a PDF of one page: the same folder gives the same bytes."""
    out = io.BytesIO()
    with plots.styled():
        page = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        rows, columns = (TOP, FIGURE_HEIGHT, HEIGHT - TOP - FIGURE_HEIGHT), (MARGIN, FULL.width, MARGIN)
        panels: Any = page.subfigures(3, 3, frameon=False, wspace=0.0, hspace=0.0, height_ratios=rows, width_ratios=columns)
        plots.draw_on(panels[1, 1], report.runs)
        _write(page, report)
        page.savefig(out, format="pdf", metadata=plots.UNDATED["pdf"])
    return out.getvalue()


def _write(page: Figure, report: Contents) -> None:
    """Write everything but the figure, from the top of the page down."""
    _text(page, FULL, 34.0, [report.title], 11.0, plots.STYLE["font.family"])
    _text(page, FULL, 51.0, [line for each in report.lines for line in _wrapped(each, FULL)][:3], BODY)
    y = TOP + FIGURE_HEIGHT + 6.0
    boxes = [FULL] if len(report.sheets) == 1 else [LEFT, RIGHT]
    y = max(_table(page, box, y, sheet) for box, sheet in zip(boxes, report.sheets, strict=True))
    changed = _changed(page, LEFT, y, report)
    command = "unknown: the folder has no record of its overrides" if report.command is None else report.command
    y = _section(page, RIGHT, y, "Command", _wrapped(command, RIGHT)[:8])
    named = ", ".join(f"{name} {version or 'unknown'}" for name, version in report.versions.items())
    y = _section(page, RIGHT, y, "Versions", _wrapped(named, RIGHT))
    citation = report.citation or "unknown: this installation has no CITATION.cff"
    y = _section(page, RIGHT, y, "Citation of rlkl", citation.split("\n"))
    _all_settings(page, max(changed, y), report)
    _text(page, FULL, HEIGHT - 26.0, [f"Folder {report.folder}. Written by {report.written_by}."], SMALL)


def _changed(page: Figure, box: Box, y: float, report: Contents) -> float:
    """Write the settings that differ from the defaults, and return where the next block starts."""
    title = "Settings that differ from the defaults"
    rows = [(setting.key, values(setting), setting.default or "-") for setting in report.changed]
    if rows:
        more = f"{len(rows) - MOST_CHANGED} more" if len(rows) > MOST_CHANGED else ""
        return _table(page, box, y, Sheet(title, 3, ("setting", "value", "default"), rows[:MOST_CHANGED], more))
    unknown = "unknown: the folder has no record of its settings (.hydra/config.yaml)"
    return _section(page, box, y, title, _wrapped(unknown if report.settings is None else "none", box))


def _all_settings(page: Figure, y: float, report: Contents) -> None:
    """Write all settings in columns, as many as there is room for, and say how many are left out."""
    room = int((HEIGHT - 40.0 - y - 1.6 * BODY) / (LEADING * SMALL))
    listed = [f"{setting.key}: {values(setting)}" for setting in report.settings or ()]
    if room < 1 or not listed:
        return
    if len(listed) > room * SETTINGS_COLUMNS:
        kept = room * SETTINGS_COLUMNS - 1
        listed = [*listed[:kept], f"... and {len(listed) - kept} more"]
    _text(page, FULL, y, ["All settings, as resolved"], BODY, weight="bold")
    rows, wide = -(-len(listed) // SETTINGS_COLUMNS), FULL.width / SETTINGS_COLUMNS
    for i in range(SETTINGS_COLUMNS):
        column = listed[i * rows : (i + 1) * rows]
        _text(page, Box(MARGIN + i * wide, wide - 6.0), y + 1.6 * BODY, column, SMALL)


def _table(page: Figure, box: Box, y: float, sheet: Sheet) -> float:
    return _section(page, box, y, sheet.title, [*table_lines(sheet), *_wrapped(sheet.note, box)])


def table_lines(sheet: Sheet) -> list[str]:
    """Return a table as lines of equally wide characters: names to the left, numbers to the right."""
    cells = (sheet.columns, *sheet.rows)
    lines = [[plots.label(cell, LONGEST_CELL, MONO).replace(r"\$", "$") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < sheet.names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _section(page: Figure, box: Box, y: float, title: str, lines: list[str]) -> float:
    """Write a titled block of lines, in smaller type where one is wide, and return where the next block starts."""
    titles = _wrapped(title, box)
    _text(page, box, y, titles, BODY, weight="bold")
    y += LEADING * BODY * len(titles) + 1.5
    size = max(SMALL, min(BODY, box.width / (ADVANCE * max(map(len, lines), default=1))))
    _text(page, box, y, lines, size)
    return y + LEADING * size * len(lines) + 5.0


def _wrapped(text: str, box: Box) -> list[str]:
    return textwrap.wrap(text, int(box.width / (ADVANCE * BODY)))


def _text(
    page: Figure, box: Box, y: float, lines: Iterable[str], size: float, family: str = MONO, weight: str = "normal"
) -> None:
    """Write lines in a column from a point on, in points from the page's top; what is wider than the column is cut."""
    longest = int(box.width / (ADVANCE * size) + 1e-6)
    for i, line in enumerate(lines):
        at = (box.x / WIDTH, 1 - (y + LEADING * size * i) / HEIGHT)
        page.text(*at, plots.label(line, longest, family), fontsize=size, family=family, weight=weight, va="top")
