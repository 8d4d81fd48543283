"""The matrix as people read it: a line for each setting, and a figure of every library's default.

`python -m experiments.conformance.matrix` draws matrix.png and matrix.pdf from conformance.csv.
"""

from typing import NamedTuple

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.conformance.table import FOLDER, TABLE
from rlkl.diagnostics.check.answer import title
from rlkl.reports import plots

SHOWN = ("bandit", "equal", "unequal", "extreme", "padded_right", "sampler", "groups_4")
SEMI, LENGTH = "the semi-gradient of each token's ", ", each sequence divided by its length"
SAMPLES, RATIO = (f" with the sampler's {what} in place of the policy's" for what in ("samples", "log-ratio"))


class Line(NamedTuple):
    """One setting of a library: what it descends in each world, in short words."""

    library: str
    version: str
    how: str
    setting: str
    says: str
    command: str
    descends: dict[str, str]
    coefficients: dict[str, str]
    flags: frozenset[str]
    notes: str
    metrics: str


def lines(table: pd.DataFrame) -> list[Line]:
    """The lines of a table, in its order."""
    groups = table.groupby(["library", "version", "setting"], sort=False, dropna=False)
    return [_line(rows) for _, rows in groups]


def _line(rows: pd.DataFrame) -> Line:
    first = rows.iloc[0]
    by_world = {row.world: row for row in rows.itertuples()}
    return Line(
        first.library, first.version, first.how, first.setting, first.says, first.command,
        {world: short(row.kind, row.divergence, row.descends) for world, row in by_world.items()},
        {world: _coefficient(row.kind, row.coefficient) for world, row in by_world.items()},
        frozenset(" ".join(rows["flags"]).split()),
        " ".join(dict.fromkeys(filter(None, rows["notes"]))),
        first.metrics,
    )  # fmt: skip


def short(kind: str, divergence: str, descends: str) -> str:
    """What a row descends, in a few words."""
    if kind == "inert":
        return "nothing"
    if kind == "none":
        return "no divergence"
    if kind == "raises":
        return "raises"
    text = descends.removesuffix(" (the states that follow are left out)")
    text = text.replace(SEMI, "semi ").replace("the gradient of E[1/length], no penalty at all", "E[1/length]")
    text = text.replace(": no divergence", "").replace(" (semi-gradient)", "").replace("each token's ", "semi ")
    text = text.replace(LENGTH, " / length").replace(SAMPLES, ", sampler's samples").replace(RATIO, ", sampler's log-ratio")
    return text.replace(", and the gradient of E[1/length]", " + E[1/length]")


def _coefficient(kind: str, value: str) -> str:
    return f"{float(value):.3g}" if kind in ("exact", "semi", "other") else ""


COLOURS = {
    "KL(pi‖pi_ref)": plots.look("kl_pi_ref")[0],
    "KL(pi_ref‖pi)": plots.look("kl_ref_pi")[0],
    "other": plots.ORANGE,
    "nothing": plots.GREY,
    "no divergence": "black",
}


def colour(text: str) -> tuple[float, float, float, float]:
    """The colour of a cell: a semi-gradient is the paler one of its divergence."""
    if text in ("nothing", "no divergence"):
        return to_rgba(COLOURS[text], 0.75)
    semi = text.startswith("semi ")
    name = text.removeprefix("semi ")
    return to_rgba(COLOURS.get(name, COLOURS["other"]), 0.35 if semi else 0.85)


def figure(table: pd.DataFrame) -> Figure:
    """What each library's default descends, world by world."""
    defaults = [line for line in lines(table) if line.setting.startswith("default")]
    with plots.styled():
        drawn = Figure(figsize=(6.75, 1.1 + 0.2 * len(defaults)))
        axes = drawn.subplots()
        for y, line in enumerate(defaults):
            for x, world in enumerate(SHOWN):
                if world in line.descends:
                    face = colour(line.descends[world])
                    axes.add_patch(Rectangle((x - 0.47, y - 0.42), 0.94, 0.84, facecolor=face, edgecolor="none"))
                    axes.text(x, y, line.coefficients[world], ha="center", va="center", fontsize=5)
        axes.set(xlim=(-0.5, len(SHOWN) - 0.5), ylim=(len(defaults) - 0.5, -0.5))
        axes.set_xticks(range(len(SHOWN)), [title(world).replace(" ", "\n", 1) for world in SHOWN], fontsize=6)
        axes.set_yticks(range(len(defaults)), [_label(line) for line in defaults], fontsize=6)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        handles = [Patch(color=to_rgba(COLOURS[name], 0.85), label=name) for name in ("KL(pi‖pi_ref)", "KL(pi_ref‖pi)")]
        handles += [
            Patch(color=to_rgba(COLOURS[name], 0.35), label=f"semi-gradient of {name}")
            for name in ("KL(pi‖pi_ref)", "KL(pi_ref‖pi)")
        ]
        handles += [Patch(color=to_rgba(COLOURS[name], 0.75), label=name) for name in ("other", "nothing", "no divergence")]
        drawn.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=6)
    return drawn


def _label(line: Line) -> str:
    """The library with its release, or the date of the commit that was read."""
    release = next((word.strip("()") for word in line.setting.split() if word.startswith("(v")), "")
    return f"{line.library} {release or line.version.rpartition(', ')[2]}"


if __name__ == "__main__":
    plots.save(figure(pd.read_csv(TABLE, keep_default_na=False, dtype=str)), FOLDER / "matrix", ("png",))
