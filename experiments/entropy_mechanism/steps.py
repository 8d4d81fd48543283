"""Small exact steps of random softmax policies, and the change of entropy that a covariance predicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.nn import log_softmax
from jaxtyping import Array, Float

from rlkl import exact
from rlkl.settings import numerics
from rlkl.tasks.bandits import bandit

SIZES, POLICIES = (3, 5, 10, 30), 100  # arms, and policies of each size
STEPS = (1e-1, 1e-2, 3e-3, 1e-3, 1e-4)
KINDS = ("gradient", "natural")
SPREAD = 1.0  # standard deviation of the logits
WORTH = {
    "gradient": 1.0,
    "natural": 0.5,
}  # and of the rewards: what is left out grows with their square, and with the step's length
COLUMNS = ["kind", "arms", "policy", "step", "covariance", "predicted", "measured"]


def table(seed: int = 0, policies: int = POLICIES) -> pd.DataFrame:
    """A row a kind of step, size, policy and step: the covariance, the predicted change of entropy and the measured
    one (to 9 digits)."""
    rows = []
    with numerics.pinned():
        for arms in SIZES:
            draw = np.random.default_rng((seed, arms))
            logits, reward = SPREAD * draw.standard_normal((policies, arms)), draw.standard_normal((policies, arms))
            for kind in KINDS:
                found = jax.jit(jax.vmap(CHANGES[kind]))(jnp.asarray(logits), jnp.asarray(WORTH[kind] * reward))
                covariance, measured = (np.asarray(x) for x in found)
                at = pd.MultiIndex.from_product([[kind], [arms], range(policies), STEPS], names=COLUMNS[:4]).to_frame(
                    index=False
                )
                wide = np.repeat(covariance, len(STEPS))
                rows.append(at.assign(covariance=wide, predicted=-at["step"] * wide, measured=measured.ravel()))
    found = pd.concat(rows, ignore_index=True)[COLUMNS]
    numbers = ["covariance", "predicted", "measured"]
    found[numbers] = found[numbers].map(lambda value: float(f"{value:.9g}"))
    return found


def changes(logits: Float[Array, " A"], reward: Float[Array, " A"], natural: bool):
    """The covariance, and the change of entropy at each of STEPS.

    A step goes along the exact gradient of the exact reward; a natural one along that over the probabilities, the advantages:
    the covariances are of log pi with pi A and with A.
    """
    task = bandit(np.zeros(logits.size), np.full(logits.size, 1.0 / logits.size))

    def worth(logits):
        return exact.mean(jnp.exp(log_softmax(logits)), reward)

    def entropy(logits):
        rows = log_softmax(logits)[None, None]
        return exact.visited(exact.occupancy(task.automaton, rows), exact.mean(jnp.exp(rows), -rows))

    log_pi = log_softmax(logits)
    pi, advantage = jnp.exp(log_pi), reward - worth(logits)
    favoured, way = (advantage, jax.grad(worth)(logits) / pi) if natural else (pi * advantage, jax.grad(worth)(logits))
    covariance = exact.mean(pi, log_pi * favoured) - exact.mean(pi, log_pi) * exact.mean(pi, favoured)
    return covariance, jax.vmap(lambda step: entropy(logits + step * way) - entropy(logits))(jnp.asarray(STEPS))


CHANGES = {kind: functools.partial(changes, natural=kind == "natural") for kind in KINDS}
