"""Exact optima of the two prompts, with the reward's bias and each remedy.

r = gold + a log pi_ref. Under KL(pi‖pi_ref) the optimum is pi_ref^(1 + a/beta) e^(gold/beta)/Z (Zhang et al. 2025, arXiv
2510.01171); under KL(pi_ref‖pi) it is beta pi_ref/(L - r), with L such that it sums to 1. What each remedy makes of them is
derived here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# A random digit: 28.4% of 558 people said 7 (Kubovy and Psotka 1976); the nine other masses are made up.
REFERENCE = np.array([0.015, 0.045, 0.075, 0.13, 0.095, 0.125, 0.085, 0.284, 0.09, 0.056])
FAVOURITE, RAREST = 7, 0
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
HALVINGS = 200


class Prompt(NamedTuple):
    """A prompt: the reference's probability of each digit, and the gold reward."""

    reference: Float[np.ndarray, " A"]
    gold: Float[np.ndarray, " A"]


DIGIT = Prompt(REFERENCE, np.ones(10))  # every digit is right
FACT = Prompt(np.where(np.arange(10) == 4, 0.7, 0.3 / 9), (np.arange(10) == 4) * 1.0)  # one digit is right; made up


def optimum(
    direction: str, reference: Float[np.ndarray, " A"], reward: Float[np.ndarray, " A"], beta: float
) -> Float[np.ndarray, " A"]:
    """The policy that maximises E[r] - beta D, D in either direction."""
    if direction == "kl_pi_ref":
        return _normalised(np.log(reference) + reward / beta)
    top = reward.max()
    low, high = np.log(beta * reference[reward.argmax()]) - 1.0, np.log(beta)  # of the log of L - max r
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        over = np.sum(beta * reference / (np.exp(middle) + top - reward)) > 1.0
        low, high = (middle, high) if over else (low, middle)
    policy = beta * reference / (np.exp(0.5 * (low + high)) + top - reward)
    return policy / policy.sum()


def biased(direction: str, prompt: Prompt, weight: float, beta: float) -> Float[np.ndarray, " A"]:
    """The optimum where annotators add weight times log pi_ref to the gold reward."""
    return optimum(direction, prompt.reference, prompt.gold + weight * np.log(prompt.reference), beta)


def entropy(policy: Float[np.ndarray, " A"]) -> float:
    """Entropy in nats."""
    return float(-np.sum(np.where(policy > 0.0, policy * np.log(np.where(policy > 0.0, policy, 1.0)), 0.0)))


def kl(p: Float[np.ndarray, " A"], q: Float[np.ndarray, " A"]) -> float:
    """KL(p‖q)."""
    return float(np.sum(np.where(p > 0.0, p * (np.log(np.where(p > 0.0, p, 1.0)) - np.log(q)), 0.0)))


def tempered(policy: Float[np.ndarray, " A"], temperature: float) -> Float[np.ndarray, " A"]:
    """The policy as it is sampled at a temperature."""
    return _normalised(np.log(policy) / temperature)


def anchored(prompt: Prompt, reward: Float[np.ndarray, " A"], threshold: float, beta: float) -> Float[np.ndarray, " A"]:
    """The reward of MARA's algorithm 1 (GX-Chen et al. 2025, arXiv 2510.20817): the likeliest answer that reaches the threshold
    is the anchor z, and every answer that does earns r(z) + beta (log pi_ref(z) - log pi_ref)."""
    log_reference, good = np.log(prompt.reference), reward >= threshold
    anchor = np.where(good, log_reference, -np.inf).argmax()
    return np.where(good, reward[anchor] + beta * (log_reference[anchor] - log_reference), reward)


def flattened(
    direction: str, prompt: Prompt, reward: Float[np.ndarray, " A"], threshold: float, beta: float
) -> Float[np.ndarray, " A"]:
    """The optimum under MARA's algorithm 2: all answers that reach the threshold earn r(z) and have pi_ref(z) in the penalty.

    That reference sums to more than 1, to `total`; under KL(pi_ref‖pi) the coefficient grows by it.
    """
    good = reward >= threshold
    anchor = np.where(good, prompt.reference, -1.0).argmax()
    raised = np.where(good, prompt.reference[anchor], prompt.reference)
    total = raised.sum()
    coefficient = beta * total if direction == "kl_ref_pi" else beta
    return optimum(direction, raised / total, np.where(good, reward[anchor], reward), coefficient)


def _normalised(logits: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
    return np.exp(logits - np.logaddexp.reduce(logits))
