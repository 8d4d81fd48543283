"""The optimum of what a penalty descends, by `penalties.expected_gradient`: where training should end, found without it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact
from rlkl.divergences import REGISTRY, Params
from rlkl.exact import bandit_optimum, optimal_policy
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import expected_gradient, formula, own_states, semi
from rlkl.policies import table_of
from rlkl.rollouts import batch, scoring
from rlkl.tasks.automaton import Task
from rlkl.training import spec
from rlkl.training.spec import Run

DESCENDED = (*((name, 1.0) for name in REGISTRY), ("total_variation", 2.0))


def of(run: Run) -> Float[Array, " N"] | None:
    """log pi(y) of every listed sequence at the end of a run's way: of the optimum of E[r] alone where its penalty is inert; of
    the divergence's that it descends; of the myopic policy where that is a semi-gradient. None where no end is known."""
    chosen, horizon = run.settings.penalty, run.task.automaton.horizon
    found = expected_gradient(chosen, horizon)
    if found.kind == "inert" or chosen.divergence == "none":
        return optimum(run, None)
    for name, times in DESCENDED:
        if found.says == formula({name: times}):
            return optimum(run, name, times)
        if found.says == semi({name: times}).says:
            return by_rows(run, name, times, paid=False)
        if times == 1.0 and found.says == own_states(formula({name: 1.0})):
            return by_rows(run, name, times, paid=True)
    return None


def optimum(run: Run, name: str | None, times: float = 1.0) -> Float[Array, " N"]:
    """The exact optimum of E[r] - times beta D over whole sequences; of E[r] alone for None."""
    div, beta = None if name is None else REGISTRY[name], jnp.asarray(times * run.settings.penalty.beta, jnp.float64)
    best = optimal_policy.solve(dataclasses.replace(spec.objective(run, beta), divergence=div))
    listed = batch.enumerate_all(run.task.automaton)
    return best.log_probability(listed, scoring.log_probability(run.reference, listed))


def by_rows(run: Run, name: str, times: float, paid: bool) -> Float[Array, " N"]:
    """log pi of every listed sequence under `myopic` of a run's task, at a multiple of its coefficient."""
    beta = jnp.asarray(times * run.settings.penalty.beta, jnp.float64)
    params = options.parameters(run.settings.penalty, jnp.float64)
    table = myopic(run.task, name, beta, params, paid, table_of(run.reference))
    return jnp.sum(scoring.entries_along(table, batch.enumerate_all(run.task.automaton)), axis=1)


def myopic(
    task: Task,
    name: str,
    beta: Float[Array, ""],
    params: Params = Params(),
    paid: bool = False,
    log_ref: Float[Array, "T D V"] | None = None,
) -> Float[Array, "T D V"]:
    """The policy whose every row is the optimum of a bandit of its own, from the last token back: a token is worth what the
    rows after it earn, less (paid) what they pay in divergence. log_ref: the task's own reference where none is given.

    Not paid, it is the myopic policy, the only fixed point of a semi-gradient that keeps every token alive: a row's expected
    gradient is its bandit's own, times how often it is visited.
    """
    automaton, div = task.automaton, REGISTRY[name]
    if log_ref is None:
        log_ref = jnp.broadcast_to(jnp.asarray(task.log_reference), automaton.ends.shape)
    earned = exact.token_rewards(task, jnp.float64)
    inside, onward = jnp.asarray(automaton.legal), jnp.asarray(automaton.inner_next)
    ahead, rows = jnp.zeros((automaton.decisions + 1,), jnp.float64), []
    for t in reversed(range(automaton.horizon)):
        worth = jnp.where(inside, earned[t] + jnp.where(jnp.asarray(automaton.ends[t]), 0.0, ahead[onward]), -jnp.inf)
        row = jax.vmap(lambda ref, r: bandit_optimum.solve_bandit(div, params, ref, r, beta))(log_ref[t], worth)
        value = exact.mean(jnp.exp(row), worth)
        value -= beta * divergences.exact(div, params, row, log_ref[t]) if paid else 0.0
        ahead = jnp.append(value, jnp.zeros((), jnp.float64))
        rows.append(row)
    return jnp.stack(rows[::-1])
