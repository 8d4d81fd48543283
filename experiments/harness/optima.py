"""Exact optima of a bandit over beta, for the lines under the dots."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rlkl import divergences
from rlkl.exact import bandit_optimum
from rlkl.settings import numerics
from rlkl.tasks import Task

DIVERGENCES = ("kl_pi_ref", "kl_ref_pi", "jensen_shannon", "hellinger", "pearson", "neyman", "total_variation")


@partial(jax.jit, static_argnums=0)
def _best(divergence: str, log_ref, reward, betas):
    solve = partial(bandit_optimum.solve_bandit, divergences.REGISTRY[divergence], divergences.Params())
    return jax.vmap(lambda beta: solve(log_ref, reward, beta))(betas)


def over_beta(task: Task, divergence: str, betas: np.ndarray) -> np.ndarray:
    """log pi* of each arm at each beta: Float["B A"], in float64."""
    with numerics.pinned():
        log_ref, reward = jnp.asarray(task.log_reference[0]), jnp.asarray(task.reward[1:])
        return np.asarray(_best(divergence, log_ref, reward, jnp.asarray(betas, jnp.float64)))


@partial(jax.jit, static_argnums=0)
def _value(divergence: str, log_pi, log_ref):
    return divergences.exact(divergences.REGISTRY[divergence], divergences.Params(), log_pi, log_ref)


def value(task: Task, divergence: str, log_pi: np.ndarray) -> np.ndarray:
    """D(pi, pi_ref) of each row of a bandit's log-probabilities."""
    with numerics.pinned():
        log_ref = jnp.broadcast_to(jnp.asarray(task.log_reference[0]), log_pi.shape)
        return np.asarray(_value(divergence, jnp.asarray(log_pi), log_ref))


def reward(task: Task, log_pi: np.ndarray) -> np.ndarray:
    """E[r] of each row of a bandit's log-probabilities."""
    return np.exp(log_pi) @ np.asarray(task.reward[1:])


def tilted(log_ref: np.ndarray, reward: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """log of pi_ref e^(r/beta)/Z, the optimum under KL(pi‖pi_ref), a row a coefficient: Float["B A"]."""
    weight = log_ref + reward / np.asarray(betas)[:, None]
    return weight - np.logaddexp.reduce(weight, axis=1)[:, None]
