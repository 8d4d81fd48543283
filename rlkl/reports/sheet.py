"""Tables as text, shown on the console and on pages."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table


class Sheet(NamedTuple):
    """A table as text; the columns after the first `names` hold numbers."""

    title: str
    names: int
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def console_table(sheet: Sheet) -> Table:
    """The table for the console, without its note."""
    table = Table(title=sheet.title, title_justify="left")
    for index, name in enumerate(sheet.columns):
        table.add_column(name, justify="left" if index < sheet.names else "right")
    for row in sheet.rows:
        table.add_row(*row)
    return table
