"""The minority's share in the optimum, with two answers, in closed form and over finitely many pairs by exact sums.

A share s of the annotators prefers answer A. Under Bradley-Terry r_A - r_B = log(s/(1-s)). The reference gives A the
probability q. The closed forms are derived here; that the first one falls short of s is the claim of arXiv 2405.16455.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binom


def under_kl_pi_ref(s, beta, q=0.5):
    """A's share in the optimum of E[r] - beta KL(pi‖pi_ref): q s^(1/beta) over the sum of both such terms."""
    return expit(logit(q) + logit(s) / beta)


def under_kl_ref_pi(s: float, beta: float, q: float = 0.5) -> float:
    """A's share x in the optimum of E[r] - beta KL(pi_ref‖pi), where (1-q)/(1-x) - q/x = (r_A - r_B)/beta."""
    pull = lambda x: beta * ((1.0 - q) / (1.0 - x) - q / x) - logit(s)  # noqa: E731
    return float(brentq(pull, 1e-15, 1.0 - 1e-15, xtol=1e-16))


def break_even_kl_pi_ref(s: float, q: float) -> float:
    """The beta at which KL(pi‖pi_ref) keeps the share s, logit(s) = logit(q) + logit(s)/beta; negative or inf: at none."""
    rest = logit(s) - logit(q)
    return float(np.inf if rest == 0.0 else logit(s) / rest)


def break_even_kl_ref_pi(s: float, q: float) -> float:
    """The beta at which KL(pi_ref‖pi) keeps the share s."""
    return float(logit(s) / ((1.0 - q) / (1.0 - s) - q / s))


def matched(rewards: np.ndarray, phrasings: np.ndarray, subtracted: bool) -> np.ndarray:
    """Each answer's share in softmax(r) over phrasings, with or without log(phrasings) subtracted from each one's reward."""
    weight = phrasings * np.exp(rewards - (np.log(phrasings) if subtracted else 0.0))
    return weight / weight.sum()


def fitted_log_odds(wins: np.ndarray, pairs: np.ndarray, ridge: float) -> np.ndarray:
    """The fitted r_A - r_B from `wins` of A in `pairs` pairs; the values are +-half of it, with a penalty of ridge/2 each.

    Newton's method on pairs log(1 + e^d) - wins d + ridge d^2/4, which is convex.
    """
    d = np.zeros(np.broadcast(wins, pairs).shape)
    for _ in range(200):
        slope = pairs * expit(d) - wins + 0.5 * ridge * d
        step = slope / (pairs * expit(d) * expit(-d) + 0.5 * ridge)
        d = d - np.clip(step, -1.0, 1.0)
    return d


def over_pairs(s: float, count: int, beta: float, q: float, ridge: float) -> tuple[float, float]:
    """Mean and standard deviation of A's share in the optimum of a reward fitted to `count` pairs that the reference draws.

    By the sum over how many pairs hold both answers, a binomial of 2q(1-q), and how many of these A wins, a binomial of s.
    """
    both, wins = np.arange(count + 1)[:, None], np.arange(count + 1)[None, :]
    weight = binom.pmf(both, count, 2.0 * q * (1.0 - q)) * binom.pmf(wins, both, s)
    share = under_kl_pi_ref(expit(fitted_log_odds(np.minimum(wins, both), both, ridge)), beta, q)
    mean = float(np.sum(weight * share))
    return mean, float(np.sqrt(np.sum(weight * (share - mean) ** 2)))
