"""The four panels of the figure."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.digits.optima import DIRECTIONS, FACT, FAVOURITE, REFERENCE
from experiments.digits.remedies import REMEDIES
from rlkl.reports import plots

COLOURS = {0.0: plots.BLACK, 0.25: plots.SKY, 0.57: plots.ORANGE, 1.0: plots.VERMILION}
LINES = {"kl_pi_ref": "-", "kl_ref_pi": "--"}
MARKERS = {"kl_pi_ref": "o", "kl_ref_pi": "s"}


def favourite_over_beta(axes: Axes, drawn: pd.DataFrame) -> None:
    """The probability of 7 over beta, for each weight and direction; marks were trained."""
    curves = drawn[drawn["panel"] == "curve"].sort_values("beta")
    runs = drawn[(drawn["panel"] == "run") & (drawn["remedy"] == "none")]
    for weight, colour in COLOURS.items():
        for direction in DIRECTIONS:
            line = curves[np.isclose(curves["weight"], weight) & (curves["direction"] == direction)]
            label = f"a = {weight:g}".replace("0.", ".") if direction == DIRECTIONS[0] else None
            axes.plot(line["beta"], line["favourite"], LINES[direction], color=colour, lw=1.0, label=label)
            dots = runs[np.isclose(runs["weight"], weight) & (runs["direction"] == direction)]
            for algorithm, face in (("exact", colour), ("rloo", "white")):
                own = dots[dots["algorithm"] == algorithm]
                size = 3.4 if algorithm == "exact" else 5.0
                axes.plot(own["beta"], own["favourite"], MARKERS[direction], color=colour, mfc=face, ms=size, mew=0.6,
                          zorder=3 if algorithm == "exact" else 2)  # fmt: skip
    axes.axhline(0.1, color=plots.GREY, ls=":", lw=0.8)
    axes.text(0.052, 0.115, "uniform", fontsize=6.3, color=plots.GREY)
    axes.set(xscale="log", ylim=(0.0, 1.03), xlabel="beta", ylabel="probability of 7", title="a favourite digit")
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2], [".05", ".1", ".2", ".5", "1", "2"])
    axes.minorticks_off()
    first = axes.legend(loc="upper right", fontsize=6.3)
    axes.add_artist(first)
    text = "lines, circles: KL(pi‖pi_ref)\ndashes, squares: KL(pi_ref‖pi)\nfull: exact, open: rloo"
    axes.text(0.3, 0.19, text, fontsize=6.0, va="center")


def digits(axes: Axes, drawn: pd.DataFrame) -> None:
    """The digits of the reference, of the biased optimum and of two remedies, under KL(pi‖pi_ref)."""
    rows = drawn[(drawn["panel"] == "digit") & (drawn["direction"] == DIRECTIONS[0])]
    shown = {"none": (plots.ORANGE, "aligned, a = .57, beta .5"), "- a log pi_ref, MARA 1": (plots.GREEN, "bias off, MARA")}
    at = np.arange(10)
    axes.bar(at - 0.27, REFERENCE, 0.27, color=plots.GREY, label="reference")
    for place, (remedy, (colour, label)) in enumerate(shown.items()):
        p = rows[rows["remedy"] == remedy].sort_values("digit")["p"]
        axes.bar(at[: len(p)] + 0.27 * place, p, 0.27, color=colour, label=label)
    axes.set(xticks=at, xlabel="digit", ylabel="probability", title="the digits, under KL(pi‖pi_ref)")
    axes.legend(loc="upper left", fontsize=6.3)


def remedies(axes: Axes, drawn: pd.DataFrame) -> None:
    """The probability of 7 (a small one is meant), and of a fact's right answer (a large one is), for each remedy."""
    rows = drawn[drawn["panel"] == "remedy"]
    for place, name in enumerate(reversed(REMEDIES)):
        for direction, height in zip(DIRECTIONS, (0.2, -0.2), strict=True):
            row = rows[(rows["remedy"] == name) & (rows["direction"] == direction)]
            axes.plot(row["favourite"], [place + height] * len(row), MARKERS[direction], color=plots.VERMILION, ms=5.6)
            axes.plot(row["rarest"], [place + height] * len(row), MARKERS[direction], color=plots.SKY, ms=3.4)
            axes.plot(row["fact"], [place + height] * len(row), MARKERS[direction], color=plots.BLUE, mfc="none", ms=3.4)
    axes.vlines(0.1, -0.6, len(REMEDIES) - 0.4, color=plots.GREY, ls=":", lw=0.8)
    axes.vlines(FACT.reference.max(), -0.6, len(REMEDIES) - 0.4, color=plots.BLUE, ls=":", lw=0.8)
    axes.text(0.115, -1.0, "uniform", fontsize=6.0, color=plots.GREY, va="center")
    axes.text(0.7, -1.0, "reference's right answer", fontsize=6.0, color=plots.BLUE, va="center", ha="center")
    axes.set_yticks(range(len(REMEDIES)), list(reversed(REMEDIES)), fontsize=6.3)
    axes.set(xlim=(-0.03, 1.03), ylim=(-1.4, len(REMEDIES) + 0.6), title="remedies, a = .57, beta .5")
    axes.set_xlabel("probability; circles: KL(pi‖pi_ref), squares: KL(pi_ref‖pi)", fontsize=7)
    for colour, face, label in (
        (plots.VERMILION, plots.VERMILION, "of 7"), (plots.SKY, plots.SKY, "of 0, the rarest"),
        (plots.BLUE, "white", "a fact's answer"),
    ):  # fmt: skip
        axes.plot([], [], "o", color=colour, mfc=face, ms=4, label=label)
    axes.legend(loc="upper center", ncols=3, fontsize=6.0, handletextpad=0.1, columnspacing=0.8)


def recovered(axes: Axes, drawn: pd.DataFrame) -> None:
    """The recovered weight, and the probability of 7 once it is subtracted, over the number of comparisons: middle 95%."""
    rows = drawn[drawn["panel"] == "pairs"]
    spread = rows.groupby("pairs")[["recovered", "favourite"]].quantile([0.025, 0.5, 0.975]).unstack()
    marks = (
        ("recovered", plots.PURPLE, "recovered a", 0.57),
        ("favourite", plots.VERMILION, "7, a subtracted", REFERENCE[FAVOURITE]),
    )
    for column, colour, label, truth in marks:
        if len(spread):
            low, middle, high = (spread[(column, q)] for q in (0.025, 0.5, 0.975))
            axes.fill_between(spread.index, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(spread.index, middle, "o-", color=colour, label=label)
        axes.axhline(truth, color=colour, ls=":", lw=0.8)
    axes.set(xscale="log", ylim=(0.0, 1.25), xlabel="comparisons", title="what finitely many comparisons tell")
    axes.set_ylabel("weight a, or probability")
    axes.legend(loc="upper right", fontsize=6.3, title="median and middle 95% of 60 data sets", title_fontsize=6.3)
