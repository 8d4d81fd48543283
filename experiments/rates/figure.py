"""Rates: exact softmax gradients converge like 1/t, with a penalty exponentially; natural ones by exactly 1 - eta beta a step.

Sources: Mei et al. 2020, arXiv 2005.06392; Cen et al. 2022, "Fast global convergence of natural policy gradient methods with
entropy regularization", arXiv 2007.06558.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import points
from rlkl.policies import Policy
from rlkl.reports import plots
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs

RATE, BETAS = 0.4, (0.2, 0.5)
LATE = 2_000  # from where on the plain gradient's rate is read
COLOURS = {0.2: plots.BLUE, 0.5: plots.GREEN}


def table(runs: Runs) -> pd.DataFrame:
    """Regret by step; and how far the centred logits of natural gradients' policies lie from the optimum's."""
    rows = []
    for _, graded in runs.summary.iterrows():
        history = runs.history[(runs.history["run"] == graded["run"]) & (runs.history["step"] > 0)]
        if graded["algorithm"] == "natural":
            reward, reference = (
                np.array([float(x) for x in graded[f"override.task.{key}"].strip("[]").split(",")])
                for key in ("reward", "reference")
            )
            policy = checkpoint.load_policy(runs.root / graded["run"])
            assert isinstance(policy, Policy)
            best = centred(np.log(reference) + reward / graded["beta"])
            apart = np.abs(centred(np.asarray(policy.table())[0, 0]) - best).max()
            rows += points(f"natural, beta = {graded['beta']:g}", "distance", [graded["steps"]], [apart])
            rows += points(f"natural, beta = {graded['beta']:g}", "at the start", [0], [np.abs(best).max()])
        else:
            rows += points(f"plain, beta = {graded['beta']:g}", "regret", history["step"], history["regret"])
    return series.frame(rows)


def centred(logits: np.ndarray) -> np.ndarray:
    """Logits less their mean, which says nothing of the policy."""
    return logits - logits.mean()


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    none = series.of(drawn, "plain, beta = 0", "regret")
    late = none[none["x"] >= LATE]
    found = [
        near("no penalty: log-log slope of regret over steps, late", series.slope(late), -1.0, 0.05),
        near("no penalty: regret times steps at the end over the same at half", _over(late), 1.0, 0.05),
    ]
    for beta in BETAS:
        regret = series.of(drawn, f"plain, beta = {beta:g}", "regret")
        early, later = (_rate(regret, *within) for within in ((1e-6, 1e-4), (1e-11, 1e-9)))
        found.append(at_most(f"penalty at beta = {beta:g}: least regret", series.smallest(regret["y"].clip(lower=0.0)), 1e-9))
        same = f"penalty at beta = {beta:g}: log regret falls as fast at 1e-10 as at 1e-5, ratio of rates"
        found.append(near(same, later / early, 1.0, 0.2))
        panel = f"natural, beta = {beta:g}"
        distance, start = series.of(drawn, panel, "distance"), series.value(drawn, panel, "at the start")
        expected = start * (1.0 - RATE * beta) ** distance["x"]
        measurable = distance[expected > 1e-8]
        worst = series.largest((measurable["y"] / expected[expected > 1e-8] - 1.0).abs())
        found.append(at_most(f"natural gradient at beta = {beta:g}: distance over (1 - eta beta)^t, less 1", worst, 1e-6))
        found.append(at_least(f"natural gradient at beta = {beta:g}: fall over the steps of that", _fall(measurable), 1e2))
    return found


def _over(late: pd.DataFrame) -> float:
    """The product at the last step over that nearest to half of it."""
    if late.empty:
        return math.nan
    half = late.iloc[(late["x"] - late["x"].iloc[-1] / 2).abs().argmin()]
    return float(late["x"].iloc[-1] * late["y"].iloc[-1] / (half["x"] * half["y"]))


def _rate(regret: pd.DataFrame, low: float, high: float) -> float:
    """Nats a step by which regret falls while it lies between two values."""
    inside = regret[(regret["y"] > low) & (regret["y"] < high)]
    return -float(np.polyfit(inside["x"], np.log(inside["y"]), 1)[0]) if len(inside) > 1 else math.nan


def _fall(distance: pd.DataFrame) -> float:
    return float(distance["y"].max() / distance["y"].min()) if len(distance) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """Regret on log-log axes without a penalty, on log axes with one; the distance of logits under natural gradients."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.5))
        plain, penalised, natural = figure.subplots(1, 3)
        none = series.of(drawn, "plain, beta = 0", "regret")
        plain.plot(none["x"], none["y"], color=plots.GREY, label="no penalty")
        end = none.iloc[-1]
        plain.plot(none["x"], end["y"] * end["x"] / none["x"], color=plots.BLACK, ls=":", lw=0.8, label="1/t")
        plain.set(xscale="log", yscale="log", xlabel="step", ylabel="regret", title="plain gradients: 1/t")
        plain.legend(loc="lower left")
        for beta, colour in COLOURS.items():
            regret = series.of(drawn, f"plain, beta = {beta:g}", "regret")
            penalised.plot(regret["x"], regret["y"].clip(lower=1e-17), color=colour, label=f"beta = {beta:g}")
            panel = f"natural, beta = {beta:g}"
            distance, start = series.of(drawn, panel, "distance"), series.value(drawn, panel, "at the start")
            steps = np.arange(65)
            natural.plot(steps, start * (1.0 - RATE * beta) ** steps, color=colour, label=f"(1 - eta beta)^t, beta = {beta:g}")
            natural.plot(distance["x"], distance["y"], "o", color=colour)
        penalised.set(yscale="log", xlabel="step", ylabel="regret", title="with a penalty: exponential")
        penalised.set(xlim=(0, 12000), xticks=(0, 5000, 10000), ylim=(1e-17, 3))
        penalised.legend(loc="upper right")
        natural.set(
            yscale="log", xlabel="step", ylabel="distance of centred logits", title="natural gradients", ylim=(1e-9, 30)
        )
        natural.legend(loc="lower left", fontsize=6)
        return figure
