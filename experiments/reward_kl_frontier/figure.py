"""The frontier of reward and KL: optima over beta of each divergence, policies trained on them, matched at a KL and a reward.

Sources: Gao, Schulman and Hilton 2023, arXiv 2210.10760, for the plot; convex duality, for who cannot be beaten.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima, series
from experiments.harness.claims import Claim, at_least, at_most
from experiments.harness.series import Row, points
from rlkl import divergences, tasks
from rlkl.exact import matching
from rlkl.reports import plots
from rlkl.runs.load import Runs

KLS = ("kl_pi_ref", "kl_ref_pi")
BETAS = np.geomspace(0.02, 20.0, 160)
MATCHED_KL, MATCHED_REWARD = 0.3, 0.7
# Total variation has few optima, which jump from KL to KL; chi-square's drop an arm, at which KL(pi_ref‖pi) jumps to infinity.
MATCHED = {
    "kl_pi_ref": ("kl_pi_ref", "kl_ref_pi", "jensen_shannon", "hellinger", "pearson", "neyman"),
    "kl_ref_pi": ("kl_ref_pi", "kl_pi_ref", "jensen_shannon", "hellinger", "neyman"),
}


def table(runs: Runs) -> pd.DataFrame:
    """E[r] by either KL: optima over beta, trained policies, and optima matched at a KL and at a reward."""
    task = tasks.build("bandit/random").task
    rows: list[Row] = []
    for name in optima.DIVERGENCES:
        log_pi = optima.over_beta(task, name, BETAS)
        for kl in KLS:
            value = optima.value(task, kl, log_pi)
            kept = np.isfinite(value)
            rows += points(f"reward by {kl}", name, value[kept], optima.reward(task, log_pi)[kept])
            rows += _matched(task, name, kl) if name in MATCHED[kl] else []
    for _, graded in runs.summary.iterrows():
        for kl in KLS:
            if np.isfinite(graded[kl]):
                rows += points(f"trained, reward by {kl}", graded["divergence"], [graded[kl]], [graded["reward"]])
    return series.frame(rows)


def _matched(task, name: str, kl: str) -> list[Row]:
    """The reward of this divergence's optimum that has the matched KL, and the KL of the one that has the matched reward."""
    div = divergences.REGISTRY[name]
    of_kl = lambda log_pi: optima.value(task, kl, log_pi)  # noqa: E731
    of_reward = lambda log_pi: optima.reward(task, log_pi)  # noqa: E731
    at = lambda wanted, what: optima.over_beta(task, name, matching.betas(task, div, wanted, what))  # noqa: E731
    same_kl, same_reward = at(MATCHED_KL, kl), at(MATCHED_REWARD, "reward")
    rows = points(f"at {kl} = {MATCHED_KL:g}", f"{name}: reward", [MATCHED_KL], of_reward(same_kl))
    rows += points(f"at {kl} = {MATCHED_KL:g}", f"{name}: it", [MATCHED_KL], of_kl(same_kl))
    return rows + points(f"at reward = {MATCHED_REWARD:g}", f"{name}: {kl}", of_reward(same_reward), of_kl(same_reward))


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found = []
    for kl, others in MATCHED.items():
        label = divergences.REGISTRY[kl].formula
        frontier = series.of(drawn, f"reward by {kl}", kl).sort_values("x")
        every = drawn[(drawn["panel"] == f"reward by {kl}") & (drawn["series"] != kl)]
        trained = drawn[drawn["panel"] == f"trained, reward by {kl}"]
        matched = {name: series.value(drawn, f"at {kl} = {MATCHED_KL:g}", f"{name}: reward") for name in others}
        spent = {name: series.value(drawn, f"at reward = {MATCHED_REWARD:g}", f"{name}: {kl}") for name in others}
        own = series.of(drawn, f"trained, reward by {kl}", kl)
        hit = [series.value(drawn, f"at {kl} = {MATCHED_KL:g}", f"{name}: it") - MATCHED_KL for name in others]
        rest = [name for name in others if name != kl]
        next_best, worst = (pick(matched[name] for name in rest) for pick in (series.largest, series.smallest))
        at_kl = f"matched at {label} = {MATCHED_KL:g}"
        found += [
            at_most(f"no optimum above the frontier of {label}: largest excess of reward", _above(every, frontier), 1e-3),
            at_most(f"no trained policy above the frontier of {label}: largest excess", _above(trained, frontier), 1e-3),
            at_most(f"policies trained under {label} lie on it: farthest below", -_above(own, frontier, least=True), 1e-3),
            at_most(f"{at_kl}: largest miss", series.largest(np.abs(hit)), 1e-9),
            at_most(f"{at_kl}: the best other's reward less its own", next_best - matched[kl], -1e-6),
            at_least(f"{at_kl}: its own reward less the worst other's", matched[kl] - worst, 0.01),
            at_least(
                f"matched at reward {MATCHED_REWARD:g}: least excess of the others' {label}, nats",
                series.smallest(spent[name] for name in rest) - spent[kl], 1e-6,
            ),
        ]  # fmt: skip
    return found


def _above(points: pd.DataFrame, frontier: pd.DataFrame, least: bool = False) -> float:
    """The largest (or least) height of points above a concave frontier, between whose points lines are drawn; those beyond
    its ends are left out."""
    if len(frontier) < 2:
        return float("nan")
    inside = points[(points["x"] >= frontier["x"].iloc[0]) & (points["x"] <= frontier["x"].iloc[-1])]
    above = inside["y"] - np.interp(inside["x"], frontier["x"], frontier["y"])
    return series.smallest(above) if least else series.largest(above)


def draw(drawn: pd.DataFrame) -> Figure:
    """Reward by either KL; lines are optima over beta, points trained policies; what matching at a KL shows."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.9))
        *both, bars = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        for axes, kl, reach in zip(both, KLS, (1.0, 2.0), strict=True):
            for name in optima.DIVERGENCES:
                colour, marker = plots.look(name)
                line, trained = (series.of(drawn, f"{kind}reward by {kl}", name) for kind in ("", "trained, "))
                width = 1.6 if name == kl else 0.8
                axes.plot(line["x"], line["y"], color=colour, lw=width, label=divergences.REGISTRY[name].formula)
                axes.plot(trained["x"], trained["y"], marker, color=colour, ms=3.5)
            axes.set(
                xlabel=f"{divergences.REGISTRY[kl].formula}, nats", ylabel="E[r]", title="optima and policies", xlim=(0, reach)
            )
        others = MATCHED["kl_pi_ref"]
        for place, name in enumerate(others):
            for offset, kl in ((-0.15, KLS[0]), (0.15, KLS[1])):
                lost = series.value(drawn, f"at {kl} = {MATCHED_KL:g}", f"{kl}: reward")
                y = series.value(drawn, f"at {kl} = {MATCHED_KL:g}", f"{name}: reward")
                bars.bar(place + offset, lost - y, 0.28, color=plots.look(kl)[0])
        bars.set(xticks=range(len(others)), ylabel="reward below the frontier", title=f"matched at KL = {MATCHED_KL:g}")
        bars.set_xticklabels([divergences.REGISTRY[name].formula for name in others], rotation=60, ha="right", fontsize=6)
        figure.legend(
            *both[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=7,
            columnspacing=0.9,
            handlelength=1.2,
            fontsize=6.5,
        )
        return figure
