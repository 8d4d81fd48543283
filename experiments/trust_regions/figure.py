"""Trust regions and corrections of sampled training, each to its end: how fast a rare good token is found, and what is lost.

The bandit's best of ten arms has a reference probability of .008; the top of the ladder (of `wrong_gradient`) costs three
tokens of probability .2. The samplers are the policy of 0, 1, 4 and 16 batches ago, and the policy itself at temperature .8,
which never becomes the policy. KL(pi‖pi_ref) is in the reward.

At the optimum of E[r] - beta KL(pi‖pi_ref) all continuations of a state have the same return r - beta log(pi/pi_ref), so that
what weighs advantages has no gradient there, whatever the sampler, but for what a baseline adds. What is masked for good never
gets there, and a penalty that no advantage multiplies moves it.

Sources: Qi et al. 2026, "Rethinking the trust region in LLM reinforcement learning", arXiv 2602.04879, for ratios and rare
tokens; Cui et al. 2025, "The entropy mechanism of reinforcement learning for reasoning language models", arXiv 2505.22617, for
kl_cov.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.trust_regions import paths
from experiments.trust_regions.measured import RLKL, table
from experiments.trust_regions.methods import SAMPLERS
from experiments.trust_regions.verdicts import claims
from rlkl.reports import plots

__all__ = ["claims", "draw", "table"]

COLOURS = dict(zip(SAMPLERS, (plots.GREY, plots.SKY, plots.BLUE, plots.BLACK, plots.VERMILION), strict=True))
KINDS = {"surrogate": "surrogates, ratio to the sampler", "weights": "no ratio: weights and masks"}
NEVER = 2.0 * paths.STEPS
LEAST = 1e-8  # regret that is drawn at the axis' end
COLUMNS = {
    "half": "steps to half of the\noptimum's success",
    "success": "success at the end,\nover the optimum's",
    "regret": "regret at the end",
    "entropy": "entropy at the end,\nless the optimum's",
}


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a method, a block of rows a task, a panel a number; marks are means of seeds, lines go from least to largest."""
    drawn = drawn[(drawn["kind"] != RLKL) & drawn["sampler"].isin(list(SAMPLERS))]
    heights = [len(_places(drawn[drawn["task"] == task])) + 2.4 for task in paths.TASKS]
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 1.5 + 0.13 * sum(heights)))
        grid = figure.subplots(len(paths.TASKS), len(COLUMNS), sharex="col", gridspec_kw={"height_ratios": heights})
        for axes, task in zip(grid, paths.TASKS, strict=True):
            of_task = drawn[drawn["task"] == task]
            place = _places(of_task)
            for panel, column in zip(axes, COLUMNS, strict=True):
                _panel(panel, of_task, place, column)
            _names(axes[0], of_task, place, task)
        for panel, column in zip(grid[-1], COLUMNS, strict=True):
            panel.set_xlabel(COLUMNS[column])
        handles = [Line2D([], [], ls="", label=_said(name), color=COLOURS[name], **_mark(name)) for name in SAMPLERS]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2, handletextpad=0.2)
        return figure


def _mark(sampler: str) -> dict[str, Any]:
    return {"marker": "D" if "temperature" in sampler else "o", "ms": 3.0, "mec": "none"}


def _said(sampler: str) -> str:
    return sampler.replace("temperature", "the policy at temperature") if "temperature" in sampler else sampler


def _places(drawn: pd.DataFrame) -> dict[str, float]:
    """The height of each method: in the order of the table, with a gap between surrogates and weights."""
    place: dict[str, float] = {}
    height = 0.0
    for kind in KINDS:
        for name in dict.fromkeys(drawn.loc[drawn["kind"] == kind, "method"]):
            place[name] = height
            height -= 1.0
        height -= 1.2
    return place


def _names(axes, drawn: pd.DataFrame, place: dict[str, float], task: str) -> None:
    axes.set_yticks(list(place.values()), list(place), fontsize=6)
    beside = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 0), "textcoords": "offset points", "ha": "right"}
    for kind, words in KINDS.items():
        heights = [place[name] for name in drawn.loc[drawn["kind"] == kind, "method"]]
        if heights:
            said = f"{task}: {words}"
            axes.annotate(said, (0, max(heights) + 0.95), va="center", fontsize=6.5, weight="bold", **beside)


def _panel(axes, drawn: pd.DataFrame, place: dict[str, float], column: str) -> None:
    axes.grid(axis="y", lw=0.3, color=plots.GREY, alpha=0.4)
    axes.set_ylim(min(place.values(), default=0.0) - 0.7, 1.4)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(list(place.values()), [""] * len(place))
    values = drawn.assign(x=_drawn_at(drawn[column], column))
    for number, (sampler, colour) in enumerate(COLOURS.items()):
        offset = 0.26 - 0.13 * number
        for name, seeds in values[values["sampler"] == sampler].groupby("method")["x"]:
            at = place[str(name)] + offset
            axes.plot([seeds.min(), seeds.max()], [at, at], color=colour, lw=0.7)
            axes.plot(seeds.mean(), at, color=colour, **_mark(sampler))
    if column == "half":
        axes.set(xscale="log", xlim=(25, NEVER * 1.5))
        axes.set_xticks([50, 200, 1000, NEVER], ["50", "200", "1,000", "never"])
    elif column == "regret":
        axes.set(xscale="log", xlim=(LEAST / 2, 1.0))
        axes.set_xticks([LEAST, 1e-5, 1e-3, 1e-1], ["≤$10^{-8}$", "$10^{-5}$", ".001", ".1"])
    else:
        axes.axvline(1.0 if column == "success" else 0.0, color=plots.GREY, ls=":", lw=0.7)
    axes.minorticks_off()


def _drawn_at(values: pd.Series, column: str) -> np.ndarray:
    """The numbers as they are drawn: what never happened beyond the last step, regrets of rounding at the axis' end."""
    numbers = values.to_numpy(float)
    if column == "half":
        return np.where(np.isnan(numbers), NEVER, numbers)
    return np.maximum(numbers, LEAST) if column == "regret" else numbers
