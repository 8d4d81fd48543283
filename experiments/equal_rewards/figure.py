"""Equal rewards: between two outcomes of one reward a strictly convex f-divergence keeps the reference's ratio, at every beta.

Source: GX-Chen et al. 2025, arXiv 2510.20817, for both KLs; here for every divergence, and not for total variation.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima, series
from experiments.harness.claims import Claim, at_least, at_most
from experiments.harness.series import points
from rlkl import divergences
from rlkl.reports import plots
from rlkl.tasks.bandits import bandit

REWARD, REFERENCE = (1.0, 1.0, 0.6, 0.2), (0.36, 0.04, 0.3, 0.3)
BETAS = np.geomspace(0.02, 5.0, 120)


def table(runs: None) -> pd.DataFrame:
    """Log ratio of the two equally rewarded arms over beta, and how much mass they have."""
    task = bandit(REWARD, REFERENCE)
    rows = points("reference", "log ratio", [0], [math.log(REFERENCE[0] / REFERENCE[1])])
    for name in optima.DIVERGENCES:
        log_pi = optima.over_beta(task, name, BETAS)
        rows += points("log ratio", name, BETAS, log_pi[:, 0] - log_pi[:, 1])
        rows += points("mass", name, BETAS, np.exp(log_pi[:, :2]).sum(1))
    return series.frame(rows)


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    kept = series.value(drawn, "reference", "log ratio")
    apart = {name: series.largest((series.of(drawn, "log ratio", name)["y"] - kept).abs()) for name in optima.DIVERGENCES}
    mass = {name: series.of(drawn, "mass", name)["y"] for name in optima.DIVERGENCES}
    found = [
        at_most(f"{divergences.REGISTRY[name].formula}: largest change of the log ratio", apart[name], 1e-9)
        for name in optima.DIVERGENCES
        if name != "total_variation"
    ]
    moved = series.smallest(series.largest(y) - series.smallest(y) for y in mass.values())
    return [
        *found,
        at_least("TV(pi, pi_ref), not strictly convex: largest change", apart["total_variation"], 0.5),
        at_least("while beta moves the mass of both: least range over the divergences", moved, 0.2),
    ]


def draw(drawn: pd.DataFrame) -> Figure:
    """The ratio stays; the mass moves."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.6))
        left, right = figure.subplots(1, 2)
        for number, name in enumerate(optima.DIVERGENCES):
            colour, marker = plots.look(name)
            for axes, panel in ((left, "log ratio"), (right, "mass")):
                found = series.of(drawn, panel, name)
                axes.plot(found["x"], found["y"], color=colour, marker=marker, markevery=(3 * number, 25), ms=4,
                          label=divergences.REGISTRY[name].formula)  # fmt: skip
        left.axhline(series.value(drawn, "reference", "log ratio"), color=plots.BLACK, lw=0.6, ls=":")
        left.set(xscale="log", xlabel="beta", ylabel="log pi(1)/pi(2)", title="two arms of one reward", ylim=(0, 4.2))
        right.set(xscale="log", xlabel="beta", ylabel="pi(1) + pi(2)", title="their mass")
        figure.legend(*right.get_legend_handles_labels(), loc="outside right center")
        return figure
