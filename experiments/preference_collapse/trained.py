"""Rows of the trained policies: the share that they give the minority's answer, and what their own optimum gives it."""

import math

import numpy as np
import pandas as pd

from experiments.harness.series import Row, points
from experiments.preference_collapse.shares import over_pairs
from rlkl.runs.load import Runs


def rows(runs: Runs) -> list[Row]:
    """Rows of every kind of run that there is (a reduced build has few)."""
    summary = runs.summary.copy()
    for column in ("override.task.reference", "override.reference.penalising", "override.task.path", "override.task.pairs"):
        if column not in summary:
            summary[column] = math.nan
    summary["x"] = [_minority(runs, run) for run in summary["run"]]
    answers, pairs = summary["override.task.path"].notna(), summary["override.task.pairs"].notna()
    matching = summary["override.reference.penalising"].notna() & ~answers
    plain = ~(answers | pairs | matching)
    return [
        *_plain(summary[plain]),
        *_matching(summary[matching]),
        *_pairs(summary[pairs]),
        *_answers(summary[answers]),
    ]


def _minority(runs: Runs, run: str) -> float:
    """The probability of the minority's answer, the first outcome that is not the majority's."""
    ends = runs.outcomes[runs.outcomes["run"] == run]
    named = ends[ends["outcome"].astype(str) == "minority"]
    return float((named if len(named) else ends)["policy"].iloc[0])


def _share(reward: str) -> float:
    """The annotators' share s of the first answer, from the rewards 0 and log((1-s)/s)."""
    return 1.0 / (1.0 + math.exp(float(reward.strip("[]").split(",")[1])))


def _plain(ran: pd.DataFrame) -> list[Row]:
    found: list[Row] = []
    for _, run in ran.iterrows():
        kind = f"{'exact' if run['algorithm'] == 'exact' else 'sampled'} {run['beta']:g}"
        found += points(f"trained, {run['divergence']}", kind, [_share(run["override.task.reward"])], [run["x"]])
        found += points(f"regret, {run['divergence']}", kind, [_share(run["override.task.reward"])], [run["regret"]])
    return found


def _matching(ran: pd.DataFrame) -> list[Row]:
    """Their regret is in E[r] + H(pi), whose optimum is softmax(r): KL(pi‖softmax(r))."""
    found: list[Row] = []
    for _, run in ran.iterrows():
        s, x = _share(run["override.task.reward"]), run["x"]
        kind = "exact" if run["algorithm"] == "exact" else "sampled"
        found += points("trained, matching", kind, [s], [x])
        regret = x * math.log(x / s) + (1.0 - x) * math.log((1.0 - x) / (1.0 - s))
        found += points("regret, matching", kind, [s], [regret])
    return found


def _pairs(ran: pd.DataFrame) -> list[Row]:
    """The mean over data sets; the exact expectation and standard error; the largest regret on the fitted reward."""
    found: list[Row] = []
    for beta, runs in ran.groupby("beta"):
        x, count = runs["x"].to_numpy(), int(runs["override.task.pairs"].iloc[0])
        exact, deviation = over_pairs(0.1, count, float(beta), 0.5, 0.01)
        found += points("trained, pairs", f"{beta:g}", [count], [x.mean()], deviation / np.sqrt(len(x)))
        found += points("exact, pairs", f"{beta:g}", [count], [exact])
        found += points("regret, pairs", f"{beta:g}", [count], [runs["regret"].max()])
    return found


def _answers(ran: pd.DataFrame) -> list[Row]:
    """One phrasing against eight: by the entropy of whole sequences, by each token's, by KL to the uniform policy of tokens."""
    found: list[Row] = []
    for _, run in ran.iterrows():
        entropy = "sequences' entropy" if run["algorithm"] == "exact" else "tokens' entropy"
        kind = entropy if run["divergence"] == "none" else "uniform policy"
        found += points("phrasings", kind, [0.1], [run["x"]])
    return found
