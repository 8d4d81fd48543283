"""The panels of the figure."""

from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from experiments.harness import series
from experiments.preference_collapse.settings import BETAS, COUNTS, FAVOURING, REFERENCES
from rlkl.divergences import REGISTRY
from rlkl.reports import plots

COLOURS = dict(zip(BETAS, (plots.VERMILION, plots.ORANGE, plots.GREEN, plots.BLUE, plots.PURPLE), strict=True))


def shares(axes: Axes, drawn: pd.DataFrame, direction: str) -> None:
    """The share in the optimum against the annotators' share, a curve a beta; dots and rings were trained."""
    axes.plot([0.0, 0.5], [0.0, 0.5], ":", color=plots.BLACK, lw=1.0)
    for beta in BETAS:
        curve = series.of(drawn, direction, f"{beta:g}")
        axes.plot(curve["x"], curve["y"], color=COLOURS[beta], label=f"{beta:g}")
        exact, sampled = (series.of(drawn, f"trained, {direction}", f"{kind} {beta:g}") for kind in ("exact", "sampled"))
        axes.plot(exact["x"], exact["y"], "o", color=COLOURS[beta], ms=4, mec="white", mew=0.4)
        axes.plot(sampled["x"], sampled["y"], "x", color=COLOURS[beta], ms=4)
    if direction == "kl_pi_ref":
        found = series.of(drawn, "trained, matching", "sampled")
        axes.plot(found["x"], found["y"], "+", color=plots.BLACK, ms=6, mew=0.9)
    axes.legend(title="beta", loc="upper left", fontsize=6.5, title_fontsize=6.5, handlelength=1.2)
    axes.set(title=f"{REGISTRY[direction].formula}, uniform reference", xlabel="annotators who prefer the minority's answer",
             ylabel="its share in the optimum", xlim=(0.0, 0.5), ylim=(0.0, 0.52))  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, 0))


def marks() -> list[Line2D]:
    """What the lines and marks of the upper panels are, for a legend."""
    looks: dict[str, dict[str, Any]] = {
        "the annotators' share": {"ls": ":", "color": plots.BLACK},
        "trained, exact": {"marker": "o", "ls": "", "color": plots.GREY},
        "trained, rloo": {"marker": "x", "ls": "", "color": plots.GREY},
        "matching, rloo": {"marker": "+", "ls": "", "color": plots.BLACK, "ms": 6},
    }
    return [Line2D([], [], label=label, **look) for label, look in looks.items()]


def references(axes: Axes, drawn: pd.DataFrame) -> None:
    """The minority's share over beta for three references, and where each has the annotators' share."""
    for q, style in zip(REFERENCES, ("--", "-", "-."), strict=True):
        curve = series.of(drawn, "reference", f"{q:g}")
        axes.plot(curve["x"], curve["y"], style, color=plots.BLACK)
        at = (10.0, curve["y"].iloc[-1])
        axes.annotate(f"reference {q:.0%}", at, xytext=(0, 4), textcoords="offset points", ha="right", fontsize=7)
        even = series.value(drawn, "break-even", "kl_pi_ref", q)
        if 0.0 < even < 10.0:
            axes.plot([even], [FAVOURING], "o", color=plots.BLACK, ms=5, zorder=3)
            left = even < 1.0
            axes.annotate(f"beta {even:g}", (even, FAVOURING), xytext=(-6 if left else 6, 4 if left else -10),
                          textcoords="offset points", ha="right" if left else "left", fontsize=7)  # fmt: skip
    axes.axhline(FAVOURING, ls=":", color=plots.BLACK, lw=1.0)
    axes.text(0.085, FAVOURING - 0.012, f"annotators {FAVOURING:.0%}", fontsize=7, va="top")
    axes.axvline(1.0, color=plots.GREY, lw=0.6)
    axes.set(xscale="log", xlabel="beta", ylabel="share in the optimum", ylim=(0.0, 0.76),
             title=f"{REGISTRY['kl_pi_ref'].formula}, three references")  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))


def pairs(axes: Axes, drawn: pd.DataFrame) -> None:
    """Mean and standard deviation of the share over data sets, by the number of pairs."""
    for beta in (1.0, 0.5):
        found, colour = series.of(drawn, "pairs", f"{beta:g}"), COLOURS[beta]
        axes.plot(found["x"], found["y"], color=colour)
        low, high = (np.maximum(found["y"] + sign * found["error"], 0.0) for sign in (-1.0, 1.0))
        axes.fill_between(found["x"], low, high, color=matplotlib.colors.to_rgba(colour, 0.18), lw=0)
        axes.axhline(series.value(drawn, "pairs, limit", f"{beta:g}"), ls=":", color=colour, lw=1.0)
        trained = series.of(drawn, "trained, pairs", f"{beta:g}")
        axes.errorbar(trained["x"], trained["y"], trained["error"], fmt="o", color=colour, ms=4, mec="white", mew=0.4, lw=1.0)
        axes.annotate(f"beta {beta:g}", (COUNTS[-1], found["y"].iloc[-1]), xytext=(-2, 6), textcoords="offset points",
                      ha="right", color=colour, fontsize=7)  # fmt: skip
    what = ("10% of annotators, uniform reference", "line, band: mean and s.d. over data sets", "dotted: infinitely many",
            "dots: mean of trained, s.e.")  # fmt: skip
    axes.text(0.98, 0.97, "\n".join(what), transform=axes.transAxes, fontsize=6.5, va="top", ha="right")
    axes.set(xscale="log", xlabel="pairs", ylabel="share in the optimum", ylim=(0.0, 0.21), yticks=np.arange(5) / 20,
             xticks=list(COUNTS), xticklabels=[str(count) for count in COUNTS],
             title=f"{REGISTRY['kl_pi_ref'].formula}, reward fitted to pairs")  # fmt: skip
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
