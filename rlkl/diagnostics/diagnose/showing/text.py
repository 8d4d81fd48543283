"""A diagnosis on the console: sentences, tables, warnings, what was left out."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlkl.diagnostics.diagnose.faults import FAULTS, Warning
from rlkl.diagnostics.diagnose.showing.advice import ADVICE
from rlkl.diagnostics.diagnose.showing.answer import sentences, sources
from rlkl.diagnostics.diagnose.showing.numbers import reason
from rlkl.diagnostics.diagnose.showing.sheets import short_sheets
from rlkl.reports.console import console
from rlkl.reports.sheet import console_table

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis


def print_diagnosis(diagnosis: "Diagnosis") -> None:
    """Print a diagnosis."""
    _print(sources(diagnosis))
    for sentence in sentences(diagnosis):
        _print(sentence)
    for sheet in short_sheets(diagnosis):
        console.print()
        console.print_table(console_table(sheet))
        _print(sheet.note)
    console.print()
    for line in warning_lines(diagnosis.warnings):
        _print(line, indent=3)
    if diagnosis.left_out:
        console.print()
        _print("not said:")
    for each in diagnosis.left_out:
        _print(f"- {each.what}: {each.why}", indent=2)


def _print(text: str, indent: int = 0) -> None:
    """Print text in lines that end between words; all but the first are indented."""
    for line in textwrap.wrap(text, console.width, subsequent_indent=" " * indent, break_on_hyphens=False):
        console.print(line)


def warning_lines(warnings: list[Warning]) -> Iterator[str]:
    """The warnings as lines, with their numbers, thresholds and reasons."""
    yield f"{len(warnings) or 'no'} warning{'' if len(warnings) == 1 else 's'}{':' if warnings else ''}"
    for index, warning in enumerate(warnings, 1):
        yield f"{index}. {FAULTS[warning.name].title}: {warning.says}"
        yield f"   {reason(warning)}"
        yield f"   what to do: {ADVICE[warning.name]}; see docs/{warning.page}.md"
