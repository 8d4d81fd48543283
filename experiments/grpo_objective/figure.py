"""What GRPO maximises: fixed points of group-standardised advantages with the penalty in the loss, or in the reward.

Sources: Mroueh 2025, "Reinforcement learning with verifiable rewards: GRPO's effective loss, dynamics, and success
amplification", arXiv 2503.06639; Vojnovic and Yun 2025, "What is the alignment objective of GRPO?", arXiv 2502.18548;
"Future-KL regularized GRPO", 2026, arXiv 2601.10201 (2 arcsin sqrt p). The formulas for finite groups are derived in
`rlkl.exact.utility`.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from experiments.grpo_objective import fixed_points
from experiments.harness.claims import Claim, at_least, at_most, near
from rlkl import divergences
from rlkl.reports import plots
from rlkl.runs.load import Runs

SIZES = (2, 4, 8, 16, 64, math.inf)
COLOURS = dict(zip(SIZES, (plots.GREY, plots.SKY, plots.GREEN, plots.ORANGE, plots.VERMILION, plots.BLACK), strict=True))
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
BETAS = np.geomspace(0.05, 4.0, 60)
V = 0.05  # the reference's probability of a success in the figure
CRITICAL = {0.01: 0.40074, V: 0.57119, 0.1: 0.69701, 0.5: 1.50888}
COLUMNS = ["panel", "direction", "placement", "size", "v", "beta", "seed", "p", "failure", "target", "regret", "utility_regret"]


def table(runs: Runs) -> pd.DataFrame:
    """Fixed points by the sums over groups (panels "curve", "stationary", "critical", "edge"), and where runs ended ("run")."""
    return pd.concat([_curves(), _stationary(), _trained(runs)], ignore_index=True)[COLUMNS]


def _curves() -> pd.DataFrame:
    """Where ascent from the reference comes to rest, over beta, for each size of group."""
    rows = []
    for direction in DIRECTIONS:
        for size in SIZES:
            for beta in BETAS:
                logit = fixed_points.attracting(size, direction, V, beta)
                rows.append({"panel": "curve", "direction": direction, "size": size, "v": V, "beta": beta, "p": expit(logit),
                             "failure": expit(-logit)})  # fmt: skip
    return pd.DataFrame(rows)


def _stationary() -> pd.DataFrame:
    """Single facts: critical coefficients, all stationary points of some settings, and failures where groups are large."""
    rows = [{"panel": "critical", "v": v, "beta": fixed_points.critical_beta(v)} for v in CRITICAL]
    settings = [(math.inf, "kl_pi_ref", 0.1, 1.0), (64, "kl_pi_ref", 0.05, 0.6), (math.inf, "kl_ref_pi", 0.1, 0.04)]
    settings += [(size, "kl_ref_pi", v, beta) for size in SIZES for v in (0.05, 0.3) for beta in (0.05, 0.2, 0.4, 1.5)]
    for size, direction, v, beta in settings:
        of = {"panel": "stationary", "direction": direction, "size": size, "v": v, "beta": beta}
        rows += [
            of | {"p": point.p, "failure": point.failure, "target": float(point.maximum)}
            for point in fixed_points.stationary(size, direction, v, beta)
        ]
    for size in (4, 16, 64):
        at_one = float(fixed_points.slope(size, np.array([60.0]))[0])
        failure = fixed_points.stationary(size, "kl_pi_ref", 0.05, 0.2)[-1].failure
        rows.append({"panel": "edge", "size": size, "v": 0.05, "beta": 0.2, "p": at_one, "failure": failure})
    return pd.DataFrame(rows)


def _trained(runs: Runs) -> pd.DataFrame:
    """A row a run: its success probability, and the fixed point of its setting."""
    summary = runs.summary
    v = summary["override.task.reference"].map(lambda text: sum(float(x) for x in text.strip("[]").split(",")[:2]))
    size = summary["override.algorithm.group_size"].astype(float)
    in_loss = summary["placement"] == "loss"
    # In the reward, a penalty is divided with it: the returns of a group are equal at the reward's own optimum.
    sizes = np.where(in_loss, size, 2.0)
    logits = [
        fixed_points.attracting(*setting) for setting in zip(sizes, summary["divergence"], v, summary["beta"], strict=True)
    ]
    return pd.DataFrame({
        "panel": "run", "direction": summary["divergence"], "placement": summary["placement"], "size": size, "v": v,
        "beta": summary["beta"], "seed": summary["seed"], "p": summary["reward"], "failure": 1.0 - summary["reward"],
        "target": expit(np.array(logits)), "regret": summary["regret"],
        "utility_regret": summary.get("utility_regret", math.nan),
    })  # fmt: skip


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    critical = drawn[drawn["panel"] == "critical"].set_index("v")["beta"]
    points = drawn[drawn["panel"] == "stationary"]
    made = [
        near(f"KL(pi‖pi_ref) in the loss, infinite group, v = {v:g}: beta below which no interior point is stationary",
             critical.get(v, math.nan), beta, 1e-5)
        for v, beta in CRITICAL.items()
    ]  # fmt: skip
    infinite = _points(points, "kl_pi_ref", math.inf, 0.1, 1.0)
    two = _points(points, "kl_pi_ref", 64, 0.05, 0.6)
    unique = points[(points["direction"] == "kl_ref_pi")].groupby(["size", "v", "beta"])["p"].agg(["size", "max"])
    low = _points(points, "kl_ref_pi", math.inf, 0.1, 0.04)
    made += [
        near(
            "KL(pi‖pi_ref) in the loss, infinite group, v = .1, beta = 1: stationary maximum", _nth(infinite, 0), 0.45305, 1e-5
        ),
        near(
            "KL(pi‖pi_ref) in the loss, infinite group, v = .1, beta = 1: stationary minimum", _nth(infinite, 1), 0.966539, 1e-6
        ),
        near("KL(pi‖pi_ref) in the loss, G = 64, v = .05, beta = .6: number of maxima", two["target"].sum(), 2, 0),
        near("KL(pi_ref‖pi) in the loss, any group, v and beta: number of stationary points", unique["size"].max(), 1, 0),
        at_most("KL(pi_ref‖pi) in the loss, any group: largest fixed point, below 1", unique["max"].max(), 0.999),
        near("KL(pi_ref‖pi) in the loss, infinite group, v = .1, beta = .04: failures", low["failure"].max(), 0.0012940, 1e-7),
    ]
    for _, edge in drawn[drawn["panel"] == "edge"].iterrows():
        size, expected = edge["size"], 19.0 * math.exp(-math.sqrt(edge["size"] - 1) / 0.2)
        made.append(near(f"G = {size:g}: slope of the utility at p = 1, sqrt(G - 1)", edge["p"], math.sqrt(size - 1), 1e-9))
        ratio = edge["failure"] / expected
        made.append(
            near(
                f"KL(pi‖pi_ref) in the loss, G = {size:g}, beta = .2: failures over e^(-sqrt(G-1)/beta)(1-v)/v", ratio, 1, 0.05
            )
        )
    return made + _of_runs(drawn[drawn["panel"] == "run"])


def _of_runs(ran: pd.DataFrame) -> list[Claim]:
    in_loss, in_reward = (ran[ran["placement"] == place] for place in ("loss", "reward"))
    off = (in_loss["p"] - in_loss["target"]).abs()
    harm = in_loss[
        (in_loss["direction"] == "kl_pi_ref") & (in_loss["size"] == 64) & (in_loss["beta"] == 0.4) & (in_loss["v"] < 0.1)
    ]
    return [
        at_most("trained, in the loss: largest |success probability - fixed point|, any group, v, beta", _most(off), 0.01),
        at_most("trained, in the loss: largest regret in the utility", _most(in_loss["utility_regret"]), 0.01),
        at_least("trained, in the loss, KL(pi‖pi_ref), G = 64, v = .05, beta = .4: regret in E[r] - beta D",
                 _least(harm["regret"]), 0.3),
        at_most("trained, in the reward, any group: largest regret in E[r] - beta D", _most(in_reward["regret"]), 1e-4),
        at_most("trained, in the reward, any group: largest |success probability - the reward's optimum|",
                _most((in_reward["p"] - in_reward["target"]).abs()), 0.003),
    ]  # fmt: skip


def _points(points: pd.DataFrame, direction: str, size: float, v: float, beta: float) -> pd.DataFrame:
    of = (points["direction"] == direction) & (points["size"] == size) & (points["v"] == v) & (points["beta"] == beta)
    return points[of].sort_values("p")


def _nth(points: pd.DataFrame, place: int) -> float:
    return float(points["p"].iloc[place]) if len(points) > place else math.nan


def _most(values: pd.Series) -> float:
    return float(values.max(skipna=False)) if len(values) else math.nan


def _least(values: pd.Series) -> float:
    return float(values.min(skipna=False)) if len(values) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """Fixed points over beta for each size of group: penalties in the loss, and in the reward; dots were trained."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.9))
        first, second, third = figure.subplots(1, 3, sharey=True)
        for axes, direction in ((first, "kl_pi_ref"), (second, "kl_ref_pi")):
            _panel(axes, drawn, direction, "loss", SIZES)
            axes.set_title(f"{divergences.REGISTRY[direction].formula} in the loss")
        for direction, marker in (("kl_pi_ref", "o"), ("kl_ref_pi", "s")):
            _panel(third, drawn, direction, "reward", (2,), marker)
        third.set_title("either KL in the reward")
        text = "curves: optimum of\nE[r] - beta D\ndots: KL(pi‖pi_ref)\nsquares: KL(pi_ref‖pi)"
        third.text(0.55, 0.97, text, transform=third.transAxes, fontsize=6.5, va="top")
        first.set_ylabel("success probability")
        first.axhline(V, color=plots.GREY, ls=":", lw=0.8)
        second.axhline(V, color=plots.GREY, ls=":", lw=0.8)
        lines, labels = first.get_legend_handles_labels()
        title = f"curves: fixed point from a reference that succeeds with probability {V:g} (dotted); dots: trained GRPO"
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), title=title, title_fontsize=7)
        return figure


def _panel(axes: Axes, drawn: pd.DataFrame, direction: str, placement: str, sizes, marker: str = "o") -> None:
    curves = drawn[(drawn["panel"] == "curve") & (drawn["direction"] == direction)]
    ran = drawn[(drawn["panel"] == "run") & (drawn["direction"] == direction) & (drawn["placement"] == placement)]
    ran = ran[np.isclose(ran["v"], V)]
    for size in sizes:
        name = "infinite group" if math.isinf(size) else f"G = {size:g}"
        curve = curves[curves["size"] == size].sort_values("beta")
        axes.plot(curve["beta"], curve["p"], color=COLOURS[size], label=name, lw=1.0, ls="--" if math.isinf(size) else "-")
    for size, runs in ran.groupby("size"):
        axes.plot(runs["beta"], runs["p"], marker, color=COLOURS[float(size)], ms=3 + (placement == "reward") * (64 - size) /
        24,
                  mec="white", mew=0.3)  # fmt: skip
    axes.set(xscale="log", xlabel="beta", ylim=(-0.03, 1.03))
