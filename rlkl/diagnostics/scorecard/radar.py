"""The radar figure of a scorecard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlkl.diagnostics.scorecard.grade import HEADINGS, SCORES, Grade, GradedPenalty
from rlkl.reports import plots


def radar_figure(entries: Sequence[GradedPenalty]) -> Figure:
    """A radar for each penalty. If there is one candidate, its outline is repeated in the radars of the shipped penalties."""
    candidates = [entry for entry in entries if entry.penalty.candidate]
    across = min(3, len(entries))
    down = -(-len(entries) // across)
    angles = 2.0 * np.pi * np.arange(len(SCORES)) / len(SCORES)
    with plots.styled():
        figure = Figure(figsize=(2.25 * across, 2.35 * down))
        for i, entry in enumerate(entries):
            axes: Any = figure.add_subplot(down, across, i + 1, projection="polar")
            axes.set_theta_offset(np.pi / 2.0)
            axes.set_theta_direction(-1)
            axes.set_xticks(angles, [HEADINGS[name] for name in SCORES], fontsize=6)
            axes.tick_params(axis="x", pad=5)
            axes.set_yticks([0.25, 0.5, 0.75, 1.0], [])
            axes.set_ylim(0.0, 1.0)
            for ring in (0.5, 1.0):
                axes.text(0.5 * angles[1], ring, f"{ring:g}", ha="center", va="center", fontsize=5, color=plots.GREY)
            axes.spines["polar"].set_visible(False)
            axes.grid(lw=0.4, color=plots.GREY, alpha=0.5)
            colour = plots.VERMILION if entry.penalty.candidate else plots.BLUE
            _outline(axes, angles, entry.grade, color=colour, lw=1.3, marker="o", ms=2.5, fill=True)
            if len(candidates) == 1 and not entry.penalty.candidate:
                _outline(axes, angles, candidates[0].grade, color=plots.VERMILION, lw=0.8, ls="--", fill=False)
            title = plots.label(entry.penalty.name).replace(" ", "\n", 1)
            axes.set_title(title + (" *" if entry.biased else ""), fontsize=7.5, pad=9)
        legend = [f"dashed: {plots.label(candidates[0].penalty.name)}"] if len(candidates) == 1 and len(entries) > 1 else []
        legend += ["* descends something else than the divergence it names"] if any(entry.biased for entry in entries) else []
        figure.supxlabel("     ".join(legend), fontsize=6.5)
    return figure


def _outline(axes: Any, angles: np.ndarray, grade: Grade, fill: bool, **look: Any) -> None:
    """Draw a closed polygon through the defined scores, and a dash near the centre for each undefined score."""
    values = np.array(list(grade.scores.values()))
    defined = ~np.isnan(values)
    order = np.append(np.flatnonzero(defined), np.flatnonzero(defined)[:1])
    axes.plot(angles[order], values[order], clip_on=False, **look)
    if fill:
        axes.fill(angles[order], values[order], color=look["color"], alpha=0.15, lw=0)
        for angle in angles[~defined]:
            axes.text(angle, 0.12, "–", ha="center", va="center", fontsize=8)
