"""The coefficients beta at which the optima under different divergences have the same KL or the same reward.

Divergences are compared at equal KL or equal reward, since equal betas mean different things to them. The optimal objective is
convex in beta, so the optimum's reward and penalised divergence fall as beta grows, and bisection finds beta. The same
bisection is used for the other KL.
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
SMALLEST_BETA, LARGEST_BETA = 1e-4, 1e4  # bounds of the search, in units of the range of the rewards
HALVINGS = 60
TOLERANCE = 1e-6  # largest relative error of the quantity at the beta that the search returns


def betas(
    task: Task, div: Divergence, targets, quantity: str | Quantity = "kl_pi_ref", params: Params | None = None
) -> Float[np.ndarray, " K"]:
    """The beta at which the task's optimum under a divergence reaches each target value of a quantity.

    targets: one number or K of them. quantity: "kl_pi_ref", "kl_ref_pi" or "divergence" (the penalised one), all in nats per
    sequence; "reward"; or a function of log pi* over arms (over several tokens: over end states) that falls as beta grows.
    Raises `SettingsError` for a target that no optimum reaches; it gives the range of the optima, or the jump past the target.
    Method: bisection in log beta on `bandit_optimum.solve_bandit`. Over several tokens the ratio of optimum and reference
    depends on the end state alone, so the task is a bandit over end states. A typicality reward would break this and is refused
    there.
    """
    if isinstance(quantity, str) and quantity not in QUANTITIES:
        raise SettingsError("quantity", quantity, f"must be one of {', '.join(QUANTITIES)}")
    if task.automaton.prompts > 1:
        raise SettingsError("task", f"{task.automaton.prompts} prompts", "optima are matched on a task of one prompt")
    if task.automaton.horizon > 1 and float(task.typicality) != 0.0:
        raise SettingsError("task.typicality", float(task.typicality), "must be 0 where optima are matched over several tokens")
    name = quantity if isinstance(quantity, str) else "quantity"
    values = np.atleast_1d(np.asarray(targets, np.float64))
    with numerics.pinned():
        log_p, reward = _outcomes(task)
        reward_range = float(jnp.max(reward) - jnp.min(reward))
        if not reward_range > 0.0:
            raise SettingsError("task.reward", float(reward[0]), "is earned everywhere: every beta has the same optimum")
        bounds = reward_range * jnp.asarray([SMALLEST_BETA, LARGEST_BETA])
        result = _search(div, quantity, Params() if params is None else params, log_p, reward, jnp.asarray(values), bounds)
        beta, reached, (largest, smallest) = (np.asarray(each) for each in result)
    for value, nearest in zip(values, reached, strict=True):
        if not smallest <= value <= largest:
            raise SettingsError("targets", value, f"no optimum has this {name}: they span {smallest:.6g} to {largest:.6g}")
        if not abs(nearest - value) <= TOLERANCE * (abs(value) + TOLERANCE):
            raise SettingsError("targets", value, f"no optimum has this {name}: it jumps there, to {nearest:.6g}")
    return beta


@partial(jax.jit, static_argnums=(0, 1))
def _search(div: Divergence, quantity: str | Quantity, params: Params, log_p, reward, targets, bounds):
    """The beta of each target, the quantity's value at that beta, and its values at the two bounds of beta."""
    values_at = jax.vmap(lambda beta: _value(div, quantity, params, log_p, reward, beta))

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.sqrt(low * high)
        over = values_at(middle) > targets
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, tuple(jnp.broadcast_to(bound, targets.shape) for bound in bounds))
    betas = jnp.concatenate([jnp.sqrt(low * high), bounds])
    values = values_at(betas)
    return betas[:-2], values[:-2], values[-2:]


def _outcomes(task: Task) -> tuple[Float[Array, " E"], Float[Array, " E"]]:
    """The task as a bandit: log-probability under the reference and reward, typicality included, of each arm.

    Over several tokens the arms are the end states.
    """
    automaton = task.automaton
    if automaton.horizon == 1:
        start = int(automaton.starts[0])
        weight, row = float(task.typicality), task.log_reference[start]
        legal = automaton.legal[start] & ((row > -np.inf) | (weight == 0.0))  # else its reward is minus infinity
        reward = task.reward[automaton.next_state[start, legal]]
        return jnp.asarray(row[legal]), jnp.asarray(reward + (weight * row[legal] if weight else 0.0))
    reference = policies.Fixed(jnp.asarray(task.log_reference), automaton.horizon)
    ends = policy_values.outcome_probabilities(automaton, reference.table())
    return jnp.log(ends)[automaton.outcomes], jnp.asarray(task.reward)[automaton.outcomes]


def _value(div: Divergence, quantity: str | Quantity, params: Params, log_p, reward, beta) -> Float[Array, ""]:
    """The value of a quantity at the optimum for a beta."""
    log_pi = bandit_optimum.solve_bandit(div, params, log_p, reward, beta)
    if not isinstance(quantity, str):
        return quantity(log_pi)
    if quantity == "reward":
        return jnp.sum(jnp.exp(log_pi) * reward)
    measured = div if quantity == "divergence" else divergences.REGISTRY[quantity]
    return divergences.exact(measured, params, log_pi, log_p)
