"""Advantages and surrogate losses: pure functions of a batch, whichever way the batch was made."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import exact
from rlkl.divergences import Divergence, Params
from rlkl.rollout import Batch, Positions
from rlkl.tasks.automaton import Task

Advantage = Callable[[Float[Array, "N T"], Batch, Float[Array, ""]], Float[Array, "N T"]]
ADVANTAGES: dict[str, Advantage] = {}


def register(name: str):
    """Decorator: make (returns-to-go, batch, moving average of returns) -> advantages the algorithm `name`."""

    def add(advantage: Advantage) -> Advantage:
        ADVANTAGES[name] = advantage
        return advantage

    return add


def names() -> tuple[str, ...]:
    """Every value of `algorithm`."""
    return ("exact", *ADVANTAGES)


@register("reinforce")
def reinforce(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less a moving average of earlier batches' returns (Williams, Machine Learning 8, 1992)."""
    return returns - baseline


@register("rloo")
def rloo(returns: Float[Array, "N T"], batch: Batch, baseline: Float[Array, ""]) -> Float[Array, "N T"]:
    """Return less the mean of the other draws' (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740)."""
    mean = jnp.sum(batch.weight[:, None] * jnp.where(batch.mask, returns, 0.0), axis=0, keepdims=True)
    return returns - (batch.size * mean - returns) / (batch.size - 1)


def returns_to_go(rewards: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """The sum of a position's reward and all later ones."""
    return jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def token_rewards(task: Task, batch: Batch, dtype) -> Float[Array, "N T"]:
    """What each token of a batch earns, without any penalty."""
    earned = exact.token_rewards(task, dtype)
    position = jnp.arange(batch.tokens.shape[1])[None, :]
    state = jnp.minimum(batch.states[:, :-1], task.automaton.decisions - 1)
    return jnp.where(batch.mask, earned[position, state, batch.tokens], 0.0)


def score_loss(positions: Positions, batch: Batch, advantages: Float[Array, "N T"]) -> Float[Array, ""]:
    """-sum_n w_n sum_t A log pi(token): its gradient is minus the score-function estimate of the return's."""
    log_pi = positions.at(positions.log_pi, batch)
    per_position = jnp.where(batch.mask, jax.lax.stop_gradient(advantages) * log_pi, 0.0)
    return -jnp.sum(batch.weight * jnp.sum(per_position, axis=1))


def exact_loss(
    task: Task,
    div: Divergence | None,
    params: Params,
    beta: Float[Array, ""],
    log_pi: Float[Array, "T D V"],
    log_ref: Float[Array, "T D V"],
) -> Float[Array, ""]:
    """-J(pi): no sampling."""
    return -exact.objective(task, div, params, beta, log_pi, log_ref)
