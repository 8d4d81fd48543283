"""Best of n: its KL against log n - (n-1)/n, with and without ties, and its reward against the most that its KL can buy.

Source: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", arXiv 2401.01879. "RL" is the exact
optimum under KL(pi‖pi_ref): no policy of that KL earns more.
"""

import math

import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima
from experiments.harness.claims import Claim, at_least, at_most
from rlkl import exact, tasks
from rlkl.exact import best_of_n
from rlkl.reports import plots
from rlkl.runs.load import Runs
from rlkl.settings import numerics

ARMS, DRAWS = 100_000, (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024)
LEVELS = {"no ties": ARMS, "100 levels": 100, "10 levels": 10, "2 levels": 2}
COLOURS = dict(zip(LEVELS, (plots.BLUE, plots.GREEN, plots.ORANGE, plots.VERMILION), strict=True))
TASKS = {"bandit/zipf": plots.BLUE, "sequence/grammar": plots.ORANGE}
NARROWEST, WIDEST, HALVINGS = 1e-4, 1e3, 60  # of the search for the coefficient of a KL
MEASURED = ("kl_pi_ref", "reward", "win_rate")


def table(runs: Runs | None) -> pd.DataFrame:
    """A row a law and n: panel "kl" (equally likely arms; bound: log n - (n-1)/n) and "frontier" (a task; bound: the reward of
    the optimum of the same KL; the curve's own points have series "optimum")."""
    rows = [_of_levels(series, levels, n) for series, levels in LEVELS.items() for n in DRAWS]
    return pd.DataFrame(rows + [row for name in TASKS for row in _frontier(name)])


def _of_levels(series: str, levels: int, n: int) -> dict:
    """Best of n of ARMS equally likely arms whose rewards are the ranks, cut into equal levels."""
    p, reward = np.full(ARMS, 1.0 / ARMS), np.floor(np.arange(ARMS) * (levels / ARMS))
    ratio = best_of_n.ratios(p, reward, n)
    win_rate = best_of_n.win_rate(p * ratio, p, reward)
    kl = float(np.mean(ratio * np.log(np.maximum(ratio, 1e-300))))
    return {"panel": "kl", "series": series, "n": n, "kl_pi_ref": kl, "bound": best_of_n.most_kl(n), "win_rate": win_rate}


def ends(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A task's end states as arms: the reference's probabilities and the rewards."""
    task = tasks.build(name).task
    with numerics.pinned():
        log_ref = jnp.broadcast_to(jnp.asarray(task.log_reference), (task.automaton.horizon, *task.log_reference.shape))
        p = np.asarray(exact.outcome_probabilities(task.automaton, log_ref))[task.automaton.outcomes]
    return p / p.sum(), np.asarray(task.reward)[task.automaton.outcomes]


def _frontier(name: str) -> list[dict]:
    p, reward = ends(name)
    kept = np.stack([best_of_n.ratios(p, reward, n) for n in DRAWS])
    kl = np.sum(p * kept * np.log(np.maximum(kept, 1e-300)), axis=1)
    bound = most_reward(p, reward, kl)
    panel = {"panel": "frontier", "task": name}
    rows = [
        panel | {"series": "best of n", "n": n, "kl_pi_ref": kl[i], "reward": p * kept[i] @ reward, "bound": bound[i],
                 "win_rate": best_of_n.win_rate(p * kept[i], p, reward)}
        for i, n in enumerate(DRAWS)
    ]  # fmt: skip
    at = np.linspace(0.0, 1.05 * kl.max(), 80)
    return rows + [
        panel | {"series": "optimum", "kl_pi_ref": at[i], "reward": r} for i, r in enumerate(most_reward(p, reward, at))
    ]


def most_reward(p: np.ndarray, reward: np.ndarray, kl: np.ndarray) -> np.ndarray:
    """The reward of the optimum under KL(pi‖pi_ref) of each KL, by bisection of its coefficient; where no coefficient of the
    bracket has so much, that of the narrowest."""
    low, high = np.full(len(kl), NARROWEST), np.full(len(kl), WIDEST)
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        log_pi = optima.tilted(np.log(p), reward, middle)
        over = np.sum(np.exp(log_pi) * (log_pi - np.log(p)), axis=1) > kl
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.exp(optima.tilted(np.log(p), reward, np.sqrt(low * high))) @ reward


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    kl, front = drawn[drawn["panel"] == "kl"], drawn[(drawn["panel"] == "frontier") & (drawn["series"] == "best of n")]
    free, tied = kl[(kl["series"] == "no ties") & (kl["n"] <= 16)], kl[(kl["series"] != "no ties") & (kl["n"] > 1)]
    two = kl[kl["series"] == "2 levels"]
    gap = tied["bound"] - tied["kl_pi_ref"]
    found = [
        at_most(
            "100,000 arms, no ties, n <= 16: largest |KL - (log n - (n-1)/n)|",
            _largest(free["kl_pi_ref"] - free["bound"]),
            1e-8,
        ),
        at_most(
            "no ties, n <= 16: largest |win rate - n/(n+1)|", _largest(free["win_rate"] - free["n"] / (free["n"] + 1)), 1e-5
        ),
        at_least("with ties, n > 1: least that KL stays below it", gap.min(skipna=False), 1e-5),
        at_most(
            "with ties at 2 levels: largest KL (log 2, however large n)",
            two["kl_pi_ref"].max(skipna=False) - math.log(2.0),
            1e-9,
        ),
        at_least("with ties at 2 levels, n = 1024: KL", _two(two), math.log(2.0) - 1e-9),
    ]
    for task in TASKS:
        own = front[(front["task"] == task) & (front["n"] > 1)]
        gained = own["reward"] - _first(front, task)
        possible = own["bound"] - _first(front, task)
        missed = own["bound"] - own["reward"]
        found += [
            at_most(f"{task}: most that best of n earns above RL of its KL", -missed.min(skipna=False), 1e-9),
            at_least(
                f"{task}: least share of RL's gain that best of n has at its KL", (gained / possible).min(skipna=False), 0.9
            ),
        ]
    return found


def _two(two: pd.DataFrame) -> float:
    return float(two["kl_pi_ref"].iloc[-1]) if len(two) else math.nan


def _first(front: pd.DataFrame, task: str) -> float:
    own = front[(front["task"] == task) & (front["n"] == 1)]
    return float(own["reward"].iloc[0]) if len(own) else math.nan


def _largest(values: pd.Series) -> float:
    return float(values.abs().max(skipna=False)) if len(values) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """Left: KL over n, a colour a number of levels, under the bound. Right: reward over KL, best of n's points, RL's curve."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.7))
        left, *right = figure.subplots(1, 3)
        kl = drawn[drawn["panel"] == "kl"]
        free = kl[kl["series"] == "no ties"]
        left.plot(free["n"], free["bound"], color=plots.BLACK, label="log n - (n-1)/n")
        for series, colour in COLOURS.items():
            own = kl[kl["series"] == series]
            left.plot(own["n"], own["kl_pi_ref"], "o", color=colour, ms=3, label=series)
        left.set(xscale="log", xlabel="n", ylabel="KL(best of n‖reference) (nats)", title="100,000 equally likely arms")
        left.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        left.legend(loc="upper left")
        for axes, (task, colour) in zip(right, TASKS.items(), strict=True):
            own = drawn[drawn["task"] == task]
            curve, points = own[own["series"] == "optimum"], own[own["series"] == "best of n"]
            axes.plot(curve["kl_pi_ref"], curve["reward"], color=plots.BLACK, label="RL: the most reward of a KL")
            axes.plot(points["kl_pi_ref"], points["reward"], "o", color=colour, ms=3, label="best of n")
            for _, point in points[points["n"].isin((8, 32))].iterrows():
                at = (point["kl_pi_ref"], point["reward"])
                axes.annotate(f"n = {int(point['n'])}", at, xytext=(5, -9), textcoords="offset points", fontsize=6.5)
            axes.set(title=task, xlabel="KL(pi‖pi_ref) (nats)", ylabel="E[r]")
        right[0].legend(loc="lower right")
        return figure
