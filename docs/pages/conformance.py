"""What the losses of RLHF libraries descend, from the committed table of the conformance matrix."""

import functools

import pandas as pd

from experiments.conformance import matrix, table
from pages import markdown

FLAGS = {
    "scaled_by_std": "divides by the spread",
    "padding": "changed by padding",
    "absent": "its coefficient changes nothing",
    "wrong_sign": "wrong sign",
}
CLAMPED = "clamped: its slope is changed, as by a clamp, where log(pi/pi_ref) is "


@functools.cache
def _lines() -> tuple[matrix.Line, ...]:
    return tuple(matrix.lines(pd.read_csv(table.TABLE, keep_default_na=False, dtype=str)))


def conformance(library: str) -> str:
    """A library's settings: what each descends on one token, on sequences and past clamps, and the flags."""
    parts = []
    for (version, how), lines in _versions(library).items():
        header = ("setting", "one token", "unequal lengths", "large log-ratios", "notes")
        title = f"**{markdown.cell(version)}**, {'run' if how == 'live' else 'read, not run'}:"
        parts.append(f"{title}\n\n{markdown.table(header, map(_row, lines))}")
    return "\n\n".join(parts)


def conformance_details(library: str) -> str:
    """What a library says of each setting, what it logs, and the command that reproduces the row."""
    parts = []
    for (version, _), lines in _versions(library).items():
        rows = [(markdown.cell(line.setting), markdown.cell(line.says), _logs(line), f"`{line.command}`") for line in lines]
        parts.append(f"{markdown.cell(version)}:\n\n" + markdown.table(("setting", "it says", "it logs", "command"), rows))
    return "\n\n".join(parts)


def _versions(library: str) -> dict[tuple[str, str], list[matrix.Line]]:
    """The lines of a library by version and by whether it was run."""
    versions: dict[tuple[str, str], list[matrix.Line]] = {}
    for line in _lines():
        if line.library == library:
            versions.setdefault((line.version, line.how), []).append(line)
    if not versions:
        raise ValueError(f"the conformance matrix has no {library!r}")
    return versions


def _row(line: matrix.Line) -> tuple[str, ...]:
    notes = [text for flag, text in FLAGS.items() if flag in line.flags]
    notes += [f"clamped {line.notes.removeprefix(CLAMPED).rstrip('.')}"] if line.notes.startswith(CLAMPED) else []
    cells = [_cell(line, world) for world in ("bandit", "unequal", "extreme")]
    return (markdown.cell(line.setting), *cells, markdown.cell("; ".join(notes)))


def _cell(line: matrix.Line, world: str) -> str:
    """What a setting descends in a world, and what beta is worth."""
    if world not in line.descends:
        return "raises" if "" in line.descends else "-"
    coefficient = line.coefficients[world]
    return markdown.cell(line.descends[world]) + (f" x {coefficient}" if coefficient else "")


def _logs(line: matrix.Line) -> str:
    metrics = [metric.partition(": ") for metric in line.metrics.split("; ") if metric]
    short = [f"`{name}`: {text.partition(' on the policy')[0].partition(', the mean of')[0]}" for name, _, text in metrics]
    return markdown.cell("; ".join(short))


def conformance_libraries() -> list[str]:
    """The libraries of the matrix, in its order."""
    return list(dict.fromkeys(line.library for line in _lines()))


def conformance_cell(library: str, setting: str, world: str) -> str:
    """What beta is worth, over beta, in a setting of the newest version of a library."""
    matching = [line for line in _lines() if (line.library, line.setting) == (library, setting)]
    return max(matching, key=lambda line: [int(part) for part in line.version.split(".")]).coefficients[world]
