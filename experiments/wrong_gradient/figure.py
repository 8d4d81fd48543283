"""The wrong gradient: where each way of putting a KL penalty into a sampled gradient leads, without noise and trained, beside
the optimum of the divergence that it names and the optimum of what it descends.

The bandit has three arms. The ladder (ladder.json) has three rungs: stopping on the ground earns .5, the top earns 1, and each
rung costs a token that the reference draws one time in five: what a token does to the penalty of those after it matters.

Sources: Schulman 2020, "Approximating KL divergence", for k1, k2 and k3; Tang and Munos 2025, "On a few pitfalls in KL
divergence gradient estimation for RL", arXiv 2506.09477.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.wrong_gradient.measured import DIRECTIONS, TASKS, table
from experiments.wrong_gradient.verdicts import claims, of_seeds
from rlkl import divergences
from rlkl.diagnostics.audit import command
from rlkl.reports import plots

__all__ = ["claims", "draw", "table"]

COLOURS = dict(zip(("exact", "other", "semi", "none", "inert"), command.KINDS.values(), strict=True))
DESCENDS = {
    "exact": "descends what it names",
    "other": "another divergence",
    "semi": "a semi-gradient",
    "none": "no divergence's gradient",
    "inert": "nothing: it is zero",
}
PANELS = {"regret": "regret", "to_descended": "TV to the optimum\nof what it descends"}
LEAST = 1e-9  # total variation that is drawn at the axis' end
ENDS: dict[str, dict[str, Any]] = {
    "fixed point": {"marker": "D", "ms": 3.4, "label": "without noise: a fixed point"},
    "corner": {"marker": "D", "ms": 3.4, "mfc": "white", "label": "a corner: sequences are lost"},
    "ran away": {"marker": "X", "ms": 4.6, "mew": 0.3, "label": "where it was stopped, running away"},
}
GAP = 1.7  # rows between the directions


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a way, grouped by direction and by what it descends on the ladder; of each task its regret, and how far it ends
    from the optimum of what it descends. Diamonds are without noise, ticks trained seeds, bars their mean's 95% interval."""
    place = _places(drawn)
    seeds = of_seeds(drawn)
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 1.5 + 0.125 * len(place)))
        axes = figure.subplots(1, 2 * len(TASKS), sharey=True)
        columns = [(task, column) for task in TASKS.values() for column in PANELS]
        for panel, (task, column) in zip(axes, columns, strict=True):
            _panel(panel, drawn[drawn["task"] == task], seeds[seeds["task"] == task], place, column)
            panel.set(title=task if column == "regret" else " ", xlabel=PANELS[column])
        axes[0].set_yticks(list(place.values()), [way for _, way in place], fontsize=6)
        axes[0].set_ylim(min(place.values()) - 0.8, 2.0)
        for direction in DIRECTIONS:
            top = max(at for (own, _), at in place.items() if own == direction)
            said = f"named {divergences.REGISTRY[direction].formula}"
            left = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 0), "textcoords": "offset points", "ha": "right"}
            axes[0].annotate(said, (0, top + 1.0), va="center", fontsize=7, weight="bold", **left)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3, columnspacing=1.4)
        return figure


def _places(drawn: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Where each way stands: by direction, then by what it descends on the ladder, then in the order of the sweep."""
    reached = drawn[drawn["series"] == "descended"]
    place: dict[tuple[str, str], float] = {}
    at = 0.0
    for direction in DIRECTIONS:
        own = reached[(reached["direction"] == direction) & (reached["task"] == "ladder")]
        for kind in COLOURS:
            for way in own.loc[own["kind"] == kind, "way"]:
                place[direction, way] = at
                at -= 1.0
        at -= GAP
    return place


def _panel(axes, drawn: pd.DataFrame, seeds: pd.DataFrame, place: dict[tuple[str, str], float], column: str) -> None:
    axes.grid(axis="y", lw=0.3, color=plots.GREY, alpha=0.4)
    axes.tick_params(axis="y", length=0)
    at = lambda row: place[row["direction"], row["way"]]  # noqa: E731
    if column == "regret":
        axes.set_xscale("symlog", linthresh=1e-3, linscale=0.6)
        axes.set(xlim=(-3e-4, 0.7))
        axes.set_xticks([0, 1e-3, 1e-2, 1e-1], ["0", ".001", ".01", ".1"])
        for _, start in drawn[drawn["series"] == "reference"].iterrows():
            rows = [row for (direction, _), row in place.items() if direction == start["direction"]]
            axes.plot([start["regret"]] * 2, [min(rows) - 0.5, max(rows) + 0.5], color=plots.GREY, ls=":", lw=0.8)
        for _, way in seeds.iterrows():
            axes.plot([way["lower"], way["upper"]], [at(way)] * 2, color=COLOURS[way["kind"]], lw=0.9)
    else:
        axes.set(xscale="log", xlim=(LEAST / 3, 3.0))
        axes.set_xticks([LEAST, 1e-6, 1e-3, 1], ["≤$10^{-9}$", "$10^{-6}$", "$10^{-3}$", "1"])
    axes.minorticks_off()
    for _, row in drawn[drawn["series"] != "reference"].iterrows():
        look = ENDS[row["end"]] | {"label": None} if row["series"] == "descended" else {"marker": "|", "ms": 3.0, "mew": 0.5}
        x = row[column] if column == "regret" else np.maximum(row[column], LEAST)
        axes.plot(x, at(row), color=COLOURS[row["kind"]], ls="", **look)
        if row["series"] == "descended" and np.isnan(x):
            middle = {"xycoords": ("axes fraction", "data"), "ha": "center", "va": "center"}
            axes.annotate("none is known", (0.5, at(row)), fontsize=5, color=plots.GREY, **middle)


def _legend() -> list[Line2D]:
    colours = [Line2D([], [], color=COLOURS[kind], lw=3.0, label=said) for kind, said in DESCENDS.items()]
    ends = [Line2D([], [], color=plots.BLACK, ls="", **look) for look in ENDS.values()]
    seeds = Line2D([], [], color=plots.BLACK, lw=0.9, marker="|", ms=4, mew=0.5, label="trained: 5 seeds, 95% interval")
    start = Line2D([], [], color=plots.GREY, ls=":", lw=0.8, label="the reference, untrained")
    return [*colours, *ends, seeds, start]
