"""Collapse to be read: what of a policy's loss of variety is the objective's (the exact optimum) and what is the sampled
optimiser's, on a toy English whose sentences a person can read.

Sources: Kirk et al. 2024, "Understanding the effects of RLHF on LLM generalisation and diversity", arXiv 2310.06452; Cui et al.
2025, "The entropy mechanism", arXiv 2505.22617.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from experiments.collapse.measured import DIRECTIONS, table
from experiments.collapse.verdicts import claims
from rlkl import divergences
from rlkl.reports import plots

__all__ = ["claims", "draw", "table", "text"]

REWARDS = {"topic": "“dragon” earns 1", "ending": "! and ? earn 1, . earns ½"}
PANELS = {"entropy": "entropy (nats)", "distinct_2": "distinct-2", "typicality": "typicality a token", "reward": "E[r]"}
BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)
READ = (0.03, 0.3, 3.0)  # betas in the text
SIDE = {"kl_pi_ref": 0.84, "kl_ref_pi": 1.19}  # sampled runs stand beside their beta, so that directions do not overlap
HOLLOW: dict[str, Any] = {"mfc": "white", "ms": 3.5, "lw": 0.8}


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a reward, a column a number, over beta: lines are optima, full points exact training, hollow ones rloo's seeds."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 3.6))
        rows = figure.subplots(len(REWARDS), len(PANELS), sharex=True)
        for axes_of_row, (task, said) in zip(rows, REWARDS.items(), strict=True):
            for axes, column in zip(axes_of_row, PANELS, strict=True):
                _panel(axes, drawn[drawn["task"] == task], column)
            axes_of_row[0].set_ylabel(said)
        for axes, title in zip(rows[0], PANELS.values(), strict=True):
            axes.set_title(title)
        for axes in rows[-1]:
            axes.set_xlabel("beta")
        side_by_side = {tuple: HandlerTuple(None)}
        figure.legend(*_legend(), loc="outside lower center", ncols=5, columnspacing=1.4, handler_map=side_by_side)
        return figure


def _panel(axes, drawn: pd.DataFrame, column: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(BETAS, [f"{beta:g}".lstrip("0") for beta in BETAS])
    axes.minorticks_off()
    axes.axhline(drawn.loc[drawn["series"] == "reference", column].mean(), color=plots.GREY, lw=1.0)
    for direction in DIRECTIONS:
        colour, marker = plots.look(direction)
        own = drawn[drawn["direction"] == direction].sort_values("beta")
        line, points = (own[own["series"] == series] for series in ("optimum", "exact"))
        points = points[points["beta"].isin(BETAS)]
        sampled = own[own["series"] == "rloo"].groupby("beta")[column].agg(["mean", "min", "max"])
        spread = [sampled["mean"] - sampled["min"], sampled["max"] - sampled["mean"]]
        axes.plot(line["beta"], line[column], color=colour)
        axes.plot(points["beta"], points[column], marker, color=colour, ms=3.5)
        axes.errorbar(sampled.index * SIDE[direction], sampled["mean"], spread, fmt=marker, color=colour, **HOLLOW)


def _legend() -> tuple[list, list[str]]:
    """Handles and labels; both directions' points share one."""
    looks = [plots.look(direction) for direction in DIRECTIONS]
    lines = [Line2D([], [], color=colour) for colour, _ in looks]
    full, hollow = (
        tuple(Line2D([], [], color=colour, marker=marker, ls="", **style) for colour, marker in looks)
        for style in ({"ms": 3.5}, {"ms": HOLLOW["ms"], "mfc": HOLLOW["mfc"]})
    )
    optima = [f"optimum, {divergences.REGISTRY[direction].formula}" for direction in DIRECTIONS]
    labels = ["reference", *optima, "exact gradient", "rloo, mean and range of seeds"]
    return [Line2D([], [], color=plots.GREY, lw=1.0), *lines, full, hollow], labels


def text(drawn: pd.DataFrame) -> str:
    """A plain table to be read: of the topic task, the reference, the optima and the first seed's rloo, each with the sentence
    that the same uniform numbers make of it (the third: the first two differ little)."""
    lines = [f"beta  {'penalty':<13} {'policy':<10}entropy distinct-2 typicality  E[r]  sentence"]
    topic = drawn[(drawn["task"] == "topic") & (drawn["seed"].isna() | (drawn["seed"] == 0))]
    lines += [_line(row, "", "") for _, row in topic[topic["series"] == "reference"].iterrows()]
    for beta in READ:
        for direction in DIRECTIONS:
            at = topic[np.isclose(topic["beta"].astype(float), beta) & (topic["direction"] == direction)]
            formula = divergences.REGISTRY[direction].formula
            for series in ("optimum", "rloo"):
                lines += [_line(row, f"{beta:g}", formula) for _, row in at[at["series"] == series].iterrows()]
    return "\n".join(lines) + "\n"


def _line(row: pd.Series, beta: str, formula: str) -> str:
    numbers = f"{row['entropy']:>7.2f} {row['distinct_2']:>10.4f} {row['typicality']:>10.3f} {row['reward']:>5.3f}"
    return f"{beta:>4}  {formula:<13} {row['series']:<10}{numbers}  {row['sentence_3']}"
