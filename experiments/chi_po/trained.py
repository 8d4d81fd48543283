"""Rows of the trained policies: gold reward lost, and regret in their own objectives."""

import math
from collections.abc import Callable

import pandas as pd

from experiments.harness.series import Row, points
from rlkl.runs.load import Runs

METHODS = {"kl_pi_ref": "DPO", "kl_chi2": "χPO"}


def rows(runs: Runs, spread: Callable[[str, float], float]) -> list[Row]:
    """Rows of every kind of run that there is (a reduced build has few).

    spread: the standard deviation of the loss over data sets, by method and beta.
    """
    summary = runs.summary.copy()
    for column in ("override.task.pairs", "override.algorithm.max_log_odds"):
        if column not in summary:
            summary[column] = math.nan
    pairs = summary["override.task.pairs"].astype(str)
    finite = pairs.str.startswith("1000")
    fitted = finite & (summary["algorithm"] == "exact")
    offline = finite & (summary["algorithm"] == "dpo")
    clipped = summary["override.algorithm.max_log_odds"].astype(float) < 1e9
    everything = ~finite & (summary["algorithm"] == "dpo")
    sampled = summary["algorithm"] == "rloo"
    return [
        *_fitted(summary[fitted], spread),
        *_offline("no clip", summary[offline & ~clipped]),
        *_offline("clipped", summary[offline & clipped]),
        *_regrets("infinitely many pairs", summary[everything]),
        *_regrets("sampled", summary[sampled]),
    ]


def _fitted(ran: pd.DataFrame, spread: Callable[[str, float], float]) -> list[Row]:
    """The mean over data sets of the gold reward lost to the best arm, whose gold reward is 1."""
    found: list[Row] = []
    for (divergence, beta), runs in ran.groupby(["divergence", "beta"]):
        lost = 1.0 - runs["gold_reward"]
        error = spread(METHODS[divergence], beta) / math.sqrt(len(lost))
        found += points("trained", METHODS[divergence], [beta], [lost.mean()], error)
        found += points("trained, regret", METHODS[divergence], [beta], [runs["regret"].max()])
    return found


def _offline(panel: str, ran: pd.DataFrame) -> list[Row]:
    """Trained by the loss on pairs, each data set a row."""
    found: list[Row] = []
    for _, run in ran.iterrows():
        found += points(panel, METHODS[run["divergence"]], [run["beta"]], [1.0 - run["gold_reward"]])
    return found


def _regrets(panel: str, ran: pd.DataFrame) -> list[Row]:
    found: list[Row] = []
    for _, run in ran.iterrows():
        found += points(f"{panel}, regret", METHODS[run["divergence"]], [run["beta"]], [run["regret"]])
    return found
