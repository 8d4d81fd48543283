"""Distillation without a reward: where sums over the top k of KL(pi‖teacher) end, and what each placement of them descends.

With the terms outside the top k dropped, the sum in the loss is least where the student has 1/e of the teacher's mass on the
top k. The sampled token's log-ratio in the reward, counted if the token is in the top k, ends at the teacher's mass, as a tail
bucket does; and a sum in the reward teaches nothing on one state. All ends are closed forms, checked by gradient flow.

Sources: Agarwal et al. 2023, "On-policy distillation of language models" (GKD), arXiv 2306.13649; Gu et al. 2023, "MiniLLM",
arXiv 2306.08543; Lu and Thinking Machines Lab 2025, "On-policy distillation" (blog: k1 as the reward, discount 0);
verl-project/verl, issue 7856 (sum_T p log(p/q) over the teacher's top k, clamped at 0, and a tail bucket) and pull request 5041
(its note on reverse KL: unstable, the top-k mass falls). The formulas are derived in `one_state`.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.distillation import measured, verdicts
from experiments.distillation.measured import COUNT, TRAINED_K
from experiments.harness import series
from experiments.harness.claims import Claim
from rlkl.reports import plots
from rlkl.runs.load import Runs

LOOKS = {
    "teacher": (plots.BLACK, ":"),
    "dropped": (plots.VERMILION, "-"),
    "forward dropped": (plots.ORANGE, "-"),
    "renormalised": (plots.PURPLE, "-"),
    "bucket": (plots.GREEN, "-"),
}
NAMES = {
    "dropped": "KL(pi‖teacher), tail dropped",
    "forward dropped": "KL(teacher‖pi), tail dropped",
    "renormalised": "renormalised, either KL",
    "bucket": "bucket, either KL; sampled log-ratio of K in the reward",
}
WAYS = {
    "start": "uniform student, untrained",
    "top_k reward": "bucket, k = 2, in the reward",
    "dropped": "tail dropped, k = 2, in the loss",
    "renormalised": "renormalised, k = 2, in the loss",
    "bucket": "bucket, k = 2, in the loss",
    "k1 immediate": "k1 in the reward, immediate credit",
    "k1 reward_to_go": "k1 in the reward, reward-to-go",
}


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Every number that is drawn or claimed; divergences in nats."""
    rows = [*measured.over_k(), *measured.flows(quick), *measured.signs(quick), *measured.of_own_tokens(quick)]
    return series.frame([*rows, *measured.of_sequences(quick), *measured.of_runs(runs)])


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    return verdicts.claims(drawn)


def draw(drawn: pd.DataFrame) -> Figure:
    """Mass, KL and value at the end over k on one state, and KL of sequences at the end; outlined dots were trained by rlkl."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 5.0))
        # Rows of their own, since the labels of the last panel are wide.
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.2, 1.0))[:, 0]
        (mass, kl), (value, ways) = upper.subplots(1, 2), lower.subplots(1, 2)
        _lines(mass, drawn, "mass", ("teacher", *NAMES))
        mass.set(title="mass of the teacher's top k at the end", ylabel="pi(K)", ylim=(0.0, 1.05))
        mass.text(4.9, 0.83, "the teacher's mass", fontsize=6, va="top", color=LOOKS["bucket"][0])
        mass.text(12.0, 0.96, "all", fontsize=6.5, ha="center", va="top", color=plots.GREY)
        mass.text(8.0, 0.31, "the teacher's mass over e", fontsize=6.5, ha="center", va="top", color=LOOKS["dropped"][0])
        _lines(kl, drawn, "kl", tuple(NAMES))
        kl.set(title="KL(pi‖teacher) at the end", ylabel="nats", yscale="log", ylim=(1e-4, 8.0))
        _lines(value, drawn, "value", ("dropped", "forward dropped", "bucket"))
        kl.text(11.2, 1.4e-4, "bucket at k = 11 and all at k = 12: 0", fontsize=6.5, ha="right", color=plots.GREY)
        value.axhline(0.0, color=plots.GREY, lw=0.6, zorder=0)
        value.set(title="value of the sum at the end", ylabel="nats", ylim=(-0.42, 0.06))
        value.text(6.5, -0.315, "-q(K)/e", fontsize=7, color=LOOKS["dropped"][0], va="bottom")
        zero = "bucket, renormalised under it, all at k = 12: 0"
        value.text(1.0, 0.012, zero, fontsize=6.5, color=LOOKS["bucket"][0], va="bottom")
        value.text(6.3, -0.13, "q(K) log q(K)", fontsize=7, color=LOOKS["forward dropped"][0], va="top")
        _dots(mass, drawn, "run mass")
        _dots(kl, drawn, "run kl")
        for axes in (mass, kl, value):
            axes.set(xlabel=f"k, of {COUNT} tokens (q(K): the teacher's mass)", xticks=range(1, COUNT + 1))
        _ways(ways, drawn)
        handles, labels = mass.get_legend_handles_labels()
        title = "in the loss, on one state, from a uniform student; large outlined dots: trained by rlkl; small dots: exact"
        upper.legend(handles, labels, loc="outside lower center", ncols=2, title=title, title_fontsize=7.5)
        return figure


def _lines(axes: Axes, drawn: pd.DataFrame, panel: str, names: tuple[str, ...]) -> None:
    for name in names:
        colour, style = LOOKS[name]
        of = series.of(drawn, panel, name).sort_values("x")
        of = of[of["y"].abs() > 1e-12] if panel == "kl" else of
        label = NAMES.get(name, "_")
        cut, whole = of[of["x"] < COUNT], of[of["x"] == COUNT]  # apart: at k = 12 nothing is cut, and the end jumps
        marker = "." if style == "-" else None
        axes.plot(cut["x"], cut["y"], style, color=colour, label=label, marker=marker, ms=3)
        axes.plot(whole["x"], whole["y"], marker or style, color=colour, ms=3)


def _dots(axes: Axes, drawn: pd.DataFrame, panel: str) -> None:
    """What rlkl trained, at `TRAINED_K` tokens."""
    for name in series.names(drawn, panel):
        ended = series.of(drawn, panel, name)["y"]
        axes.plot(np.full(len(ended), TRAINED_K), ended, "o", color=LOOKS[name][0], mec="black", mew=0.5, ms=5, zorder=3)


def _ways(axes: Axes, drawn: pd.DataFrame) -> None:
    """KL(pi‖teacher) of sequences: a bar where it is exact, dots where it was trained."""
    for height, name in enumerate(reversed(WAYS)):
        exact, ended = (series.of(drawn, panel, name)["y"] for panel in ("sequences", "run sequences"))
        colour = LOOKS.get(name, (plots.BLUE, ""))[0] if name != "start" else plots.GREY
        axes.plot(exact, np.full(len(exact), height), "|", color=colour, ms=11, mew=2)
        axes.plot(ended, np.full(len(ended), height), "o", color=colour, mec="black", mew=0.5, ms=5)
        axes.axhline(height, color=plots.GREY, lw=0.3, alpha=0.5, zorder=0)
    axes.set(
        xscale="log",
        xlim=(1e-7, 30.0),
        xlabel="KL(pi‖teacher) at the end, nats",
        title="sequences of 3 tokens",
    )
    text = "bars: exact\ndots: trained\nblue: in the reward"
    axes.text(0.03, 0.66, text, transform=axes.transAxes, fontsize=6, va="center")
    axes.set_yticks(range(len(WAYS)), list(reversed(WAYS.values())), fontsize=6.5)
