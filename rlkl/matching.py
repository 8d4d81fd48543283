"""The coefficients at which optima match: at equal KL or at equal reward, not at equal beta, divergences can be compared.

The optimal objective is convex in beta, so that both the reward and the divergence that is penalised fall as beta grows; the
optimum's other KL is found by the same bisection.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import divergences, exact, oracle, policies
from rlkl.divergences import Divergence, Params
from rlkl.settings import SettingsError
from rlkl.tasks import Task

QUANTITIES = ("kl_pi_ref", "kl_ref_pi", "divergence", "reward")
NARROWEST, WIDEST = 1e-4, 1e4  # betas that are searched, times the range of the rewards
HALVINGS = 60
CLOSE = 1e-6  # relative: what the optimum at the found beta must have of what was wanted


def betas(task: Task, div: Divergence, wanted, quantity: str = "kl_pi_ref", params: Params | None = None) -> np.ndarray:
    """The beta at which the task's optimum under a divergence has each wanted value of a quantity: Float["K"].

    quantity: "kl_pi_ref", "kl_ref_pi", "divergence" (the one that is penalised), all in nats a sequence, or "reward". wanted:
    one number or K of them. Needs no x64 of the caller's. `SettingsError` names what no optimum has, and the range that
    optima span. Source: bisection in log beta on `oracle.solve_bandit` over the task's end states, on which alone the ratio
    of optimum and reference depends; a typicality reward is therefore refused over several tokens.
    """
    if quantity not in QUANTITIES:
        raise SettingsError("quantity", quantity, f"must be one of {', '.join(QUANTITIES)}")
    if task.automaton.horizon > 1 and float(task.typicality) != 0.0:
        raise SettingsError("task.typicality", float(task.typicality), "must be 0 where optima are matched over several tokens")
    params = Params() if params is None else params
    values = np.atleast_1d(np.asarray(wanted, np.float64))
    with jax.enable_x64(True):
        log_p, reward = _outcomes(task)
        spread = float(jnp.max(reward) - jnp.min(reward))
        if not spread > 0.0:
            raise SettingsError("task.reward", float(reward[0]), "is earned everywhere: every beta has the same optimum")
        reached = jax.jit(jax.vmap(lambda beta: _value(div, params, log_p, reward, beta, quantity)))
        most, least = (float(reached(jnp.asarray([scale * spread]))[0]) for scale in (NARROWEST, WIDEST))
        for value in values:
            if not least <= value <= most:
                raise SettingsError("wanted", value, f"no optimum has this {quantity}: they span {least:.6g} to {most:.6g}")

        def halve(_, bracket):
            low, high = bracket
            middle = jnp.sqrt(low * high)
            over = reached(middle) > values
            return jnp.where(over, middle, low), jnp.where(over, high, middle)

        bracket = (jnp.full(values.shape, NARROWEST * spread), jnp.full(values.shape, WIDEST * spread))
        low, high = jax.lax.fori_loop(0, HALVINGS, halve, bracket)
        found = jnp.sqrt(low * high)
        for value, got in zip(values, np.asarray(reached(found)), strict=True):
            if abs(got - value) > CLOSE * max(abs(value), CLOSE * spread):
                raise SettingsError("wanted", value, f"no optimum has this {quantity}: it jumps there, to {got:.6g}")
        return np.asarray(found)


def _outcomes(task: Task) -> tuple[Float[Array, " E"], Float[Array, " E"]]:
    """The task as a bandit: log of the reference's probability of each arm (over several tokens, of each end state), and what
    it earns, typicality included."""
    automaton = task.automaton
    if automaton.horizon == 1:
        weight, row = float(task.typicality), task.log_reference[automaton.start]
        legal = automaton.legal[automaton.start] & ((row > -np.inf) | (weight == 0.0))  # else it earns minus infinity
        reward = task.reward[automaton.next_state[automaton.start, legal]]
        return jnp.asarray(row[legal]), jnp.asarray(reward + (weight * row[legal] if weight else 0.0))
    reference = policies.Fixed(jnp.asarray(task.log_reference), automaton.horizon)
    ends = exact.outcome_probabilities(automaton, reference.table())
    return jnp.log(ends)[automaton.outcomes], jnp.asarray(task.reward)[automaton.outcomes]


def _value(div: Divergence, params: Params, log_p, reward, beta: Float[Array, ""], quantity: str) -> Float[Array, ""]:
    """What the optimum at a beta has of a quantity."""
    best = oracle.solve_bandit(div, params, log_p, reward, beta)
    if quantity == "reward":
        return jnp.sum(jnp.exp(best) * reward)
    measured = div if quantity == "divergence" else divergences.REGISTRY[quantity]
    return divergences.exact(measured, params, best, log_p)
