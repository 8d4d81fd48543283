"""What advantages of groups maximise: a utility of the success probability, and its exact optimum.

Rewards have two values. p is the probability of the larger one, a success, given the prompt. A group has G independent samples,
k of them successes, m = k/G; each advantage is the reward less the group's mean, over the group's standard deviation. Summed
over the group and divided by G, the expected policy gradient is that of U_G(p), where

    U_G'(p) = E[sqrt(m(1 - m))] / (p(1 - p)),  k ~ Binomial(G, p);  U_G(p) = E[a(b)],  b ~ Binomial(G - 1, p),
    a(b) = sum of 1/sqrt(k(G - k)) over k = 1 ... b.

With the sample standard deviation (divisor G - 1) both are sqrt((G - 1)/G) times this. U_2(p) = p, the reward; for an infinite
group U(p) = 2 arcsin sqrt p (Mroueh 2025, "Reinforcement learning with verifiable rewards: GRPO's effective loss, dynamics, and
success amplification", arXiv 2503.06639). A penalty in the loss is not divided by the standard deviation, so that training
maximises the mean over prompts of U_G(p) - beta D.

Advantages that are weighted for pass@k instead (`algorithms.pass_at_k_weight`) have the utility 1 - (1 - p)^k, at every G.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from rlkl import divergences
from rlkl.divergences import Divergence, Params
from rlkl.exact import optimal_policy, policy_values
from rlkl.exact.bandit_optimum import WIDEST_BRACKET
from rlkl.exact.by_prompt import average, split_sequences, sum_states
from rlkl.exact.methods import evaluation_method
from rlkl.exact.objective import Objective
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks.automaton import Task

GRID, HALVINGS = 2048, 60  # points in which an optimum is searched for, and bisections of the interval about the best one


class Group(NamedTuple):
    """The size of a group, None for an infinite one, and the standard deviation that its advantages are divided by."""

    size: int | None
    std: str = "sample"  # divisor G - 1; or "population": divisor G

    @property
    def factor(self) -> float:
        """The factor that the standard deviation's divisor gives."""
        return math.sqrt((self.size - 1) / self.size) if self.size is not None and self.std == "sample" else 1.0

    @property
    def infinite(self) -> bool:
        """Whether the slope of the utility is infinite at p = 1."""
        return self.size is None


class PassAtK(NamedTuple):
    """pass@k: the probability 1 - (1 - p)^k that at least one of k samples is a success."""

    k: int

    @property
    def infinite(self) -> bool:
        """Whether the slope of the utility is infinite at p = 1: it is 0, or 1 where k is 1."""
        return False


Utility = Group | PassAtK


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def utility(group: Utility, logit: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """U(p) for the log-odds of p."""
    if isinstance(group, PassAtK):
        return -jnp.expm1(group.k * jax.nn.log_sigmoid(-logit))
    if group.size is None:
        # Not arctan(exp(logit / 2)): XLA's arctan on CPUs is wrong with the option of `training.blocks` (jaxlib 0.10.2).
        return 2.0 * jnp.arctan2(*(jnp.exp(0.5 * jax.nn.log_sigmoid(sign * logit)) for sign in (1.0, -1.0)))
    k = np.arange(1, group.size)
    gained = np.concatenate([[0.0], np.cumsum(1.0 / np.sqrt(k * (group.size - k)))])
    return group.factor * jnp.exp(_log_pmf(group.size - 1, logit)) @ jnp.asarray(gained, logit.dtype)


@utility.defjvp
def _utility_jvp(group: Utility, primals, tangents):
    (logit,), (change,) = primals, tangents
    variance = jnp.exp(jax.nn.log_sigmoid(logit) + jax.nn.log_sigmoid(-logit))
    per_logit = 0.5 / jnp.cosh(0.5 * logit) if group.infinite else slope(group, logit) * variance
    return utility(group, logit), per_logit * change


def slope(group: Utility, logit: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """U'(p) for the log-odds of p. Of a group it is sqrt(G - 1) times the group's factor at p = 0 and p = 1; of pass@k it is
    k (1 - p)^(k - 1)."""
    if isinstance(group, PassAtK):
        return group.k * jnp.exp((group.k - 1) * jax.nn.log_sigmoid(-logit))
    if group.size is None:
        return 2.0 * jnp.cosh(0.5 * logit)
    k = np.arange(1, group.size)
    weight = group.factor * (group.size - 1) / np.sqrt(k * (group.size - k))
    return jnp.exp(_log_pmf(group.size - 2, logit)) @ jnp.asarray(weight, logit.dtype)


def _log_pmf(draws: int, logit: Float[Array, "*n"]) -> Float[Array, "*n K"]:
    """The log-probability of 0 ... `draws` successes."""
    k = np.arange(draws + 1)
    ways = scipy.special.gammaln(draws + 1) - scipy.special.gammaln(k + 1) - scipy.special.gammaln(draws - k + 1)
    log_p, log_q = jax.nn.log_sigmoid(logit)[..., None], jax.nn.log_sigmoid(-logit)[..., None]
    count, log_ways = (jnp.asarray(x, logit.dtype).reshape(*[1] * logit.ndim, -1) for x in (k, ways))
    return log_ways + count * log_p + (draws - count) * log_q


def successes(task: Task) -> Float[Array, " S"]:
    """1 for each state with the largest reward of all end states, else 0."""
    reward = jnp.asarray(task.reward)
    return (reward >= jnp.max(reward[task.automaton.outcomes])).astype(reward.dtype)


def success_logits(task: Task, policy: AnyPolicy) -> Float[Array, "*P"]:
    """The log-odds of a success, for each prompt; exact, for a table or where the sequences can be enumerated."""
    automaton, success = task.automaton, successes(task)
    if evaluation_method(automaton, (policy,)) == "dynamic program":
        ends = policy_values.outcome_probabilities(automaton, table_of(policy))
        return _logit(*(sum_states(automaton, ends * jnp.asarray(x, ends.dtype)) for x in (success, 1.0 - success)))
    sequences = enumerate_all(automaton)
    p, of_success = jnp.exp(scoring.log_probability(policy, sequences)), success[sequences.states[:, -1]]
    sums = (split_sequences(automaton, p * jnp.asarray(x, p.dtype), 0.0) for x in (of_success, 1.0 - of_success))
    return _logit(*(jnp.sum(x, axis=-1) for x in sums))


def _logit(p: Float[Array, "*P"], q: Float[Array, "*P"]) -> Float[Array, "*P"]:
    """log p - log q; infinite, and without gradient, where one of them is zero."""
    certain = jnp.where(p == 0.0, -jnp.inf, jnp.inf)
    inside = (p > 0.0) & (q > 0.0)
    return jnp.where(inside, jnp.log(jnp.where(inside, p, 1.0)) - jnp.log(jnp.where(inside, q, 1.0)), certain)


def value(group: Utility, task: Task, policy: AnyPolicy) -> Float[Array, ""]:
    """The mean over prompts of U(p), for a policy as in `success_logits`."""
    logit = success_logits(task, policy)
    certain = jnp.isinf(logit)
    inside = utility(group, jnp.where(certain, 0.0, logit))
    return average(
        task.automaton, jnp.where(certain, jnp.where(logit > 0.0, utility(group, 700.0 * jnp.sign(logit)), 0.0), inside)
    )


def solve(group: Utility, objective: Objective) -> Optimum:
    """The policy with the largest mean over prompts of U(p) - beta D, and that value as its `objective`.

    Given p, D is least where successes keep the reference's proportions, and failures too. So each prompt is a problem in p
    alone, which may have several local maxima: `solve_success` compares them. The value is NaN where a prompt's reference has
    no success and D would allow some.
    """
    task, automaton, reference, div = objective.task, objective.task.automaton, objective.reference, objective.divergence
    assert div is not None
    reference_logit = success_logits(task, reference)
    best, values = solve_success(group, div, objective.params, reference_logit, jnp.asarray(objective.beta))
    # Log-ratios of successes and of failures; 0 where the reference has none of them.
    possible = jnp.isfinite(reference_logit)
    ratios = jnp.stack([jax.nn.log_sigmoid(sign * best) - jax.nn.log_sigmoid(sign * reference_logit) for sign in (-1.0, 1.0)])
    ratios = jnp.where(possible, ratios, 0.0)
    success = successes(task).astype(jnp.int32)
    of_state = ratios[success] if automaton.prompts == 1 else ratios[success, np.maximum(automaton.prompt_of, 0)]
    total, not_tied = average(automaton, values), jnp.asarray(False)
    if not isinstance(reference, Policy):
        sequences = enumerate_all(automaton)
        log_ref = scoring.log_probability(reference, sequences)
        return Optimum(None, total, not_tied, log_listed=log_ref + of_state[sequences.states[:, -1]])
    tilt = jnp.where(automaton.ends, of_state[np.maximum(automaton.next_state, 0)][None], 0.0)
    return Optimum(optimal_policy.pull_back(automaton, table_of(reference) + tilt), total, not_tied)


def solve_success(
    group: Utility, div: Divergence, params: Params, reference_logit: Float[Array, "*P"], beta: Float[Array, ""]
) -> tuple[Float[Array, "*P"], Float[Array, "*P"]]:
    """The log-odds of p that maximise U(p) - beta D, infinite for p = 1, and the maximum, for each prompt.

    reference_logit: the log-odds of a success under the reference.
    """
    if reference_logit.ndim:
        return jax.vmap(lambda logit: solve_success(group, div, params, logit, beta))(reference_logit)
    possible = jnp.isfinite(reference_logit)
    start = jnp.where(possible, reference_logit, 0.0)
    log_ref = jnp.stack([jax.nn.log_sigmoid(start), jax.nn.log_sigmoid(-start)])

    def objective(logit):
        log_pi = jnp.stack([jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)], axis=-1)
        penalty = divergences.exact(div, params, log_pi, jnp.broadcast_to(log_ref, log_pi.shape))
        return utility(group, logit) - beta * penalty

    def derivative(logit):
        return slope(group, logit) - beta * _slope_of_divergence(div, params, logit, start)

    # p is at least the reference's. Beyond the last point of the grid the penalty outweighs every group's utility, or p is 1.
    steepest = jnp.max(slope(group, jnp.linspace(-50.0, 50.0, 512))) if not group.infinite else jnp.inf

    def wider(_, width):
        return jnp.where(beta * _slope_of_divergence(div, params, start + width, start) < steepest, 2.0 * width, width)

    width = jnp.minimum(jax.lax.fori_loop(0, 16, wider, jnp.ones_like(start)), 600.0 if group.infinite else WIDEST_BRACKET)
    grid = start + width * jnp.square(jnp.linspace(0.0, 1.0, GRID))
    index = jnp.argmax(objective(grid))
    low, high = grid[jnp.maximum(index - 1, 0)], grid[jnp.minimum(index + 1, GRID - 1)]

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        rises = derivative(middle) > 0.0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    best = jnp.maximum(0.5 * (low + high), start)
    certain = jnp.asarray([0.0, -jnp.inf])
    at_one = utility(group, jnp.full_like(start, 700.0)) - beta * divergences.exact(div, params, certain, log_ref)
    largest = jnp.maximum(objective(best), at_one)
    # An infinite group's utility rises to p = 1 from one point on, up to which it may be flat by rounding.
    at_end = at_one >= objective(best) if group.infinite else at_one > objective(best)
    best = jnp.where(at_end, jnp.inf, best)
    off_support = jnp.isfinite(div.limit("infinity", params, start.dtype)) & (reference_logit < 0.0)
    at_limit = jnp.where(
        reference_logit > 0.0, utility(group, jnp.full_like(start, 700.0)), jnp.where(off_support, jnp.nan, 0.0)
    )
    return jnp.where(possible, best, reference_logit), jnp.where(possible, largest, at_limit)


def _slope_of_divergence(div: Divergence, params: Params, logit, reference_logit) -> Float[Array, "*n"]:
    """dD/dp of the two-valued problem: the slope f' at the ratio of successes less that at the ratio of failures."""
    success, failure = (
        div.both(jax.nn.log_sigmoid(sign * logit) - jax.nn.log_sigmoid(sign * reference_logit), params)[1]
        for sign in (1.0, -1.0)
    )
    return success - failure
