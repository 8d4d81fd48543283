"""Rows of the trained policies: gold reward lost, and regret in their own objectives."""

import math

import pandas as pd

from experiments.harness.series import Row, points
from rlkl.runs.load import Runs

METHODS = {"kl_pi_ref": "DPO", "kl_chi2": "ChiPO"}


def rows(runs: Runs) -> list[Row]:
    """Rows of every kind of run that there is (a reduced build has few)."""
    summary = runs.summary.copy()
    if "override.task.pairs" not in summary:
        summary["override.task.pairs"] = math.nan
    pairs = summary["override.task.pairs"].astype(str)
    finite = pairs.str.startswith("1000")
    fitted = finite & (summary["algorithm"] == "exact")
    offline = finite & (summary["algorithm"] == "dpo")
    everything = ~finite & (summary["algorithm"] == "dpo")
    sampled = summary["algorithm"] == "rloo"
    return [
        *_fitted(summary[fitted]),
        *_offline(summary[offline]),
        *_regrets("infinitely many pairs", summary[everything]),
        *_regrets("sampled", summary[sampled]),
    ]


def _fitted(ran: pd.DataFrame) -> list[Row]:
    """The mean over data sets of the gold reward lost to the best arm, whose gold reward is 1."""
    found: list[Row] = []
    for (divergence, beta), runs in ran.groupby(["divergence", "beta"]):
        lost = 1.0 - runs["gold_reward"]
        error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        found += points("trained", METHODS[divergence], [beta], [lost.mean()], error)
        found += points("trained, regret", METHODS[divergence], [beta], [runs["regret"].max()])
    return found


def _offline(ran: pd.DataFrame) -> list[Row]:
    found: list[Row] = []
    for _, run in ran.iterrows():
        found += points("trained on pairs", METHODS[run["divergence"]], [run["beta"]], [1.0 - run["gold_reward"]])
        found += points("trained on pairs, largest probability", METHODS[run["divergence"]], [run["beta"]], [run["top_1_mass"]])
    return found


def _regrets(panel: str, ran: pd.DataFrame) -> list[Row]:
    found: list[Row] = []
    for _, run in ran.iterrows():
        found += points(f"{panel}, regret", METHODS[run["divergence"]], [run["beta"]], [run["regret"]])
    return found
