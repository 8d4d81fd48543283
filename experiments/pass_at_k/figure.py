"""What raises pass@k: six methods at one pass@1, exact optima and trained policies, on prompts from easy to hard.

Given a prompt, pass@k is 1 - (1 - p)^k: it depends on the success probability p alone, not on how many correct answers there
are. So at one mean pass@1 a method changes pass@k only by how it spreads success over prompts. Twelve prompts have 36 wrong
and 4 correct answers each, with success probabilities of the reference from .005 to .5.

Sources: Chen et al. 2025, "Pass@k training for adaptively balancing exploration and exploitation of large reasoning models",
arXiv 2508.10751, and Walder and Karkhanis 2025, "Pass@k policy optimization: solving harder reinforcement learning problems",
arXiv 2505.15201, for the advantage; He et al. 2025, "Rewarding the unlikely: lifting GRPO beyond distribution sharpening",
arXiv 2506.02355, for the unlikeliness reward (as their code ranks); Gai et al. 2025, "Differential smoothing mitigates
sharpening and improves LLM reasoning", arXiv 2511.19942, for smoothing (its part for correct answers); Li et al. 2025, "The
choice of divergence: a neglected key to mitigating diversity collapse in reinforcement learning with verifiable reward",
arXiv 2509.07430, for KL(pi_ref‖pi) from the initial policy's samples. The optima are derived in `optima` and `fixed_points`.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.pass_at_k.measured import K, table
from experiments.pass_at_k.optima import METHODS
from experiments.pass_at_k.verdicts import claims, usual
from rlkl.reports import plots

__all__ = ["claims", "draw", "table"]

LOOKS = {
    "plain": (plots.BLUE, "o"), "pass@k": (plots.BLACK, "D"), "unlikeliness": (plots.GREEN, "^"),
    "smoothing": (plots.PURPLE, "v"), "entropy bonus": (plots.ORANGE, "P"), "KL(pi_ref‖pi)": (plots.VERMILION, "s"),
}  # fmt: skip
NAMES = {
    "plain": "plain: E[r] - beta KL(pi‖pi_ref)", "pass@k": "pass@8 advantage",
    "unlikeliness": "unlikeliness reward, weight .5",
    "smoothing": "smoothing of correct answers, weight .1", "entropy bonus": "entropy bonus, weight .1",
    "KL(pi_ref‖pi)": "KL(pi_ref‖pi) instead of KL(pi‖pi_ref)",
}  # fmt: skip


def draw(drawn: pd.DataFrame) -> Figure:
    """pass@k over k, success over prompts, pass@8 over the entropy among correct answers, and what each method changes."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 5.0))
        (over_k, over_prompts), (frontier, changes) = figure.subplots(2, 2)
        _over_k(over_k, drawn)
        _over_prompts(over_prompts, drawn)
        _frontier(frontier, drawn)
        _changes(changes, drawn)
        lines, labels = over_k.get_legend_handles_labels()
        title = "all at one mean pass@1, .477; lines and filled marks: exact optima; open marks: trained"
        figure.legend(lines, labels, loc="outside lower center", ncols=3, title=title, title_fontsize=7)
        return figure


def _over_k(axes: Axes, drawn: pd.DataFrame) -> None:
    passed = drawn[drawn["panel"] == "pass"]
    reference = passed[passed["method"] == "reference"].sort_values("k")
    axes.plot(reference["k"], reference["solved"], color=plots.GREY, ls=":")
    for method, (colour, marker) in LOOKS.items():
        curve = passed[passed["method"] == method].sort_values("k")
        axes.plot(curve["k"], curve["solved"], color=colour, marker=marker, ms=3, label=NAMES[method])
    axes.text(20, 0.5, "reference", color=plots.GREY, fontsize=7)
    axes.set(
        xscale="log", xlabel="k, samples of each prompt", ylabel="pass@k, mean over prompts", xlim=(0.9, 150), ylim=(0.1, 1.02)
    )
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    axes.minorticks_off()
    axes.set_title("pass@k at one pass@1")


def _over_prompts(axes: Axes, drawn: pd.DataFrame) -> None:
    for method, (colour, marker) in LOOKS.items():
        exact = drawn[(drawn["panel"] == "prompt") & (drawn["method"] == method)].sort_values("v")
        runs = drawn[(drawn["panel"] == "success") & (drawn["method"] == method)]
        axes.plot(exact["v"], exact["success"], color=colour, lw=1.0)
        axes.plot(runs["v"], runs["success"], marker, color=colour, ms=2.8, mfc="none", mew=0.5)
    exact = drawn[(drawn["panel"] == "prompt") & (drawn["method"] == "plain")]
    axes.plot(exact["v"], exact["v"], color=plots.GREY, ls=":")
    axes.text(0.12, 0.05, "reference", color=plots.GREY, fontsize=7)
    axes.set(xscale="log", xlabel="reference's success on the prompt", ylabel="success", ylim=(0.0, 1.0))
    axes.set_xticks([0.005, 0.02, 0.1, 0.5], [".005", ".02", ".1", ".5"])
    axes.minorticks_off()
    axes.set_title("spread over prompts; open marks: trained")


def _frontier(axes: Axes, drawn: pd.DataFrame) -> None:
    exact = drawn[(drawn["panel"] == "optimum") & drawn["method"].isin(list(METHODS))]
    own = usual(drawn)
    for method, (colour, marker) in LOOKS.items():
        curve = exact[exact["method"] == method].sort_values("strength")
        axes.plot(curve["among_correct"], curve["solved"], color=colour, lw=1.0, marker=marker, ms=2.5)
        if method in own.index:
            place = own.loc[method, "among_correct"], own.loc[method, "solved"]
            axes.plot(*place, marker, color=colour, ms=7, mec="white", mew=0.5)
    axes.set(xlabel="entropy among a prompt's correct answers, nats", ylabel=f"pass@{K}, mean over prompts")
    axes.set_title("diversity of correct answers is not pass@k")
    axes.text(0.97, 0.04, "small: strengths not in the legend", transform=axes.transAxes, ha="right", fontsize=7)


def _changes(axes: Axes, drawn: pd.DataFrame) -> None:
    own = usual(drawn)
    columns = {"among_correct": "entropy among\ncorrect", "among_wrong": "entropy among\nwrong", "kl": "KL(pi‖pi_ref)"}
    methods = [name for name in METHODS if name != "plain" and name in own.index]
    for place, column in enumerate(columns):
        for number, method in enumerate(methods):
            colour, marker = LOOKS[method]
            height = -place - 0.14 * (number - 2)
            change = own.loc[method, column] - own.loc["plain", column]
            axes.plot([0.0, change], [height, height], color=colour, lw=2.0)
            axes.plot(change, height, marker, color=colour, ms=4)
    axes.axvline(0.0, color=plots.GREY, lw=0.6)
    axes.set_yticks([-place for place in range(len(columns))], list(columns.values()))
    axes.set(xlabel="change against the plain optimum, nats", ylim=(-2.55, 0.55))
    axes.tick_params(axis="y", length=0)
    axes.set_title("what each method changes, and its price")
