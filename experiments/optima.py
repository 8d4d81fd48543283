"""Exact optima of a bandit over beta, for the lines under the dots."""

import jax
import jax.numpy as jnp
import numpy as np

from rlkl import divergences, oracle
from rlkl.tasks import Task


def over_beta(task: Task, divergence: str, betas: np.ndarray) -> np.ndarray:
    """log pi* of each arm at each beta: Float["B A"], in float64."""
    div = divergences.REGISTRY[divergence]
    with jax.enable_x64(True):
        log_ref, reward = jnp.asarray(task.log_reference[0]), jnp.asarray(task.reward[1:])
        best = jax.vmap(lambda beta: oracle.solve_bandit(div, divergences.Params(), log_ref, reward, beta))
        return np.asarray(jax.jit(best)(jnp.asarray(betas)))


def tilted(log_ref: np.ndarray, reward: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """log of pi_ref e^(r/beta)/Z, the optimum under KL(pi‖pi_ref), a row a coefficient: Float["B A"]."""
    weight = log_ref + reward / np.asarray(betas)[:, None]
    return weight - np.logaddexp.reduce(weight, axis=1)[:, None]
