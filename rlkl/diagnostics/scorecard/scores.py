"""A penalty's six scores, from measured numbers alone: each in [0, 1], 1 the best; NaN where it is undefined.

NumPy on the host. Arrays over runs are [B S]: B coefficients, S seeds. Rewards and objectives in the task's units, KLs in nats.
"""

import numpy as np
from jaxtyping import Bool, Float

SHARES = (0.25, 0.5, 0.75)  # of the reward that can be gained: where policies are compared at equal KL
HALVINGS = 200  # of a bracket of log beta


def gradient(error: Float[np.ndarray, " I"]) -> float:
    """Correctness of the gradient: 1 less the relative error of the penalty's expected gradient against the exact gradient of
    the divergence that it names (0 from an error of 100% on), averaged over I policies."""
    return float(np.mean(np.clip(1.0 - np.asarray(error), 0.0, 1.0)))


def regret(objective: Float[np.ndarray, "B S"], start: float, best: Float[np.ndarray, " B"]) -> float:
    """Regret at a matched budget: the share of the optimum's gain in objective over the reference (`best` less `start`) that
    training realised, over all coefficients and seeds of a task together; NaN where there is nothing to gain."""
    gain = float(np.sum(best - start))
    if not gain > 0.0:
        return np.nan
    return _share(float(np.sum(np.mean(best[:, None] - objective, axis=1))) / gain)


def seeds(objective: Float[np.ndarray, "B S"], start: float, best: Float[np.ndarray, " B"]) -> float:
    """Stability over seeds: 1 less the range of the final objective among seeds, as a share of the optimum's gain over the
    reference, over all coefficients of a task together; NaN where there is nothing to gain."""
    gain = float(np.sum(best - start))
    if not gain > 0.0:
        return np.nan
    with np.errstate(invalid="ignore"):
        return _share(float(np.sum(np.max(objective, axis=1) - np.min(objective, axis=1))) / gain)


def _share(lost: float) -> float:
    """1 less what was lost, in [0, 1]; an objective of minus infinity has lost everything."""
    return float(np.clip(1.0 - lost, 0.0, 1.0)) if np.isfinite(lost) else 0.0


def reward_at_kl(
    kl: Float[np.ndarray, "B S"],
    reward: Float[np.ndarray, "B S"],
    ends: Float[np.ndarray, " E"],
    worth: Float[np.ndarray, " E"],
) -> float:
    """Reward at matched KL: at the KL(pi‖pi_ref) where the best policy has gained a quarter, half and three quarters of the
    reward that can be gained, the share of that gain that mixtures of the penalty's policies (and the reference) reach.

    Averaged over the three, and over seeds, whose policies are mixed by themselves. ends: the reference's probability of each
    end state, worth: its reward. A mixture's reward is the mean of its parts', and its KL at most the mean of theirs; the best
    policy is KL(pi‖pi_ref)'s optimum. So nothing scores above 1, and even exact optima stay a little below it: there is one
    policy a coefficient, and mixtures between.
    """
    first, most = float(ends @ worth), float(np.max(worth[ends > 0.0]))
    levels = [first + share * (most - first) for share in SHARES]
    budgets = np.array([least_kl(ends, worth, level) for level in levels])
    per_seed = [mixtures(kl[:, s], reward[:, s], first, budgets) for s in range(kl.shape[1])]
    return float(np.mean([(reached - first) / (np.array(levels) - first) for reached in per_seed]))


def mixtures(
    kl: Float[np.ndarray, " B"], reward: Float[np.ndarray, " B"], first: float, budgets: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """The largest reward at each budget of KL among mixtures of these policies and the reference (KL 0, reward `first`)."""
    inside = np.isfinite(kl) & np.isfinite(reward)
    kl, reward = np.append(kl[inside], 0.0), np.append(reward[inside], first)
    found = []
    for budget in budgets:
        below, above = kl <= budget, kl > budget
        best = float(np.max(reward[below]))
        if above.any():
            part = (budget - kl[below, None]) / (kl[None, above] - kl[below, None])
            best = max(best, float(np.max(reward[below, None] + part * (reward[None, above] - reward[below, None]))))
        found.append(best)
    return np.array(found)


def least_kl(ends: Float[np.ndarray, " E"], worth: Float[np.ndarray, " E"], level: float) -> float:
    """The least KL(pi‖pi_ref) at which some policy earns `level`: that of pi_ref e^(r/beta)/Z at the right beta (bisection)."""
    inside = ends > 0.0
    log_ref, reward = np.log(ends[inside]), worth[inside] - np.max(worth[inside])

    def tilted(log_beta: float) -> tuple[float, float]:
        log_pi = log_ref + reward / np.exp(log_beta)
        log_pi = log_pi - np.logaddexp.reduce(log_pi)
        pi = np.exp(log_pi)
        return float(pi @ reward), float(pi @ (log_pi - log_ref))

    low, high = -20.0, 20.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if tilted(middle)[0] > level - np.max(worth[inside]) else (low, middle)
    return tilted(0.5 * (low + high))[1]


def coverage(kept: list[Float[np.ndarray, "B S"]], returned: list[Float[np.ndarray, "B S"]]) -> float:
    """Coverage: half for keeping equally good outcomes in the reference's proportions (1 less the total variation between
    policy and reference among the best-rewarded outcomes; an array a task), half for bringing back an arm that the start has
    dropped (its probability over the reference's, 1 at most; an array a start)."""
    mean = lambda parts: float(np.mean([np.mean(np.clip(part, 0.0, 1.0)) for part in parts]))  # noqa: E731
    return 0.5 * mean(kept) + 0.5 * mean(returned)


def robustness(passed: Bool[np.ndarray, " C"]) -> float:
    """Robustness to extreme log-ratios: the share of checks that the training's own loss and gradient pass, in float32 and
    float64, at log-ratios of 200 and -200 (finite), at equal policies (zero), and at a token of reference probability zero
    (finite or infinite as the divergence declares, never NaN)."""
    return float(np.mean(passed))
