"""The exact optimum of any (task, divergence, beta), and the certificate that it is one.

J(pi) = E_pi[r] - beta D_f(pi, pi_ref). Where f'(t) = (r - lambda)/beta has a root for every arm, one scalar lambda
makes the policy sum to 1. All of it is done in log-ratios, and in the log-ratio v of the best-rewarded arm instead of
lambda, which would hug the largest reward at small beta and drown in rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlkl import divergences
from rlkl.exact import policy_values
from rlkl.exact.bandit_optimum import LIMIT, solve_bandit
from rlkl.exact.objective import Objective
from rlkl.policies import Policy, table_of
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton

SAMPLES = 2**14  # of a network reference, where its sequences cannot be listed


class Optimum(NamedTuple):
    """The best policy, its objective, and whether another is as good.

    The policy is given in one of three ways, the others being None: log_pi, a table; log_listed, the log-probability of
    every listed sequence; log_weight, of each end state, the log-ratio to a network reference of the sequences that end
    there. All of it is NaN where no optimum is known (see `reason`); objective has a standard error where the reference's end
    states could only be sampled. gold_objective: on a task with a gold reward, the best policy's for that, with its own.
    """

    log_pi: Float[Array, "T D V"] | None
    objective: Float[Array, ""]
    tied: Bool[Array, ""]
    log_listed: Float[Array, " N"] | None = None
    log_weight: Float[Array, " S"] | None = None
    stderr: Float[Array, ""] | float = 0.0
    gold_objective: Float[Array, ""] | None = None
    gold_stderr: Float[Array, ""] | float = 0.0

    @property
    def is_none(self) -> Bool[Array, ""]:
        """Whether there is no one policy to be far from: none is known, or several are as good."""
        return self.tied | jnp.isnan(self.objective)

    def log_probability(self, batch: Batch, log_ref: Float[Array, " N"]) -> Float[Array, " N"]:
        """log pi*(y) of each sequence, whose log-probability under the reference is given."""
        if self.log_pi is not None:
            return jnp.sum(scoring.along(self.log_pi, batch), axis=1)
        if self.log_listed is not None:
            return self.log_listed
        assert self.log_weight is not None
        return log_ref + self.log_weight[final_states(batch)]


def final_states(batch: Batch) -> Array:
    """Int["N"]: where each sequence ends (its last state: a sequence that has ended stays where it is)."""
    return jnp.asarray(batch.states)[:, -1]


def reason(objective: Objective) -> str | None:
    """Why `solve` knows no optimum of an objective (its arrays on the host); None where it does."""
    task, div = objective.task, objective.divergence
    if task.reward_model is not None:
        return f"the reward model reads the whole history, and {task.automaton.unlisted}"
    if div is None or task.automaton.horizon == 1 or float(task.typicality) == 0.0 or task.automaton.is_enumerable:
        return None
    if not isinstance(objective.reference, Policy):
        return "with a typicality reward the optimum beside a network's reference depends on the history"
    if div.name == "kl_pi_ref":
        return None
    return f"with a typicality reward the optimum under {div.formula} depends on the history"


def solve(objective: Objective, typical: bool = False, key: PRNGKeyArray | None = None) -> Optimum:
    """The optimum of an objective over all policies on legal tokens; without a penalty, the largest reward.

    typical: whether the task has a typicality reward (known on the host). key: for a network's reference whose sequences
    cannot be listed.
    """
    task, div, params, reference = objective.task, objective.divergence, objective.params, objective.reference
    beta, automaton, no = jnp.asarray(objective.beta), task.automaton, jnp.asarray(False)
    if task.reward_model is not None:
        unknown = jnp.full((automaton.states,), jnp.nan, beta.dtype)
        return Optimum(None, unknown[0], no, log_weight=unknown)
    earned = policy_values.token_rewards(task, beta.dtype)
    if div is None:
        log_pi, tied = greedy(automaton, earned)
        return Optimum(log_pi, policy_values.objective_value(objective, log_pi), tied)
    table = isinstance(reference, Policy)
    if table and automaton.horizon == 1:
        log_ref = table_of(reference)
        legal = jnp.asarray(automaton.legal[automaton.start])
        arms = jnp.where(legal, earned[0, automaton.start], -jnp.inf)
        log_pi = log_ref.at[0, automaton.start].set(solve_bandit(div, params, log_ref[0, automaton.start], arms, beta))
    elif table and div.name == "kl_pi_ref":
        log_ref = table_of(reference)
        shortfall = advantages(automaton, earned, log_ref > -jnp.inf)  # adds up to r(y) less the largest reward
        log_pi = pull_back(automaton, log_ref + divergences.scaled(shortfall, beta))
    elif automaton.is_enumerable and (typical or not table):
        listed = enumerate_all(automaton)
        log_ref = scoring.log_probability(reference, listed)
        worth = jnp.sum(policy_values.sequence_rewards(task, listed, log_ref.dtype), axis=1)
        best = solve_bandit(div, params, log_ref, worth, beta)
        value = policy_values.enumerated_objective(objective, listed, best, log_ref)
        return Optimum(None, value, no, log_listed=best)
    elif table:
        log_ref = table_of(reference)
        ends = policy_values.outcome_probabilities(automaton, log_ref)
        log_weight, value, _ = _over_ends(objective, ends)
        tilt = jnp.where(automaton.ends, log_weight[np.maximum(automaton.next_state, 0)][None], 0.0)
        value = jnp.where(typical, jnp.nan, value)
        return Optimum(jnp.where(jnp.isnan(value), jnp.nan, pull_back(automaton, log_ref + tilt)), value, no)
    else:
        assert key is not None
        batch = sampling.sample(key, automaton, reference, SAMPLES)
        ends = jnp.bincount(final_states(batch), length=automaton.states) / SAMPLES
        log_weight, value, slope = _over_ends(objective, ends.astype(beta.dtype))
        spread = jnp.sum(ends * jnp.square(slope - jnp.sum(ends * slope)))
        value, log_weight = (jnp.where(typical, jnp.nan, x) for x in (value, log_weight))
        return Optimum(None, value, no, log_weight=log_weight, stderr=jnp.sqrt(spread / SAMPLES))
    return Optimum(log_pi, policy_values.objective_value(objective, log_pi), no)


def _over_ends(objective: Objective, ends: Float[Array, " S"]):
    """The bandit over end states, solved: log pi*/pi_ref of each state, its objective, and that objective's derivative by
    each end state's reference probability (by the envelope theorem t(r - lambda) - beta f(t), t being pi*/pi_ref).

    NaN where the best policy would end in a state that the reference never reaches: it has no h-transform.
    """
    task, div, params, beta = objective.task, objective.divergence, objective.params, jnp.asarray(objective.beta)
    assert div is not None
    at = task.automaton.outcomes
    log_p, reward = jnp.log(ends[at]), task.reward[at]
    best = solve_bandit(div, params, log_p, reward, beta)
    inside = log_p > -jnp.inf
    lost = jnp.any(~inside & (best > -jnp.inf))
    u = jnp.where(inside, best - jnp.where(inside, log_p, 0.0), -jnp.inf)
    value = jnp.sum(jnp.where(inside, jnp.exp(best) * reward, 0.0)) - beta * divergences.exact(div, params, best, log_p)
    value = jnp.where(lost, jnp.nan, value)
    f, slope = div.both(jnp.maximum(u, LIMIT), params)
    likeliest = jnp.argmax(best)
    offset = reward[likeliest] - beta * slope[likeliest]
    gain = jnp.where(u > -jnp.inf, jnp.exp(u) * (reward - offset) - beta * f, -beta * div.limit("zero", params, beta.dtype))
    spread = lambda x, rest: jnp.full((task.automaton.states,), rest, x.dtype).at[at].set(x)  # noqa: E731
    return spread(u, -jnp.inf), value, spread(jnp.where(inside, gain, 0.0), 0.0)


def pull_back(automaton: Automaton, log_weight: Float[Array, "T D V"]) -> Float[Array, "T D V"]:
    """The policy proportional to the product of its tokens' weights (Doob's h-transform), as log-probabilities."""
    inner, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)

    def step(log_h, inputs):
        weight, end = inputs
        onward = jnp.where(end, 0.0, jnp.append(log_h, jnp.full((), -jnp.inf, log_h.dtype))[inner])
        joint = weight + onward
        total = jax.nn.logsumexp(joint, axis=-1)
        row = jnp.where(joint > -jnp.inf, joint - jnp.where(total > -jnp.inf, total, 0.0)[:, None], -jnp.inf)
        return total, jnp.where(jnp.isnan(joint), jnp.nan, row)

    last = jnp.full((automaton.decisions,), -jnp.inf, log_weight.dtype)
    _, log_pi = jax.lax.scan(step, last, (log_weight, ends), reverse=True)
    return log_pi


def advantages(automaton: Automaton, earned: Float[Array, "T D V"], allowed: Bool[Array, "*T D V"]) -> Float[Array, "T D V"]:
    """The largest reward that can still be earned after each token, less the largest of its state: 0 for a best token, -inf
    for one that is not allowed."""
    inner, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)
    allowed = jnp.broadcast_to(allowed, earned.shape)

    def step(ahead, inputs):
        reward, end, may = inputs
        onward = jnp.where(end, 0.0, jnp.append(ahead, jnp.full((), -jnp.inf, ahead.dtype))[inner])
        worth = jnp.where(may, reward + onward, -jnp.inf)
        best = jnp.max(worth, axis=-1, keepdims=True)
        return best[:, 0], jnp.where(worth > -jnp.inf, worth - jnp.where(worth > -jnp.inf, best, 0.0), -jnp.inf)

    last = jnp.full((automaton.decisions,), -jnp.inf, earned.dtype)
    return jax.lax.scan(step, last, (earned, ends, allowed), reverse=True)[1]


def greedy(automaton: Automaton, earned: Float[Array, "T D V"]) -> tuple[Float[Array, "T D V"], Bool[Array, ""]]:
    """The best-rewarded policy, even over ties, and whether there is a tie where it goes."""
    chosen = advantages(automaton, earned, jnp.asarray(automaton.legal)[None]) == 0.0
    count = jnp.sum(chosen, axis=-1, keepdims=True)
    log_pi = jnp.where(chosen, -jnp.log(jnp.maximum(count, 1).astype(earned.dtype)), -jnp.inf)
    visited = policy_values.occupancy(automaton, log_pi) > 0.0
    return log_pi, jnp.any(visited & (count[:, :, 0] > 1))
