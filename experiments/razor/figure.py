"""RL's razor: which of the policies that solve a task training ends at, and whether its KL tells what other prompts forget.

Source: Shenfeld, Pari and Agrawal 2025, "RL's razor: why online reinforcement learning forgets less", arXiv 2509.04259: policy
gradient without a penalty goes to the policy nearest to the start, and forgetting is a function of KL(pi_0‖pi) on the new task
(R^2 .96 in a small setting). The closed form of the path of policy gradient is derived in `one_prompt`.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness.claims import Claim
from experiments.razor import forgetting, one_prompt, panels, verdicts
from experiments.razor.one_prompt import CORRECT, START
from rlkl.reports import plots
from rlkl.runs.load import Runs

SUCCESS = 1.0 / (1.0 + np.exp(-np.linspace(-1.38, 14.0, 100)))
TIMES = np.concatenate([[0.0], np.geomspace(1.0, 1e5, 120)])
PENALTIES = [(0.02, "kl_pi_ref"), (0.05, "kl_pi_ref"), (0.1, "kl_pi_ref"), (0.05, "kl_ref_pi")]
STARTS, ANSWERS, RIGHT = 200, 16, 4
EPS = 1e-8  # Adam's, in rlkl too
ADAM = [(0.3, 2000, EPS), (0.1, 2000, EPS), (0.01, 2000, EPS), (0.01, 5000, EPS), (0.01, 5000, 0.0)]  # rate, steps, eps
GIVEN = 200  # random distributions over correct answers
COLUMNS = [
    "panel", "method", "direction", "optimizer", "beta", "seed", "at", "time", "success", "kl_pi_start", "least", "regret",
    "apart", "favourite", *[name for name in forgetting.MEASURES if name not in ("success", "kl_pi_start")],
    "kl_over_least",
]  # fmt: skip


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Paths on one prompt ("path", "start", "adam"), what given answers lead to ("given", "filtered"), runs ("logged", "run"),
    and the network ("network")."""
    network = forgetting.table(quick).assign(panel="network")
    parts = [_paths(), _starts(), _adam(), _given(), _logged(runs), _runs(runs), network]
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _described(panel: str, method: str, pi: np.ndarray, **rest) -> pd.DataFrame:
    """A row a policy on the one prompt: its success, KL(pi‖pi_0), and the least KL at that success."""
    success = pi[:, CORRECT].sum(axis=1)
    least = one_prompt.least(np.minimum(success, 1.0), START[CORRECT].sum())
    measured = {"success": success, "kl_pi_start": one_prompt.kl(pi, START), "least": least}
    return pd.DataFrame({"panel": panel, "method": method, **rest, **measured})


def _paths() -> pd.DataFrame:
    """Exact policy gradient from START, without a penalty at given successes, and with one at given times."""
    repeated = np.broadcast_to(START, (len(SUCCESS), len(START)))
    parts = [_described("path", "no penalty", one_prompt.gradient_path(repeated, repeated * CORRECT > 0.0, SUCCESS))]
    for beta, direction in PENALTIES:
        pi = one_prompt.penalised_path(beta, direction, TIMES)
        parts.append(_described("path", "penalty", pi, beta=beta, direction=direction, time=TIMES))
    return pd.concat(parts)


def _starts() -> pd.DataFrame:
    """Random starts: KL(pi‖pi_0) at success .99 on the path without a penalty, and where it ends."""
    starts, correct = one_prompt.random_starts(STARTS, ANSWERS, RIGHT, 0)
    v, top = np.where(correct, starts, 0.0).sum(axis=1), np.where(correct, starts, 0.0).max(axis=1)
    success = np.full(STARTS, 0.99)
    pi = one_prompt.gradient_path(starts, correct, success)
    said = {"panel": "start", "seed": np.arange(STARTS)}
    path = {"success": success, "kl_pi_start": one_prompt.kl(pi, starts), "least": one_prompt.least(success, v)}
    end = {"success": 1.0, "kl_pi_start": -np.log(top), "least": -np.log(v)}
    return pd.concat([pd.DataFrame(said | {"at": "success 0.99"} | path), pd.DataFrame(said | {"at": "end"} | end)])


def _adam() -> pd.DataFrame:
    """The same random starts with Adam on exact gradients: mean KL(pi‖pi_0) over the least, and the least success."""
    starts, correct = one_prompt.random_starts(STARTS, ANSWERS, RIGHT, 0)
    v = np.where(correct, starts, 0.0).sum(axis=1)
    parts = []
    for rate, steps, eps in ADAM:
        reached, last = one_prompt.adam(starts, correct, rate, steps, eps)
        for at, pi in (("success 0.99", reached), ("end", last)):
            success = np.where(correct, pi, 0.0).sum(axis=1)
            least = one_prompt.least(success, v) if at == "success 0.99" else -np.log(v)
            ratio = {"kl_over_least": np.mean(one_prompt.kl(pi, starts) / least), "success": success.min()}
            method = f"Adam at {rate:g}, {steps:,} steps, eps {eps:g}"
            parts.append({"panel": "adam", "method": method, "time": steps, "at": at} | ratio)
    return pd.DataFrame(parts)


def _given() -> pd.DataFrame:
    """Where maximum likelihood ends: at the distribution q of the given answers, whatever the start."""
    right = np.flatnonzero(CORRECT)
    random = np.zeros((GIVEN, len(START)))
    random[:, right] = np.random.default_rng(0).dirichlet(np.ones(len(right)), GIVEN)
    parts = [
        _described("given", "I-projection", one_prompt.conditioned(START, CORRECT)[None]),
        _described("given", "one answer", np.eye(len(START))[right]),
        _described("given", "all alike", (CORRECT / CORRECT.sum())[None]),
        _described("given", "random", random),
    ]
    counts = {"time": (10, 100), "kl_pi_start": [one_prompt.filtered_samples(count) for count in (10, 100)]}
    filtered = pd.DataFrame({"panel": "filtered", **counts, "success": 1.0, "least": -math.log(START[CORRECT].sum())})
    return pd.concat([*parts, filtered])


def _logged(runs: Runs) -> pd.DataFrame:
    """Exact steps without a penalty; apart: the largest difference of KL(pi‖pi_0) from the closed form at the same success."""
    summary = runs.summary[(runs.summary["divergence"] == "none") & runs.summary["algorithm"].isin(["exact", "natural"])]
    summary = summary[[_optimizer(run) == "sgd" for _, run in summary.iterrows()]]
    parts = []
    for _, run in summary.iterrows():
        rows = runs.history[runs.history["run"] == run["run"]]
        rows = rows[(rows["step"] > 0) & (rows["reward"] < 0.9999)]
        success = rows["reward"].to_numpy(float)
        least = one_prompt.least(success, START[CORRECT].sum())
        target = least
        if run["algorithm"] == "exact":
            repeated = np.broadcast_to(START, (len(success), len(START)))
            target = one_prompt.kl(one_prompt.gradient_path(repeated, repeated * CORRECT > 0.0, success), START)
        measured = {"time": rows["step"], "success": success, "kl_pi_start": rows["kl_pi_ref"], "least": least}
        parts.append(
            pd.DataFrame({"panel": "logged", "method": run["algorithm"], **measured, "apart": rows["kl_pi_ref"] - target})
        )
    return pd.concat(parts)


def _runs(runs: Runs) -> pd.DataFrame:
    """Where runs end; apart: the largest difference of a correct answer's share from the I-projection's; favourite: the correct
    answer with the largest share."""
    rows, projection = [], one_prompt.conditioned(START, CORRECT)[CORRECT]
    for _, run in runs.summary.iterrows():
        pi = runs.outcomes.loc[runs.outcomes["run"] == run["run"], "policy"].to_numpy(float)
        share = pi[CORRECT] / pi[CORRECT].sum()
        said = {"method": run["algorithm"], "direction": run["divergence"], "beta": run["beta"], "seed": run["seed"]}
        said["optimizer"] = _optimizer(run)
        measured = {
            "success": run["reward"],
            "kl_pi_start": run["kl_pi_ref"],
            "regret": run["regret"],
            "favourite": share.argmax(),
        }
        apart = np.abs(share - projection).max()
        rows.append({"panel": "run", **said, **measured, "least": -math.log(START[CORRECT].sum()), "apart": apart})
    return pd.DataFrame(rows)


def _optimizer(run: pd.Series) -> str:
    given = run.get("override.optimizer")
    return given if isinstance(given, str) else "adam"


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    return verdicts.claims(drawn)


def draw(drawn: pd.DataFrame) -> Figure:
    """KL over success on one prompt, and where training ends; forgetting over KL, and forgetting at equal success."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 6.1))
        (first, second), (third, fourth) = figure.subplots(2, 2, width_ratios=(1.0, 1.0))
        panels.paths(first, drawn)
        panels.ends(second, drawn)
        panels.forgetting_over_kl(third, drawn)
        panels.at_equal_success(fourth, drawn)
        return figure
