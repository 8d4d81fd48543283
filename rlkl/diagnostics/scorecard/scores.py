"""The six scores of a penalty, computed from measured numbers: each in [0, 1], where 1 is best; NaN where undefined.

NumPy on the host. Arrays over runs are [B S]: B coefficients, S seeds. E: end states. Rewards and objectives are in the task's
units, KLs in nats.
"""

import numpy as np
from jaxtyping import Bool, Float

SHARES = (0.25, 0.5, 0.75)  # shares of the attainable reward gain at which policies are compared at equal KL
HALVINGS = 200  # bisection steps in log beta


def gradient(error: Float[np.ndarray, " I"]) -> float:
    """Correctness of the gradient: 1 - relative error of the expected gradient, at least 0, averaged over I policies.

    The error is measured against the exact gradient of the divergence that the penalty names.
    """
    return float(np.mean(np.clip(1.0 - np.asarray(error), 0.0, 1.0)))


def objective(final: Float[np.ndarray, "B S"], start: float, best: Float[np.ndarray, " B"]) -> float:
    """Objective at a fixed budget: the share of the attainable gain in objective that training reaches.

    final: the objective after training; start: of the reference; best: of the optimum, whose gain over the reference is what
    can be attained. Gains are summed over all coefficients and averaged over seeds. NaN if there is nothing to gain.
    """
    gain = float(np.sum(best - start))
    if not gain > 0.0:
        return np.nan
    return _share(float(np.sum(np.mean(best[:, None] - final, axis=1))) / gain)


def seeds(objective: Float[np.ndarray, "B S"], start: float, best: Float[np.ndarray, " B"]) -> float:
    """Stability over seeds: 1 - range of the final objective among seeds, as a share of the optimum's gain over the reference.

    Ranges and gains are summed over all coefficients. NaN if there is nothing to gain.
    """
    gain = float(np.sum(best - start))
    if not gain > 0.0:
        return np.nan
    with np.errstate(invalid="ignore"):
        return _share(float(np.sum(np.max(objective, axis=1) - np.min(objective, axis=1))) / gain)


def _share(lost: float) -> float:
    """1 - lost, clipped to [0, 1]; 0 where the loss is not finite."""
    return float(np.clip(1.0 - lost, 0.0, 1.0)) if np.isfinite(lost) else 0.0


def reward_at_kl(
    kl: Float[np.ndarray, "B S"],
    reward: Float[np.ndarray, "B S"],
    reference: Float[np.ndarray, " E"],
    outcome_reward: Float[np.ndarray, " E"],
) -> float:
    """Reward at matched KL: the reward gain of the penalty's policies, as a share of the largest gain at that KL(pi‖pi_ref).

    It is measured at the three KLs where the best policy, the optimum under KL(pi‖pi_ref), gains SHARES of the attainable
    reward, and averaged over these and over seeds. The policies of a seed and the reference are mixed in pairs: a mixture's
    reward is the mean of the parts' rewards, and its KL is at most the mean of their KLs. Hence no score is above 1. Exact
    optima score slightly below 1, since between the coefficients there are only mixtures.
    reference: the reference's probability of each end state; outcome_reward: the reward of each end state.
    """
    start, largest = float(reference @ outcome_reward), float(np.max(outcome_reward[reference > 0.0]))
    levels = [start + share * (largest - start) for share in SHARES]
    budgets = np.array([least_kl(reference, outcome_reward, level) for level in levels])
    per_seed = [mixtures(kl[:, s], reward[:, s], start, budgets) for s in range(kl.shape[1])]
    return float(np.mean([(reached - start) / (np.array(levels) - start) for reached in per_seed]))


def mixtures(
    kl: Float[np.ndarray, " B"], reward: Float[np.ndarray, " B"], start: float, budgets: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """The largest reward within each KL budget, among mixtures of two of these policies and the reference (KL 0)."""
    inside = np.isfinite(kl) & np.isfinite(reward)
    kl, reward = np.append(kl[inside], 0.0), np.append(reward[inside], start)
    largest = []
    for budget in budgets:
        below, above = kl <= budget, kl > budget
        best = float(np.max(reward[below]))
        if above.any():
            part = (budget - kl[below, None]) / (kl[None, above] - kl[below, None])
            best = max(best, float(np.max(reward[below, None] + part * (reward[None, above] - reward[below, None]))))
        largest.append(best)
    return np.array(largest)


def least_kl(reference: Float[np.ndarray, " E"], outcome_reward: Float[np.ndarray, " E"], level: float) -> float:
    """The smallest KL(pi‖pi_ref) of a policy with mean reward `level`: that of pi_ref e^(r/beta)/Z, with beta by bisection."""
    inside = reference > 0.0
    log_ref, reward = np.log(reference[inside]), outcome_reward[inside] - np.max(outcome_reward[inside])

    def tilted(log_beta: float) -> tuple[float, float]:
        log_pi = log_ref + reward / np.exp(log_beta)
        log_pi = log_pi - np.logaddexp.reduce(log_pi)
        pi = np.exp(log_pi)
        return float(pi @ reward), float(pi @ (log_pi - log_ref))

    low, high = -20.0, 20.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if tilted(middle)[0] > level - np.max(outcome_reward[inside]) else (low, middle)
    return tilted(0.5 * (low + high))[1]


def coverage(proportions: list[Float[np.ndarray, "B S"]], returned: list[Float[np.ndarray, "B S"]]) -> float:
    """Coverage: the mean of two scores, for proportions kept and for a lost arm recovered.

    proportions: 1 - total variation between policy and reference among the outcomes of the largest reward; an array for each
    task. returned: final probability of an arm that the initial policy had lost, over its probability under the reference, at
    most 1; an array for each initial policy.
    """
    return 0.5 * _mean_score(proportions) + 0.5 * _mean_score(returned)


def _mean_score(parts: list[Float[np.ndarray, "B S"]]) -> float:
    """The mean over arrays of their mean score, clipped to [0, 1]."""
    return float(np.mean([np.mean(np.clip(part, 0.0, 1.0)) for part in parts]))


def extreme_ratios(passed: Bool[np.ndarray, " C"]) -> float:
    """Correctness at extreme log-ratios: the share of checks that the training loss and its gradient pass.

    In float32 and float64, they must be finite at log-ratios of 200 and -200, zero at equal policies, and at a token of
    reference probability zero finite or infinite as the divergence declares, never NaN.
    """
    return float(np.mean(passed))
