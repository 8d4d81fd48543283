"""Tails: what a penalty leaves to a poorly rewarded arm, e^(-gap/beta) under KL(pi‖pi_ref), beta/gap under KL(pi_ref‖pi).

Source: the optima in closed form, p e^(r/beta)/Z and beta p/(L - r), p = pi_ref.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima, series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import points
from rlkl import divergences
from rlkl.reports import plots
from rlkl.runs.load import Runs
from rlkl.tasks.bandits import bandit

BETA = 0.1
GAPS = np.concatenate([[0.0], np.geomspace(0.01, 100.0, 120)])
SHOWN = ("kl_pi_ref", "kl_ref_pi", "hellinger", "neyman", "jensen_shannon")
THIN = 1e-9  # reference mass of the arms that the lines are drawn through
TRAINED = 8.0  # beta below the best; farther down, KL(pi‖pi_ref)'s own gradient is too small for 2,000 steps
SLOPES = {"kl_ref_pi": -1.0, "hellinger": -2.0, "neyman": -0.5}


def table(runs: Runs) -> pd.DataFrame:
    """pi/pi_ref by gap/beta, relative to the best arm's: exact optima, and policies that were trained."""
    own = runs.summary["override.task.reward"].iloc[0].strip("[]").split(",")
    shown = np.full(len(GAPS), THIN / len(GAPS))  # so thin that the others' optimum is as without them
    reference = np.concatenate([shown, np.full(len(own), (1.0 - THIN) / len(own))])
    task = bandit(np.concatenate([-GAPS, [float(reward) for reward in own]]), reference)
    rows = []
    for name in SHOWN:
        log_ratio = (optima.over_beta(task, name, np.array([BETA]))[0] - np.asarray(task.log_reference[0]))[: len(GAPS)]
        rows += points("ratio", name, GAPS[1:] / BETA, np.exp(log_ratio[1:]))
        rows += points("log ratio to the best", name, GAPS[1:] / BETA, log_ratio[1:] - log_ratio[0])
    for _, graded in runs.summary.iterrows():
        ends = runs.outcomes[runs.outcomes["run"] == graded["run"]]
        reward = np.array([float(x) for x in graded["override.task.reward"].strip("[]").split(",")])
        gap, name = (reward.max() - reward) / graded["beta"], graded["divergence"]
        rows += points("trained", name, gap[1:], (ends["policy"] / ends["policy"].iloc[0])[1:])
        rows += points("trained, optimum", name, gap[1:], (ends["optimum"] / ends["optimum"].iloc[0])[1:])
    return series.frame(rows)


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    log = series.of(drawn, "log ratio to the best", "kl_pi_ref")
    floor = series.of(drawn, "ratio", "kl_ref_pi")
    least = 1.0 / (GAPS.max() / BETA + 1.0)
    found = [
        at_most("KL(pi‖pi_ref): log of the tail plus gap/beta, the largest", series.largest((log["y"] + log["x"]).abs()), 1e-6),
        at_least(
            "KL(pi_ref‖pi): least pi/pi_ref over its floor beta/(r_max - r_min + beta)",
            series.smallest(floor["y"]) / least,
            1.0,
        ),
    ]
    for name, slope in SLOPES.items():
        tail = series.of(drawn, "ratio", name)
        label = divergences.REGISTRY[name].formula
        found.append(near(f"{label}: log-log slope from gap = 100 beta", series.slope(tail[tail["x"] >= 100.0]), slope, 0.02))
    for name in ("kl_pi_ref", "kl_ref_pi"):
        both = [series.of(drawn, panel, name)["y"].to_numpy() for panel in ("trained", "trained, optimum")]
        near_best = series.of(drawn, "trained", name)["x"].to_numpy() <= TRAINED
        apart = series.largest(np.abs(np.log(both[0] / both[1]))[near_best])
        label = f"{divergences.REGISTRY[name].formula}: trained log ratio off the optimum's, to gap = {TRAINED:g} beta"
        found.append(at_most(label, apart, 0.02))
    return found


def draw(drawn: pd.DataFrame) -> Figure:
    """pi/pi_ref of an arm by how many beta it lies below the best; lines are optima, points trained."""
    with plots.styled():
        figure = Figure(figsize=(plots.COLUMN, 2.8))
        axes = figure.subplots()
        for name in SHOWN:
            colour, marker = plots.look(name)
            log = series.of(drawn, "log ratio to the best", name)
            axes.plot(log["x"], np.exp(log["y"]), color=colour, label=divergences.REGISTRY[name].formula)
            found = series.of(drawn, "trained", name)
            axes.plot(found["x"], found["y"], marker, color=colour, label=None)
        axes.set(xscale="log", yscale="log", xlabel="gap/beta", ylabel="share of the best arm's", title="tails", ylim=(1e-8, 3))
        axes.legend(loc="lower left")
        return figure
