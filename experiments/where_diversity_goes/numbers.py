"""What a policy is like, from the log-probability of each of its sequences: exact numbers, nats, per sequence."""

import numpy as np
from jaxtyping import Float

from experiments.where_diversity_goes.places import Place
from rlkl.evaluation import diversity

DRAWS = 100  # from which distinct n-grams and modes are expected
NUMBERS = ("entropy", "effective_support", "distinct", "mode_coverage", "reward", "kl_pi_ref", "typicality")


def of(at: Place, log_pi: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Entropy and exp of it; distinct-n; the share of the best-rewarded end states expected among DRAWS draws; E[gold];
    KL(pi‖pi_ref); E[log pi_ref]."""
    p = np.exp(log_pi)
    entropy, typical = -float(_mean(p, log_pi)), float(_mean(p, at.log_ref))
    reward = np.asarray(at.task.reward)
    ends, outcomes = np.bincount(at.end, weights=p, minlength=len(reward)), at.task.automaton.outcomes
    found = {
        "entropy": entropy,
        "effective_support": float(np.exp(entropy)),
        "distinct": distinct(at, p),
        "mode_coverage": diversity.mode_coverage(ends[outcomes], diversity.modes(reward[outcomes]), DRAWS),
        "reward": float(p @ reward[at.end]),
        "kl_pi_ref": -entropy - typical,
        "typicality": typical,
    }
    return {name: found[name] for name in NUMBERS}


def _mean(p: np.ndarray, values: np.ndarray) -> float:
    """E[values]; what has probability zero may be infinite."""
    return float(np.sum(np.where(p > 0.0, p * np.where(p > 0.0, values, 0.0), 0.0)))


def distinct(at: Place, p: Float[np.ndarray, " N"]) -> float:
    """Different n-grams expected among DRAWS sequences, over the n-grams expected there: n = 2, and 1 on a bandit. A ratio of
    two exact expectations, where distinct-n of a corpus (Li et al. 2016, arXiv 1510.03055) is one draw of a ratio."""
    sequence, gram = at.grams
    seen = np.minimum(np.bincount(gram, weights=p[sequence]), 1.0)
    return float(np.sum(1.0 - (1.0 - seen) ** DRAWS) / (DRAWS * (p @ at.length)))
