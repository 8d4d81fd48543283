"""Exact optima of E[r] - beta D for many rewards at once, D = KL(pi‖pi_ref) or KL(pi‖pi_ref) + ½χ²(pi‖pi_ref), in NumPy.

Where the likelihood of the pairs has a maximum and the policy is a table, they are what DPO and chi-squared preference
optimisation converge to (tests/tasks/test_preferences.py).
"""

import numpy as np
from jaxtyping import Float

HALVINGS, STEPS = 60, 8


def optimum(link: str, reference: Float[np.ndarray, " A"], reward: Float[np.ndarray, "M A"], beta: float) -> np.ndarray:
    """pi* of each reward: Float["M A"]. link: kl_pi_ref (log t) or kl_chi2 (t + log t)."""
    scaled = (reward - reward.max(axis=1, keepdims=True)) / beta
    if link == "kl_pi_ref":
        weight = np.log(reference) + scaled
        found = np.exp(weight - weight.max(axis=1, keepdims=True))
    else:
        # t + log t = r/beta + c: at c = 1 no arm is above the reference, at the highest c the best arm has all mass or more.
        rarest = 1.0 / reference.min()
        low, high = np.ones(len(reward)), np.full(len(reward), rarest + np.log(rarest))
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            over = ratio(scaled + middle[:, None]) @ reference > 1.0
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        found = reference * ratio(scaled + 0.5 * (low + high)[:, None])
    return found / found.sum(axis=1, keepdims=True)


def ratio(y: np.ndarray) -> np.ndarray:
    """The t with t + log t = y, by Newton's method on u = log t, for which e^u + u is convex and rising."""
    u = np.where(y > 1.0, np.log(np.maximum(y, 1.0)), y)
    for _ in range(STEPS):
        t = np.exp(u)
        u = u - (t + u - y) / (1.0 + t)
    return np.exp(u)
