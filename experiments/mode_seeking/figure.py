"""Mode-seeking and mass-covering: what direction decides in a restricted family, and what it does not without one.

Sources: Bishop, "Pattern Recognition and Machine Learning" (2006), section 10.1.2, for one Gaussian on two modes;
GX-Chen et al. 2025, arXiv 2510.20817, figure 2, for the two modes of an unrestricted policy.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima
from experiments.harness.claims import Claim, at_least, at_most, near
from rlkl import divergences, tasks
from rlkl.reports import plots
from rlkl.runs.load import Runs

BETA_STAR = (1.0 - 0.75) / (5.95 - 4.05)
DIRECTIONS = ("kl_ref_pi", "kl_pi_ref")
MODES = ("likely mode", "better mode")


def table(runs: Runs) -> pd.DataFrame:
    """Every number that is drawn or claimed: panel, direction, start, series, x, y."""
    rows = [row for _, graded in runs.summary.iterrows() for row in _of_run(graded, runs.outcomes)]
    return pd.DataFrame(rows + _exact_curves(), columns=["panel", "direction", "start", "series", "x", "y"])


def _of_run(graded: pd.Series, outcomes: pd.DataFrame) -> list[tuple]:
    ends = outcomes[outcomes["run"] == graded["run"]].set_index("outcome")
    direction = graded["divergence"]
    if graded["policy"] == "gaussian":
        start = float(graded["override.policy.mean"])
        x = tasks.build("bandit/bimodal").task.coordinates  # the arms' names are rounded
        key = ("restricted", direction, start)
        drawn = [(*key, kind, at, p) for kind in ("reference", "policy") for at, p in zip(x, ends[kind], strict=True)]
        return [*drawn, (*key, "divergence", 0.0, graded["divergence_value"])]
    trained = [("tabular", direction, 0.0, f"trained {mode}", graded["beta"], ends.loc[mode, "policy"]) for mode in MODES]
    return [*trained, ("tabular", direction, 0.0, "regret", graded["beta"], graded["regret"])]


def _exact_curves() -> list[tuple]:
    task, betas = tasks.build("bandit/two_modes").task, np.geomspace(0.02, 1.5, 120)
    rows: list[tuple] = []
    for direction in DIRECTIONS:
        probability = np.exp(optima.over_beta(task, direction, betas))
        for arm, mode in enumerate(MODES):
            curve = zip(betas, probability[:, arm], strict=True)
            rows += [("tabular", direction, 0.0, f"exact {mode}", beta, p) for beta, p in curve]
    return rows


def moments(drawn: pd.DataFrame, direction: str, start: float) -> tuple[float, float]:
    """Mean and variance of a restricted policy's distribution."""
    at = drawn.query("panel == 'restricted' and direction == @direction and start == @start and series == 'policy'")
    mean = float((at["x"] * at["y"]).sum(min_count=1))
    return mean, float(((at["x"] - mean) ** 2 * at["y"]).sum(min_count=1))


def _value(drawn: pd.DataFrame, direction: str, series: str, start: float = 0.0, x: float | None = None) -> float:
    found = drawn.query("direction == @direction and series == @series and start == @start")
    if x is not None:
        found = found[np.isclose(found["x"], x)]
    return float(found["y"].iloc[0]) if len(found) else math.nan


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    cover, major, minor = (moments(drawn, *run) for run in (("kl_ref_pi", 0.0), ("kl_pi_ref", 0.0), ("kl_pi_ref", 3.0)))
    other = moments(drawn, "kl_ref_pi", 3.0)
    regret = drawn[drawn["series"] == "regret"]["y"]

    def log_ratio(direction: str, beta: float) -> float:
        better, likely = (_value(drawn, direction, f"trained {mode}", x=beta) for mode in reversed(MODES))
        return math.log(better / likely) if likely > 0 and better > 0 else math.nan

    return [
        near("restricted, KL(pi_ref‖pi): mean", cover[0], -1.2, 0.005),
        near("restricted, KL(pi_ref‖pi): variance", cover[1], 8.56, 0.005),
        near("restricted, KL(pi_ref‖pi): the other start ends at the same mean", other[0], cover[0], 1e-4),
        near("restricted, KL(pi‖pi_ref) from 0: mean, on the major mode", major[0], -2.99, 0.01),
        near("restricted, KL(pi‖pi_ref) from 0: divergence", _value(drawn, "kl_pi_ref", "divergence", 0.0), 0.354, 0.001),
        near("restricted, KL(pi‖pi_ref) from 3: mean, on the minor mode", minor[0], 2.97, 0.01),
        near("restricted, KL(pi‖pi_ref) from 3: divergence", _value(drawn, "kl_pi_ref", "divergence", 3.0), 1.197, 0.001),
        near("unrestricted, KL(pi‖pi_ref) at beta*: log ratio of the modes", log_ratio("kl_pi_ref", BETA_STAR), 0.0, 1e-3),
        at_least("unrestricted, KL(pi‖pi_ref) below beta*: log lead of the better mode", log_ratio("kl_pi_ref", 0.08), 0.5),
        at_most("unrestricted, KL(pi‖pi_ref) above beta*: log lead of the better mode", log_ratio("kl_pi_ref", 0.2), -0.5),
        at_least(
            "unrestricted, KL(pi_ref‖pi) at the same beta*: log lead of the better mode", log_ratio("kl_ref_pi", BETA_STAR), 0.3
        ),
        at_most("unrestricted: largest regret of a trained run", regret.max() if len(regret) else math.nan, 1e-5),
    ]


def draw(drawn: pd.DataFrame) -> Figure:
    """Two rows: the restricted policy under both directions; the tabular policy over beta, exact curve under dots."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.4))
        axes = figure.subplots(2, 2, sharey="row")
        for column, direction in enumerate(DIRECTIONS):
            formula = divergences.REGISTRY[direction].formula
            name = {"kl_ref_pi": "forward", "kl_pi_ref": "reverse"}[direction]
            axes[0, column].set(title=f"one Gaussian under {formula}  ({name} KL)", xlabel="arm x")
            _restricted(axes[0, column], drawn, direction)
            axes[1, column].set(title=f"unrestricted softmax under {formula}", xlabel="beta", xscale="log")
            _tabular(axes[1, column], drawn, direction)
        axes[0, 0].set_ylabel("probability")
        axes[1, 0].set_ylabel("probability of a mode")
        axes[0, 0].legend(loc="upper right")
        for start, x in ((0, -2.99), (3, 2.97)):
            axes[0, 1].annotate(f"from mean {start}", (x, 0.102), ha="center", fontsize=7)
        axes[0, 0].set_ylim(-0.003, 0.112)
        axes[1, 1].legend(loc="upper right")
        return figure


def _restricted(axes, drawn, direction):
    part = drawn[(drawn["panel"] == "restricted") & (drawn["direction"] == direction)]
    reference = part[(part["series"] == "reference") & (part["start"] == 0.0)]
    axes.fill_between(reference["x"], reference["y"], step="mid", color=plots.GREY, alpha=0.35, lw=0, label="reference")
    for start, line in ((0.0, "-"), (3.0, "--")):
        policy = part[(part["series"] == "policy") & (part["start"] == start)]
        axes.plot(policy["x"], policy["y"], line, color=plots.look(direction)[0], label=f"trained from mean {start:g}")


def _tabular(axes, drawn, direction):
    part = drawn[(drawn["panel"] == "tabular") & (drawn["direction"] == direction)]
    marker = plots.look(direction)[1]
    for mode, colour in zip(MODES, (plots.GREEN, plots.PURPLE), strict=True):
        exact, trained = part[part["series"] == f"exact {mode}"], part[part["series"] == f"trained {mode}"]
        axes.plot(exact["x"], exact["y"], color=colour, label=f"{mode} (exact)")
        axes.plot(trained["x"], trained["y"], marker, color=colour, label=f"{mode} (trained)")
    axes.axvline(BETA_STAR, color=plots.BLACK, ls=":", lw=0.8)
    axes.annotate("beta*", (BETA_STAR, 0.66), xytext=(3, 0), textcoords="offset points", fontsize=7)
