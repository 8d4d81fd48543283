"""Beta is the knob: coverage is decided by beta, rewards and reference together; either direction can hold one mode or both.

Source: GX-Chen et al. 2025, arXiv 2510.20817, figure 2 (rewards .75 and 1, log pi_ref -4.05 and -5.95).
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima, series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import points
from rlkl import divergences, tasks
from rlkl.exact import matching
from rlkl.reports import plots
from rlkl.tasks.bandits import bandit

BETA_STAR = (1.0 - 0.75) / (5.95 - 4.05)
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
BETAS = np.geomspace(0.005, 5.0, 241)
GAP = 0.25


def table(runs: None) -> pd.DataFrame:
    """Log ratio of the better mode to the likely one over beta; also where the reference likes both alike; who holds both."""
    task = tasks.build("bandit/two_modes").task
    alike = bandit([1.0, 1.0 - GAP, 0.0], [0.1, 0.1, 0.8])
    rows = []
    for name in optima.DIVERGENCES:
        log_pi = optima.over_beta(task, name, BETAS)
        with np.errstate(invalid="ignore"):
            rows += points("log ratio", name, BETAS, log_pi[:, 1] - log_pi[:, 0])
            share = np.exp(log_pi[:, :2])
        rows += points("lesser mode's share", name, BETAS, share.min(1) / share.sum(1))
        if name in DIRECTIONS:
            same = optima.over_beta(alike, name, BETAS)
            rows += points("equal mass", name, GAP / BETAS, same[:, 0] - same[:, 1])

    swap = matching.betas(task, divergences.REGISTRY["kl_pi_ref"], 0.0, lambda log_pi: log_pi[1] - log_pi[0])
    return series.frame([*rows, *points("swap", "kl_pi_ref", [0], swap)])


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    equal, swap = series.of(drawn, "equal mass", "kl_pi_ref"), series.value(drawn, "swap", "kl_pi_ref")
    found = [
        near("KL(pi‖pi_ref): the beta at which both modes weigh the same", swap, BETA_STAR, 1e-9),
        near("GX-Chen et al.'s number for it", swap, 0.1316, 5e-5),
        at_most("equal reference mass, KL(pi‖pi_ref): log ratio less gap/beta, the largest",
                series.largest((equal["y"] - equal["x"]).abs()), 1e-9),
    ]  # fmt: skip
    for name in DIRECTIONS:
        share = series.of(drawn, "lesser mode's share", name)["y"]
        ratio = series.of(drawn, "log ratio", name)["y"]
        label = divergences.REGISTRY[name].formula
        found += [
            at_least(f"{label}: at some beta both modes are held: largest share of the lesser", series.largest(share), 0.4),
            at_most(f"{label}: at some beta one is all: least share of the lesser", series.smallest(share), 0.02),
            at_least(f"{label}: both orders of the modes occur: largest log ratio", series.largest(ratio), 1.0),
            at_most(f"{label}: and smallest", series.smallest(ratio), -1.0),
        ]
    return found


def draw(drawn: pd.DataFrame) -> Figure:
    """Log ratio of two modes over beta; with equal reference mass; the lesser mode's share."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.7))
        ratio, share, equal = figure.subplots(1, 3)
        for name in optima.DIVERGENCES:
            for axes, panel in ((ratio, "log ratio"), (share, "lesser mode's share")):
                found = series.of(drawn, panel, name)
                bold = name in DIRECTIONS
                axes.plot(found["x"], found["y"], color=plots.look(name)[0], lw=1.6 if bold else 0.8, ls="-" if bold else "--",
                          label=divergences.REGISTRY[name].formula)  # fmt: skip
            if name in DIRECTIONS:
                found = series.of(drawn, "equal mass", name)
                equal.plot(found["x"], found["y"], color=plots.look(name)[0])
        ratio.axhline(0.0, color=plots.GREY, lw=0.6)
        ratio.axvline(BETA_STAR, color=plots.BLACK, ls=":", lw=0.8)
        ratio.annotate("beta*", (BETA_STAR, -2.8), xytext=(3, 0), textcoords="offset points", fontsize=7)
        ratio.set(xscale="log", xlabel="beta", ylabel="log pi(better)/pi(likely)", title="two modes", ylim=(-3, 8))
        share.set(xscale="log", xlabel="beta", ylabel="share of the lesser mode", title="who holds both", ylim=(0, 0.52))
        equal.set(xlabel="gap/beta", ylabel="log pi(1)/pi(2)", title="equal reference mass", xlim=(0, 10), ylim=(0, 10))
        figure.legend(*ratio.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure
