"""The entropy mechanism: a small step changes entropy by minus the step times a covariance of log pi and what the step favours.

Source: Cui et al. 2025, "The entropy mechanism of reinforcement learning for reasoning language models", arXiv 2505.22617: with
a softmax, -eta Cov(log pi, pi A) for a policy gradient step, -eta Cov(log pi, A) for a natural one. Reward against entropy over
training is drawn, and nothing is said of it.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.entropy_mechanism import steps
from experiments.harness.claims import Claim, at_least, at_most, near
from rlkl.reports import plots
from rlkl.runs.load import Runs

NAMES = {"gradient": "policy gradient, Cov(log pi, pi A)", "natural": "natural gradient, Cov(log pi, A)"}
COLOURS = {"gradient": plots.BLUE, "natural": plots.ORANGE}
LEAST, JUDGED = 0.1, 1e-3  # |covariance| from which errors are relative; the step that is judged
MEASURED = ("predicted", "measured", "covariance")


def table(runs: Runs) -> pd.DataFrame:
    """Panel "step": a row a random policy and step size. Panel "training": a row a logged step: reward and entropy."""
    settings = runs.summary[["run", "divergence", "seed"]].rename(columns={"divergence": "kind", "seed": "policy"})
    path = runs.history[["run", "step", "reward", "entropy"]].merge(settings, on="run").drop(columns="run")
    return pd.concat([steps.table().assign(panel="step"), path.assign(panel="training")], ignore_index=True)


def errors(drawn: pd.DataFrame) -> pd.DataFrame:
    """The rows of a large enough covariance, with the error relative to step times |covariance|."""
    large = drawn[(drawn["panel"] == "step") & (drawn["covariance"].abs() >= LEAST)]
    return large.assign(error=(large["measured"] - large["predicted"]).abs() / (large["step"] * large["covariance"].abs()))


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found: list[Claim] = []
    seen = errors(drawn)
    for kind, name in NAMES.items():
        own = seen[seen["kind"] == kind]
        at = own[np.isclose(own["step"].astype(float), JUDGED)]
        found += [
            at_least(f"{name}: policies with |Cov| >= .1", len(at), 20),
            at_most(
                f"{name}, step 1e-3: largest error over |Cov|", at["error"].max(skipna=False) if len(at) else math.nan, 0.005
            ),
            near(f"{name}: slope of the median error over steps of at most .01", slope(own), 1.0, 0.02),
        ]
    return found


def slope(own: pd.DataFrame) -> float:
    """The log-log slope of the median error over small steps."""
    median = own[own["step"] <= 0.0101].groupby("step")["error"].median()
    if len(median) < 2 or not (median > 0.0).all():
        return math.nan
    return float(np.polyfit(np.log(median.index.astype(float)), np.log(median), 1)[0])


def draw(drawn: pd.DataFrame) -> Figure:
    """Left: measured over predicted change at step 1e-3; middle: relative errors over the step; right: reward over entropy."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.7))
        left, middle, right = figure.subplots(1, 3)
        taken, seen = drawn[drawn["panel"] == "step"], errors(drawn)
        for kind, colour in COLOURS.items():
            at = taken[(taken["kind"] == kind) & np.isclose(taken["step"].astype(float), JUDGED)]
            left.plot(1e3 * at["predicted"], 1e3 * at["measured"], ".", color=colour, ms=2, label=NAMES[kind])
            by = seen[seen["kind"] == kind].groupby("step")["error"]
            middle.fill_between(by.min().index, by.min(), by.max(), color=colour, alpha=0.2, lw=0)
            middle.plot(by.median(), "o-", color=colour, ms=3)
        least, most = 1e3 * taken.loc[np.isclose(taken["step"].astype(float), JUDGED), "predicted"].agg(["min", "max"])
        left.plot([least, most], [least, most], color=plots.BLACK, lw=0.6)
        left.set(xlabel="predicted change (1e-3 nat)", ylabel="measured (1e-3 nat)", title="entropy, a step of 1e-3")
        middle.axhline(0.005, color=plots.GREY, ls="--", lw=0.8)
        middle.axvline(JUDGED, color=plots.GREY, ls="--", lw=0.8)
        middle.set(xscale="log", yscale="log", xlabel="step", ylabel="error over |Cov|", title="median and range, |Cov| >= .1")
        ran = drawn[drawn["panel"] == "training"]
        for (kind, _), path in ran.groupby(["kind", "policy"]):
            right.plot(path["entropy"], path["reward"], color=plots.look(kind)[0], lw=0.8)
        right.set(xlabel="entropy (nats)", ylabel="E[r]", title="rloo over training")
        right.annotate("no penalty", (0.5, 0.97), xycoords="axes fraction", color=plots.look("none")[0], fontsize=7, va="top")
        right.annotate("KL(pi‖pi_ref)", (0.03, 0.05), xycoords="axes fraction", color=plots.look("kl_pi_ref")[0], fontsize=7)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4)
        return figure
