"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, whose cells are Markdown: see `cell` for plain text."""
    header = list(header)
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def cell(text: str) -> str:
    """Plain text as a cell of a table, on one line."""
    return " ".join(text.split()).replace("|", "\\|")
