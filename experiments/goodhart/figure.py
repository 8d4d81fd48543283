"""Goodhart: a heavy-tailed reward error takes the gold reward from the optimum under KL(pi‖pi_ref), and a light one does not.

Sources: Kwa, Thomas and Garriga-Alonso 2024, "Catastrophic Goodhart: regularizing RLHF with KL divergence does not mitigate
heavy-tailed reward misspecification", arXiv 2407.14503 (the policies that raise the tail, and the theorems on heavy and light
tails); Gao, Schulman and Hilton 2022, "Scaling laws for reward model overoptimization", arXiv 2210.10760 (best of n with a
normal error). The closed forms of other penalties' optima, the threshold in beta and all numbers on a grid are derived here.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.goodhart import numbers
from experiments.goodhart.verdicts import claims
from rlkl.reports import plots
from rlkl.runs.load import Runs

__all__ = ["claims", "draw", "table"]
OLIVE, BROWN, INDIGO = "#7A7A00", "#7F4F24", "#332288"  # for the lower row, where orange and purple are no depths
DEPTH_COLOURS = dict(zip(numbers.DEPTHS, (plots.ORANGE, plots.VERMILION, plots.PURPLE), strict=True))
LINES = [("normal", numbers.DRAWN, plots.BLUE, "normal error")]
LINES += [
    ("student_t", tail, DEPTH_COLOURS[tail], f"t error, 3 degrees, to probability 1e{round(np.log10(tail))}")
    for tail in numbers.DEPTHS
]
RUNS = {
    "exact, exact, kl_pi_ref": (plots.BLACK, "x", 5, "exact gradients, KL(pi‖pi_ref)"),
    "rloo, full, kl_pi_ref": (INDIGO, "v", 4, "rloo, penalty over all arms in the loss"),
    "rloo, k1, kl_pi_ref": (BROWN, "o", 3, "rloo, k1 in the reward"),
    "rloo, full, pearson": (plots.SKY, "P", 4, "rloo, chi2(pi‖pi_ref)"),
}
METHODS = {
    "best of n": (plots.GREEN, "best of n"),
    "clipped 0.9": (OLIVE, "KL(pi‖pi_ref), reward\nclipped at its 90% quantile"),
    "pearson": (plots.SKY, "chi2(pi‖pi_ref)"),
    "kl_pi_ref": (plots.VERMILION, "KL(pi‖pi_ref)"),
}


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Exact optima (panels by what they are matched at, "curve" over the strength), and where runs ended ("run")."""
    return pd.concat([numbers.exact(quick), _trained(runs)], ignore_index=True)[numbers.COLUMNS]


def _trained(runs: Runs) -> pd.DataFrame:
    """A row a run: what it reached, and its own optimum."""
    summary = runs.summary
    distribution = summary.get("override.task.error", pd.Series(index=summary.index, dtype=object)).fillna("student_t")
    return pd.DataFrame({
        "panel": "run", "method": summary["algorithm"] + ", " + summary["estimator"] + ", " + summary["divergence"],
        "distribution": distribution, "steps": summary["steps"],
        "tail": summary["override.task.tail"].astype(float), "strength": summary["beta"], "gold": summary["gold_reward"],
        "error": summary["reward"] - summary["gold_reward"], "kl_pi_ref": summary["kl_pi_ref"],
        "kl_ref_pi": summary["kl_ref_pi"].astype(float), "seed": summary["seed"], "proxy": summary["reward"],
        "optimum_proxy": summary["optimum_reward"], "optimum_gold": summary["optimum_gold_reward"],
        "optimum_kl_pi_ref": summary["optimum_kl_pi_ref"], "regret": summary["regret"],
    })  # fmt: skip


def draw(drawn: pd.DataFrame) -> Figure:
    """Gold reward and error over KL(pi‖pi_ref) by the error's tail; gold reward by method; what training reaches."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 5.2))
        (gold, error), (methods, trained) = figure.subplots(2, 2)
        for axes, column in ((gold, "gold"), (error, "error")):
            _by_tail(axes, drawn, column)
        gold.set(ylabel="E[gold], sd", title="optimum under KL(pi‖pi_ref): gold reward", ylim=(3e-8, 30))
        error.set(ylabel="E[error], sd of gold", title="optimum under KL(pi‖pi_ref): error", ylim=(1e-2, 3e11))
        places = ((8e-4, 0.12), (1.2e-3, 0.0065), (6e-4, 2.8e-4), (6e-4, 6e-7))
        for (*_, colour, name), place in zip(LINES, places, strict=True):
            gold.text(*place, name, color=colour, fontsize=6.5)
        short, heights = ("normal", "t to 1e-6", "t to 1e-12", "t to 1e-24"), (0.9, 35.0, 1.6e3, 2e6)
        for (*_, colour, _), name, height in zip(LINES, short, heights, strict=True):
            error.text(55.0, height, name, color=colour, fontsize=6.5, ha="right", va="center")
        raised = drawn[drawn["panel"] == "raised tail"]
        error.plot(raised["kl_pi_ref"], raised["error"], "*", color=plots.BLACK, ms=7, mec="white", mew=0.4)
        text = "stars: no optima; a t error without end,\nits tail beyond x raised to probability x^-0.8,\nx = 1e6, 1e4, 1e2"
        error.text(0.03, 0.98, text, transform=error.transAxes, fontsize=6.5, va="top")
        _by_method(methods, drawn)
        _runs(trained, drawn[drawn["panel"] == "run"])
        return figure


def _by_tail(axes: Axes, drawn: pd.DataFrame, column: str) -> None:
    """A column over KL(pi‖pi_ref) along the optima under KL(pi‖pi_ref), a line an error."""
    curves = drawn[(drawn["panel"] == "curve") & (drawn["method"] == "kl_pi_ref")]
    for distribution, tail, colour, _ in LINES:
        curve = curves[(curves["distribution"] == distribution) & (curves["tail"] == tail)].sort_values("kl_pi_ref")
        axes.plot(curve["kl_pi_ref"], curve[column], color=colour)
    axes.set(xscale="log", yscale="log", xlabel="KL(pi‖pi_ref), nats", xlim=(3e-4, 60))


def _by_method(axes: Axes, drawn: pd.DataFrame) -> None:
    """E[gold] over KL(pi‖pi_ref) by method, with a Student t error; with a normal one under KL(pi‖pi_ref) as a dotted line."""
    curves = drawn[(drawn["panel"] == "curve") & (drawn["tail"] == numbers.DRAWN) & (drawn["kl_pi_ref"] > 1e-6)]
    for method, (colour, name) in METHODS.items():
        curve = curves[(curves["method"] == method) & (curves["distribution"] == "student_t")].sort_values("kl_pi_ref")
        axes.plot(curve["kl_pi_ref"], curve["gold"], color=colour, label=name)
    light = curves[(curves["method"] == "kl_pi_ref") & (curves["distribution"] == "normal")].sort_values("kl_pi_ref")
    axes.plot(light["kl_pi_ref"], light["gold"], color=plots.BLUE, ls=":", label="KL(pi‖pi_ref), normal error")
    title = "gold reward by method, t error to 1e-12"
    axes.set(xscale="log", xlim=(0.02, 20), ylim=(-0.03, 1.3), xlabel="KL(pi‖pi_ref), nats", ylabel="E[gold], sd", title=title)
    axes.legend(loc="upper left", fontsize=6)


def _runs(axes: Axes, ran: pd.DataFrame) -> None:
    """The proxy that training reaches over the tail's depth, and the exact optimum's, under both penalties."""
    chosen = ran[
        (ran["distribution"] == "student_t") & (ran["strength"] <= 1.0) & (ran["steps"] != 250) & (ran["steps"] != 4000)
    ]
    for method, (colour, marker, size, name) in RUNS.items():
        own = chosen[chosen["method"] == method].sort_values("tail")
        if method in ("rloo, k1, kl_pi_ref", "rloo, full, pearson"):
            optimum = colour if method.endswith("pearson") else plots.GREY
            axes.plot(own["tail"], own["optimum_proxy"], color=optimum, lw=0.9)
        axes.plot(own["tail"], own["proxy"], marker, color=colour, label=name, ms=size)
    axes.set(xscale="log", yscale="log", ylabel="E[gold + error], sd of gold", ylim=(0.7, 3e6))
    axes.set_xlabel("probability of the error's last cell; falls to the right")
    axes.set_title("trained (markers) and optimal (lines)")
    axes.invert_xaxis()
    axes.legend(loc="upper left", title="beta 1; chi2: beta .76", title_fontsize=6.5, alignment="left")
    axes.text(3e-8, 1500.0, "optimum under KL(pi‖pi_ref)", color=plots.GREY, fontsize=6.5, ha="right")
