"""The numbers of the figure: exact optima at one mean success probability, trained policies, and single checks."""

import math

import numpy as np
import pandas as pd
from scipy.special import logit

from experiments.pass_at_k import fixed_points, optima, released
from rlkl import tasks
from rlkl.runs.load import Runs

TASK = {"prompts": 12, "size": 40, "correct": 4, "lowest": 0.005, "highest": 0.5}
BETA = 0.4  # of the plain method, whose mean success probability the others have
DRAWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
K, DISTINCT = 8, 64  # pass@8; distinct correct answers in 64 draws
FRONTIER = {"pass@k": (2, 4, 8), "unlikeliness": (0.25, 0.5, 1.0), "smoothing": (0.05, 0.1, 0.2, 0.3),
            "entropy bonus": (0.05, 0.1, 0.2, 0.3)}  # fmt: skip


def world() -> tuple[np.ndarray, np.ndarray]:
    """The reference's probabilities, Float["P V"], and 1 for the correct answers."""
    task = tasks.build("bandit/prompts", **TASK).task
    return np.exp(np.asarray(task.log_reference)), (np.arange(TASK["size"]) < TASK["correct"]).astype(float)


def entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of each row, normalised to sum to 1."""
    share = p / p.sum(-1, keepdims=True)
    return -(share * np.log(share)).sum(-1)


def solved(p: np.ndarray, k: float) -> float:
    """pass@k, as a mean over prompts with these success probabilities."""
    return float(np.mean(-np.expm1(k * np.log1p(-p))))


def described(pi: np.ndarray, q: np.ndarray, success: np.ndarray) -> dict[str, float]:
    """Reward, entropies, KL(pi‖pi_ref), pass@8 and distinct correct answers of a policy: means over prompts."""
    right = success > 0
    return {
        "reward": float((pi @ success).mean()), "entropy": float(entropy(pi).mean()),
        "among_correct": float(entropy(pi[:, right]).mean()), "among_wrong": float(entropy(pi[:, ~right]).mean()),
        "kl": float((pi * np.log(pi / q)).sum(-1).mean()), "solved": solved(pi @ success, K),
        "distinct": float((1.0 - (1.0 - pi[:, right]) ** DISTINCT).sum(-1).mean()),
    }  # fmt: skip


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Rows of the panels "optimum", "pass" and "prompt" (exact), "run" and "success" (trained), and "check"."""
    q, success = world()
    rows = [{"panel": "optimum", "method": "reference", **described(q, q, success)}]
    rows += [{"panel": "pass", "method": "reference", "k": k, "solved": solved(q @ success, k)} for k in DRAWS]
    target = float((optima.plain(q, success, BETA) @ success).mean())
    for method in optima.METHODS:
        usual = optima.STRENGTHS.get(method, math.nan)
        for strength in (usual,) if quick else FRONTIER.get(method, (usual,)):
            beta = optima.matched_beta(method, strength, q, success, target)
            pi = optima.METHODS[method](q, success, beta, strength)
            rows.append({"panel": "optimum", "method": method, "strength": strength, "beta": beta, **described(pi, q, success)})
            if math.isnan(usual) or strength == usual:
                rows += [{"panel": "pass", "method": method, "k": k, "solved": solved(pi @ success, k)} for k in DRAWS]
                rows += _successes("prompt", method, math.nan, pi, q, success)
    return pd.DataFrame(rows + _trained(runs, q, success) + _checks(q, success))


def _successes(panel: str, method: str, seed: float, pi: np.ndarray, q: np.ndarray, success: np.ndarray) -> list[dict]:
    pairs = zip(q @ success, pi @ success, strict=True)
    return [{"panel": panel, "method": method, "seed": seed, "v": v, "success": p} for v, p in pairs]


def method_of(run: pd.Series) -> str:
    """The method that a run was trained with."""
    if run["divergence"] == "kl_ref_pi":
        return "KL(pi_ref‖pi)"
    options = {"override.algorithm.pass_k": "pass@k", "override.algorithm.entropy_coef": "entropy bonus"}
    for option, name in options.items():
        if pd.notna(run.get(option)):
            return name
    unshaped = float(run["override.reward_shaping.weight"]) == 0.0
    return "plain" if unshaped else str(run["override.reward_shaping"])


def _trained(runs: Runs, q: np.ndarray, success: np.ndarray) -> list[dict]:
    """Each run, beside the exact optimum of its own method at its own coefficient."""
    rows = []
    for _, run in runs.summary.iterrows():
        method, beta = method_of(run), float(run["beta"])
        strength = optima.STRENGTHS.get(method, math.nan)
        outcomes = runs.outcomes.loc[runs.outcomes["run"] == run["run"], "policy"].to_numpy().reshape(q.shape)
        pi = outcomes / outcomes.sum(-1, keepdims=True)
        best = optima.METHODS[method](q, success, beta, strength)
        value, largest, start = (optima.objective(method, strength, each, q, success, beta) for each in (pi, best, q))
        rows.append({
            "panel": "run", "method": method, "strength": strength, "beta": beta, "seed": run["seed"],
            **described(pi, q, success), "to_optimum": float((pi * np.log(pi / best)).sum(-1).mean()),
            "off": float(np.abs((pi - best) @ success).max()), "regret": (largest - value) / (largest - start),
            "core": run.get("utility_regret", math.nan) - (largest - value),
        })  # fmt: skip
        rows += _successes("success", method, run["seed"], pi, q, success)
    return rows


def _checks(q: np.ndarray, success: np.ndarray) -> list[dict]:
    """Single numbers: one prompt, the work around a loop, what unlikely failures gain, and the released advantage."""
    one, p = q[5:6], 0.5
    v = float((one @ success)[0])
    shift = logit(p) - logit(v)
    same = optima.plain(one, success, 1.0 / shift)
    by_k = optima.pass_at_k(one, success, K * (1.0 - p) ** (K - 1) / shift, K)
    forward = optima.forward_kl(one, success, 1.0 / ((1.0 - v) / (1.0 - p) - v / p))
    values = {f"one prompt, {name}": float(np.abs(pi - same).max()) for name, pi in (("pass@k", by_k), ("forward", forward))}

    values["same beta"] = float((optima.pass_at_k(q, success, BETA, K) @ success).mean())
    corners = np.array([[0.10, 0.20, 0.30, 0.40], [0.19, 0.20, 0.30, 0.31], [0.10, 0.29, 0.30, 0.31]])
    right, weight, gamma = np.array([1.0, 1.0, 1.0, 0.0]), optima.STRENGTHS["unlikeliness"], optima.STRENGTHS["smoothing"]
    values["work, unlikeliness"] = fixed_points.work(
        lambda pi: fixed_points.effective_reward(np.log(pi), right, weight, math.inf, 1e-9), corners
    )
    values["work, smoothing"] = fixed_points.work(lambda pi: right * (1.0 - gamma * np.log(pi)), corners)

    pi = optima.plain(q[-1:], success, BETA)[0]
    gained = fixed_points.effective_reward(np.log(pi), success, weight, optima.GROUP, 1e-9)
    values["least likely failure"] = float(gained[np.argmin(pi)])

    grid = [(k, at) for k in (2, 4, 8) for at in (0.01, 0.1, 0.5, 0.9)]
    ratios = [released.slope(16, k, at, False) * k / (1 - k / 16) / (k * (1 - at) ** (k - 1)) for k, at in grid]
    values["released, undivided"] = float(np.abs(np.array(ratios) - 1.0).max())
    values["released, k = n"] = float(np.abs([released.slope(16, 16, at, True) for _, at in grid]).max())
    values["released, divided"] = released.slope(16, 8, 0.5, True) / released.slope(16, 8, 0.05, True)
    values["pass@8"] = (0.5 / 0.95) ** 7
    return [{"panel": "check", "method": name, "value": value} for name, value in values.items()]
