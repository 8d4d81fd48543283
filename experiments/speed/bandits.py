"""The bandit that every peer of `bandit_peers` trains on, and how good a policy on it is."""

import numpy as np

RUNS, BATCH, BETA, RATE = 256, 64, 0.1, 0.1


def bandit(arms: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-reference and reward of each arm."""
    draw = np.random.default_rng(0)
    return np.log(draw.dirichlet(np.ones(arms))), draw.normal(size=arms)


def regret(logits: np.ndarray) -> np.ndarray:
    """The regret of each row's softmax policy under E[r] - BETA KL(pi‖pi_ref), whose largest value has a closed form."""
    logits = np.asarray(logits, np.float64)
    log_reference, reward = bandit(logits.shape[1])
    log_pi = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    objective = np.sum(np.exp(log_pi) * (reward - BETA * (log_pi - log_reference)), axis=1)
    return BETA * np.logaddexp.reduce(log_reference + reward / BETA) - objective
