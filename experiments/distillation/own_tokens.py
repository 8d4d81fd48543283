"""The student's own k most likely tokens: which sets it can end at, and which ones it does end at."""

import itertools

import numpy as np

from experiments.distillation import one_state
from experiments.distillation.one_state import softmax, top

STEPS, RATE = 4000, 0.3


def stationary_sets(loss: str, q: np.ndarray, k: int) -> int:
    """The number of sets of k tokens that are the student's own at a stationary policy without a token of probability 0.

    pi is q/e in K (dropped) or q (bucket), and what is left must fit below the least of them, spread evenly. Renormalised, pi
    has q's proportions in K and any mass, so that every set is one.
    """
    count = 0
    for chosen in itertools.combinations(range(len(q)), k):
        reached = q[list(chosen)] / (np.e if loss == "dropped" else 1.0)
        count += loss == "renormalised" or 1.0 - reached.sum() < (len(q) - k) * reached.min()
    return count


def trained(loss: str, logits: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    """The policy of each row of logits after gradient descent on the sum over its own k most likely tokens at each step."""
    for _ in range(STEPS):
        logits = logits + RATE * one_state.descent(loss, logits, q, top(logits, k))
    return softmax(logits)
