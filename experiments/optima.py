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
