"""What the losses of RLHF libraries descend, from the committed table of the conformance matrix."""

import functools

import pandas as pd

from experiments.conformance import matrix, table
from pages import markdown

FLAGS = {
    "scaled_by_std": "divides by the spread of rewards",
    "padding": "changed by padding",
    "absent": "its coefficient changes nothing",
    "wrong_sign": "wrong sign",
}


@functools.cache
def _lines() -> tuple[matrix.Line, ...]:
    return tuple(matrix.lines(pd.read_csv(table.TABLE, keep_default_na=False, dtype=str)))


def conformance(library: str) -> str:
    """A library's settings: what each descends on one token, on sequences and past clamps, and what it logs."""
    lines = [line for line in _lines() if line.library == library]
    if not lines:
        raise ValueError(f"the conformance matrix has no {library!r}")
    parts = []
    for version in dict.fromkeys((line.version, line.how) for line in lines):
        rows = [_row(line) for line in lines if (line.version, line.how) == version]
        how = "run" if version[1] == "live" else "read, not run"
        header = ("setting", "one token", "x beta", "unequal lengths", "x beta", "large log-ratios", "notes", "what it logs")
        parts.append(f"**{markdown.cell(version[0])}**, {how}:\n\n" + markdown.table(header, rows))
    return "\n\n".join(parts)


def _row(line: matrix.Line) -> tuple[str, ...]:
    notes = [text for flag, text in FLAGS.items() if flag in line.flags]
    notes += [line.notes.removeprefix("clamped: its slope is changed, as by a clamp, where ").rstrip(".")] if line.notes else []
    cells = [line.descends.get(world, "raises") for world in ("bandit", "unequal", "extreme")]
    numbers = [line.coefficients.get(world, "") for world in ("bandit", "unequal")]
    metrics = [f"{name}: {text.partition(' on the policy')[0].partition(',')[0]}" for name, _, text in _metrics(line)]
    return (
        markdown.cell(line.setting), cells[0], numbers[0], cells[1], numbers[1], cells[2],
        markdown.cell("; ".join(notes)), markdown.cell("; ".join(metrics)),
    )  # fmt: skip


def _metrics(line: matrix.Line) -> list[tuple[str, str, str]]:
    return [metric.partition(": ") for metric in line.metrics.split("; ") if metric]


def conformance_commands(library: str) -> str:
    """The command that reproduces each row of a library."""
    return "\n".join(dict.fromkeys(f"$ {line.command}" for line in _lines() if line.library == library))


def conformance_libraries() -> list[str]:
    """The libraries of the matrix, in its order."""
    return list(dict.fromkeys(line.library for line in _lines()))


def conformance_cell(library: str, setting: str, world: str) -> str:
    """What beta is worth, over beta, in a setting of the newest version of a library."""
    matching = [line for line in _lines() if (line.library, line.setting) == (library, setting)]
    return max(matching, key=lambda line: [int(part) for part in line.version.split(".")]).coefficients[world]
