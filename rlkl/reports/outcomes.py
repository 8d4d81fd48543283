"""Tabulate the outcomes whose probability moved most from the reference to the policy."""

import math
import re
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table

from rlkl.reports.console import NARROWEST, PlainConsole, number
from rlkl.runs.folder import csv_text

MOST_SHOWN = 10
LEFT_OUT = re.compile(r"# (the \d+ least likely of \d+ outcomes are left out)\n\Z")


class Outcome(NamedTuple):
    """An outcome, its reward and its probabilities, NaN where unknown; policy_stderr: None where the policy's is exact."""

    name: str
    reward: float
    reference: float
    policy: float
    optimum: float
    policy_stderr: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """The outcome's numbers as text, in the order of COLUMNS."""
        reward, reference, policy, optimum = (
            number(None if math.isnan(value) else value) for value in (self.reward, self.reference, self.policy, self.optimum)
        )
        error = "" if self.policy_stderr is None else f" ± {number(self.policy_stderr)}"
        return reward, reference, policy + error, optimum


COLUMNS = ("reward", "reference", "policy", "optimum")


class Moved(NamedTuple):
    """The outcomes that moved most, the largest |policy - reference| first; title: how many of how many they are."""

    outcomes: list[Outcome]
    title: str
    note: str  # on outcomes that outcomes.csv lacks


def most_moved(outcomes_csv: bytes) -> Moved:
    """Return the MOST_SHOWN outcomes that moved most; raises `ValueError` for a damaged outcomes.csv.

    Outcomes that moved equally far stand in state order.
    """
    text = outcomes_csv.decode()
    columns = csv_text.loads(text)
    try:
        names = [name or "" for name in columns["outcome"]]
        numbers = [csv_text.numbers(columns[key]) for key in COLUMNS]
    except KeyError as error:
        raise ValueError(f"it lacks the column {error}") from None
    errors = csv_text.numbers(columns["policy_stderr"]) if "policy_stderr" in columns else [None] * len(names)
    rows = [Outcome(*row) for row in zip(names, *numbers, errors, strict=True)]
    known = [row for row in rows if not math.isnan(row.policy - row.reference)]
    shown = sorted(known, key=lambda row: -abs(row.policy - row.reference))[:MOST_SHOWN]
    count = f"all {len(rows)} outcomes" if len(shown) == len(rows) else f"{len(shown)} of {len(rows)} outcomes"
    left_out = LEFT_OUT.search(text)
    return Moved(shown, f"{count}, the largest |policy - reference| first", left_out[1] if left_out else "")


def outcomes_table(moved: Moved, console: PlainConsole) -> Table:
    """Return the table of outcomes, with long names cut to the console's width."""
    cells = [outcome.cells for outcome in moved.outcomes]
    widths = [max(map(cell_len, (name, *column))) for name, column in zip(COLUMNS, zip(*cells, strict=True), strict=True)]
    borders = 3 * (len(COLUMNS) + 1) + 1
    longest = console.width - sum(widths) - borders
    if longest < NARROWEST:  # the rows will be printed as lines
        longest = console.width - len("outcome ")
    table = Table(title=moved.title, title_justify="left", caption=moved.note or None, caption_justify="left")
    table.add_column("outcome", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", overflow="fold")
    for outcome, row in zip(moved.outcomes, cells, strict=True):
        table.add_row(console.cut(outcome.name, longest), *row)
    return table
