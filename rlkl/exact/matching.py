"""The coefficients at which optima match: at equal KL or at equal reward, not at equal beta, divergences can be compared.

The optimal objective is convex in beta, so that both the reward and the divergence that is penalised fall as beta grows; the
optimum's other KL is found by the same bisection.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import divergences, policies
from rlkl.divergences import Divergence, Params
from rlkl.errors import SettingsError
from rlkl.exact import bandit_optimum, policy_values
from rlkl.settings import numerics
from rlkl.tasks import Task

Quantity = Callable[[Array], Array]
QUANTITIES = ("kl_pi_ref", "kl_ref_pi", "divergence", "reward")
NARROWEST, WIDEST = 1e-4, 1e4  # betas that are searched, times the range of the rewards
HALVINGS = 60
CLOSE = 1e-6  # relative: what the optimum at the found beta must have of what was wanted


def betas(
    task: Task, div: Divergence, wanted, quantity: str | Quantity = "kl_pi_ref", params: Params | None = None
) -> Float[np.ndarray, " K"]:
    """The beta at which the task's optimum under a divergence has each wanted value of a quantity.

    quantity: "kl_pi_ref", "kl_ref_pi", "divergence" (the one that is penalised), all in nats a sequence, "reward", or a
    function of log pi* over arms (over several tokens: end states) that falls as beta grows. wanted: one number or K of them.
    `SettingsError` names what no optimum has, and the range that optima span, or what they jump over.
    Source: bisection in log beta on `bandit_optimum.solve_bandit`. Over several tokens the ratio of optimum and reference
    depends on the end state alone, so that it is a bandit, too; a typicality reward is therefore refused there.
    """
    if isinstance(quantity, str) and quantity not in QUANTITIES:
        raise SettingsError("quantity", quantity, f"must be one of {', '.join(QUANTITIES)}")
    if task.automaton.horizon > 1 and float(task.typicality) != 0.0:
        raise SettingsError("task.typicality", float(task.typicality), "must be 0 where optima are matched over several tokens")
    named = quantity if isinstance(quantity, str) else "quantity"
    values = np.atleast_1d(np.asarray(wanted, np.float64))
    with numerics.pinned():
        log_p, reward = _outcomes(task)
        spread = float(jnp.max(reward) - jnp.min(reward))
        if not spread > 0.0:
            raise SettingsError("task.reward", float(reward[0]), "is earned everywhere: every beta has the same optimum")
        ends = spread * jnp.asarray([NARROWEST, WIDEST])
        found = _search(div, quantity, Params() if params is None else params, log_p, reward, jnp.asarray(values), ends)
        beta, got, (most, least) = (np.asarray(each) for each in found)
    for value, near in zip(values, got, strict=True):
        if not least <= value <= most:
            raise SettingsError("wanted", value, f"no optimum has this {named}: they span {least:.6g} to {most:.6g}")
        if not abs(near - value) <= CLOSE * (abs(value) + CLOSE):
            raise SettingsError("wanted", value, f"no optimum has this {named}: it jumps there, to {near:.6g}")
    return beta


@partial(jax.jit, static_argnums=(0, 1))
def _search(div: Divergence, quantity: str | Quantity, params: Params, log_p, reward, wanted, ends):
    """The beta of each wanted value, what the optimum has there, and what it has at both ends of the bracket."""
    reached = jax.vmap(lambda beta: _value(div, quantity, params, log_p, reward, beta))

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.sqrt(low * high)
        over = reached(middle) > wanted
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, tuple(jnp.broadcast_to(end, wanted.shape) for end in ends))
    found = jnp.concatenate([jnp.sqrt(low * high), ends])
    got = reached(found)
    return found[:-2], got[:-2], got[-2:]


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
    ends = policy_values.outcome_probabilities(automaton, reference.table())
    return jnp.log(ends)[automaton.outcomes], jnp.asarray(task.reward)[automaton.outcomes]


def _value(div: Divergence, quantity: str | Quantity, params: Params, log_p, reward, beta) -> Float[Array, ""]:
    """What the optimum at a beta has of a quantity."""
    best = bandit_optimum.solve_bandit(div, params, log_p, reward, beta)
    if not isinstance(quantity, str):
        return quantity(best)
    if quantity == "reward":
        return jnp.sum(jnp.exp(best) * reward)
    measured = div if quantity == "divergence" else divergences.REGISTRY[quantity]
    return divergences.exact(measured, params, best, log_p)
