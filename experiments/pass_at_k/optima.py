"""Exact optima of six methods on prompts of reward 0 and 1, in NumPy; p is the probability of a success given the prompt.

q: the reference's probabilities, Float["P V"]; success: 1 for the correct answers, else 0; beta: the coefficient of
KL(pi‖pi_ref), or in `forward_kl` of KL(pi_ref‖pi); strength: the method's own coefficient. The result is Float["P V"].

- plain: pi ∝ q e^(r/beta).
- pass@k: the plain form at each prompt's own p, with k (1 - p)^(k - 1) = beta (logit p - logit v), v the reference's p.
- entropy bonus c: pi ∝ q^(beta/(beta + c)) e^(r/(beta + c)).
- smoothing by gamma (log pi held fixed, so that a success counts 1 + gamma; see `rlkl.training.likelihood_rewards`): correct
  answers q^(beta/(beta + gamma)) e^((1 - m)/(beta + gamma)), wrong ones q e^(-m/beta), with m such that both sum to 1.
- KL(pi_ref‖pi): beta q/(m - r), with m such that these sum to 1.
- the unlikeliness reward: `fixed_points`.

All but the first are derived here; the first is textbook (Korbak et al. 2022, arXiv 2206.00761).
"""

import math
from collections.abc import Callable

import numpy as np
import scipy
from scipy.special import log_expit, logit, logsumexp

from experiments.pass_at_k import fixed_points

# The strength of each method, which stays as it is while its beta is matched; plain and KL(pi_ref‖pi) have none.
STRENGTHS = {"pass@k": 8.0, "unlikeliness": 0.5, "smoothing": 0.1, "entropy bonus": 0.1}
GROUP = 16
MATCHED_WITHIN = (0.01, 2.0)  # where the beta of a matched optimum is sought


def plain(q: np.ndarray, success: np.ndarray, beta: float, strength: float = math.nan) -> np.ndarray:
    """The optimum of E[r] - beta KL(pi‖pi_ref)."""
    return scipy.special.softmax(np.log(q) + success / beta, axis=-1)


def pass_at_k(q: np.ndarray, success: np.ndarray, beta: float, k: float) -> np.ndarray:
    """The optimum of 1 - (1 - p)^k - beta KL(pi‖pi_ref): successes keep the reference's proportions, and failures too."""
    reference = logit(q @ success)

    def pull(x: float, start: float) -> float:
        return k * np.exp((k - 1.0) * log_expit(-x)) - beta * (x - start)

    ends = [scipy.optimize.brentq(pull, start, start + k / beta, args=(start,), xtol=1e-13) for start in reference]
    rise, fall = (log_expit(sign * np.array(ends)) - log_expit(sign * reference) for sign in (1.0, -1.0))
    return q * np.exp(np.where(success > 0, rise[:, None], fall[:, None]))


def entropy_bonus(q: np.ndarray, success: np.ndarray, beta: float, c: float) -> np.ndarray:
    """The optimum of E[r] - beta KL(pi‖pi_ref) + c H(pi)."""
    return scipy.special.softmax((beta * np.log(q) + success) / (beta + c), axis=-1)


def smoothing(q: np.ndarray, success: np.ndarray, beta: float, gamma: float) -> np.ndarray:
    """The optimum of (1 + gamma) p - gamma sum over correct y of pi(y) log pi(y) - beta KL(pi‖pi_ref)."""

    def log_pi(m: float, row: np.ndarray) -> np.ndarray:
        return np.where(success > 0, (beta * row + 1.0 - m) / (beta + gamma), row - m / beta)

    def excess(m: float, row: np.ndarray) -> float:
        return float(logsumexp(log_pi(m, row)))

    rows = np.log(q)
    return np.exp(np.stack([log_pi(scipy.optimize.brentq(excess, -5.0, 5.0, args=(row,), xtol=1e-14), row) for row in rows]))


def forward_kl(q: np.ndarray, success: np.ndarray, beta: float, strength: float = math.nan) -> np.ndarray:
    """The optimum of E[r] - beta KL(pi_ref‖pi)."""
    # With v the reference's success, v/(m - 1) + (1 - v)/m = 1/beta: a quadratic, of which the larger root keeps pi positive.
    half = 0.5 * (1.0 + beta)
    m = half + np.sqrt(half**2 - beta * (1.0 - q @ success))
    return beta * q / (m[:, None] - success)


def unlikeliness(q: np.ndarray, success: np.ndarray, beta: float, weight: float) -> np.ndarray:
    """The fixed point of the unlikeliness reward in groups of `GROUP`, with beta KL(pi‖pi_ref)."""
    return np.stack([fixed_points.fixed_point(row, success, beta, weight, GROUP) for row in q])


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {
    "plain": plain,
    "pass@k": pass_at_k,
    "unlikeliness": unlikeliness,
    "smoothing": smoothing,
    "entropy bonus": entropy_bonus,
    "KL(pi_ref‖pi)": forward_kl,
}


def matched_beta(method: str, strength: float, q: np.ndarray, success: np.ndarray, target: float) -> float:
    """The coefficient at which the method's optimum has this mean success probability over prompts."""

    def excess(log_beta: float) -> float:
        return float((METHODS[method](q, success, np.exp(log_beta), strength) @ success).mean()) - target

    return float(np.exp(scipy.optimize.brentq(excess, *np.log(MATCHED_WITHIN), xtol=1e-9)))


def objective(method: str, strength: float, pi: np.ndarray, q: np.ndarray, success: np.ndarray, beta: float) -> float:
    """What the method maximises, as a mean over prompts; NaN of the unlikeliness reward, which maximises nothing."""
    p, log_pi = pi @ success, np.log(pi)
    penalty = (q * (np.log(q) - log_pi) if method == "KL(pi_ref‖pi)" else pi * (log_pi - np.log(q))).sum(-1)
    gained = {
        "pass@k": lambda: 1.0 - (1.0 - p) ** strength,
        "unlikeliness": lambda: np.full_like(p, math.nan),
        "smoothing": lambda: (1.0 + strength) * p - strength * (pi * log_pi) @ success,
        "entropy bonus": lambda: p - strength * (pi * log_pi).sum(-1),
    }
    return float(np.mean(gained.get(method, lambda: p)() - beta * penalty))
