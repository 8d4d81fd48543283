"""What a policy is worth, and the only place that chooses how it is known (today: the dynamic program)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact
from rlkl.divergences import Divergence, Params
from rlkl.exact import Values
from rlkl.oracle import Optimum
from rlkl.tasks.automaton import Task


class Report(NamedTuple):
    """A policy graded: scalars, nats, per sequence.

    objective: E[r] - beta D; regret: the optimum's objective less it; kl_pi_optimum: KL(pi||pi*).
    """

    values: Values
    objective: Float[Array, ""]
    regret: Float[Array, ""]
    kl_pi_optimum: Float[Array, ""]


def evaluate(
    task: Task,
    log_pi: Float[Array, "T D V"],
    log_ref: Float[Array, "T D V"],
    div: Divergence | None,
    params: Params,
    beta: Float[Array, ""],
    optimum: Optimum,
) -> Report:
    """Exact values by dynamic programming, for policies that are tables."""
    kl = divergences.REGISTRY["kl_pi_ref"]
    values = exact.values(task, div or kl, params, log_pi, log_ref)
    objective = values.reward if div is None else values.reward - beta * values.divergence
    to_optimum = exact.sequence_divergence(task.automaton, kl, params, log_pi, optimum.log_pi)
    return Report(values, objective, optimum.objective - objective, jnp.where(optimum.tied, jnp.nan, to_optimum))
