"""The exact optimal policy of any objective J(pi) = E_pi[r] - beta D_f(pi, pi_ref).

The optimum of a bandit satisfies f'(t) = (r - lambda)/beta for every arm, where t = pi/pi_ref and the scalar lambda makes the
policy sum to 1. On a task with several prompts each prompt has its own lambda. `bandit_optimum` searches for the log-ratio v of
the best-rewarded arm in place of lambda: at small beta, lambda is so close to the largest reward that rounding would swamp the
difference.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlkl import divergences
from rlkl.closed_forms import scaled
from rlkl.divergences import Divergence, Params
from rlkl.exact import policy_values
from rlkl.exact.bandit_optimum import LOWEST_LOG_RATIO, solve_bandit
from rlkl.exact.by_prompt import average, join_sequences, rows_at_start, split_sequences
from rlkl.exact.objective import Objective
from rlkl.policies import Policy, table_of
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton

SAMPLES = 2**14  # sequences drawn from a network reference that has too many to enumerate


class Optimum(NamedTuple):
    """The optimal policy, its objective, and whether it is tied with another policy.

    The policy is given by one of three fields, and the other two are None. log_pi: a table. log_listed: the log-probability of
    every sequence of `enumerate_all`. log_weight: log pi*/pi_ref of the sequences that end in each state, for a network
    reference. All are NaN where no optimum is known (see `reason`). stderr: the standard error of the objective, above 0 where
    the reference's end states are sampled. gold_objective and gold_stderr: the same for the optimum under the gold reward,
    where the task has one. utility: the optimum of the utility that group-standardised advantages maximise, where that grades
    the run (`exact.utility.solve`).
    """

    log_pi: Float[Array, "T D V"] | None
    objective: Float[Array, ""]
    tied: Bool[Array, ""]
    log_listed: Float[Array, " N"] | None = None
    log_weight: Float[Array, " S"] | None = None
    stderr: Float[Array, ""] | float = 0.0
    gold_objective: Float[Array, ""] | None = None
    gold_stderr: Float[Array, ""] | float = 0.0
    utility: "Optimum | None" = None

    @property
    def no_unique_policy(self) -> Bool[Array, ""]:
        """Whether distances to the optimum are undefined: it is unknown, or several policies are optimal."""
        return self.tied | jnp.isnan(self.objective)

    def log_probability(self, batch: Batch, log_ref: Float[Array, " N"]) -> Float[Array, " N"]:
        """log pi*(y) of each sequence; log_ref: its log-probability under the reference."""
        if self.log_pi is not None:
            return jnp.sum(scoring.entries_along(self.log_pi, batch), axis=1)
        if self.log_listed is not None:
            return self.log_listed
        assert self.log_weight is not None
        return log_ref + self.log_weight[final_states(batch)]


def final_states(batch: Batch) -> Array:
    """Int["N"]: the end state of each sequence. It is the last state, since a sequence that has ended keeps its state."""
    return jnp.asarray(batch.states)[:, -1]


def reason(objective: Objective) -> str | None:
    """The reason why `solve` cannot give the optimum of an objective (with arrays on the host); None where it can."""
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


def solve(objective: Objective, has_typicality: bool = False, key: PRNGKeyArray | None = None) -> Optimum:
    """The optimum of an objective over all policies on legal tokens. Without a divergence, it maximises the reward alone.

    has_typicality: whether the task has a typicality reward; static, since the task's may be traced. key: needed only for a
    network reference with too many sequences to enumerate.
    """
    task, div, params, reference = objective.task, objective.divergence, objective.params, objective.reference
    beta, automaton, not_tied = jnp.asarray(objective.beta), task.automaton, jnp.asarray(False)
    if task.reward_model is not None:
        unknown = jnp.full((automaton.states,), jnp.nan, beta.dtype)
        return Optimum(None, unknown[0], not_tied, log_weight=unknown)
    rewards = policy_values.token_rewards(task, beta.dtype)
    if div is None:
        log_pi, tied = greedy(automaton, rewards)
        return Optimum(log_pi, policy_values.objective_value(objective, log_pi), tied)
    is_table = isinstance(reference, Policy)
    if is_table and automaton.horizon == 1:
        log_ref = table_of(reference)
        legal = rows_at_start(automaton, jnp.asarray(automaton.legal))
        arm_rewards = jnp.where(legal, rows_at_start(automaton, rewards[0]), -jnp.inf)
        rows = solve_prompts(div, params, rows_at_start(automaton, log_ref[0]), arm_rewards, beta)
        log_pi = log_ref.at[0, automaton.starts if automaton.prompts > 1 else int(automaton.starts[0])].set(rows)
    elif is_table and div.name == "kl_pi_ref":
        log_ref = table_of(reference)
        shortfall = advantages(automaton, rewards, log_ref > -jnp.inf)  # sums to r(y) minus the largest reward
        log_pi = pull_back(automaton, log_ref + scaled(shortfall, beta))
    elif automaton.is_enumerable and (has_typicality or not is_table):
        sequences = enumerate_all(automaton)
        log_ref = scoring.log_probability(reference, sequences)
        returns = jnp.sum(policy_values.sequence_rewards(task, sequences, log_ref.dtype), axis=1)
        rows, row_returns = (split_sequences(automaton, each, -jnp.inf) for each in (log_ref, returns))
        log_optimum = join_sequences(automaton, solve_prompts(div, params, rows, row_returns, beta))
        value = policy_values.enumerated_objective(objective, sequences, log_optimum, log_ref)
        return Optimum(None, value, not_tied, log_listed=log_optimum)
    elif is_table:
        log_ref = table_of(reference)
        ends = policy_values.outcome_probabilities(automaton, log_ref)
        log_weight, value, _ = _solve_over_end_states(objective, ends)
        value = average(automaton, value)
        tilt = jnp.where(automaton.ends, log_weight[np.maximum(automaton.next_state, 0)][None], 0.0)
        value = jnp.where(has_typicality, jnp.nan, value)
        return Optimum(jnp.where(jnp.isnan(value), jnp.nan, pull_back(automaton, log_ref + tilt)), value, not_tied)
    else:
        assert key is not None
        start = None if automaton.prompts == 1 else sampling.prompt_starts(key, automaton, SAMPLES)
        batch = sampling.sample(key, automaton, reference, SAMPLES, start)
        ends = jnp.bincount(final_states(batch), length=automaton.states) / SAMPLES
        log_weight, value, slope = _solve_over_end_states(objective, ends.astype(beta.dtype))
        variance = _variance_given_prompt(automaton, ends, slope)
        value = average(automaton, value)
        value, log_weight = (jnp.where(has_typicality, jnp.nan, x) for x in (value, log_weight))
        return Optimum(None, value, not_tied, log_weight=log_weight, stderr=jnp.sqrt(variance / SAMPLES))
    return Optimum(log_pi, policy_values.objective_value(objective, log_pi), not_tied)


def solve_prompts(
    div: Divergence,
    params: Params,
    log_ref: Float[Array, "*P A"],
    reward: Float[Array, "*P A"],
    beta: Float[Array, ""],
) -> Float[Array, "*P A"]:
    """`solve_bandit` for one prompt, or for each of several."""
    if log_ref.ndim == 1:
        return solve_bandit(div, params, log_ref, reward, beta)
    return jax.vmap(lambda p, r: solve_bandit(div, params, p, r, beta))(log_ref, reward)


def _variance_given_prompt(automaton: Automaton, ends: Float[Array, " S"], x: Float[Array, " S"]) -> Float[Array, ""]:
    """The mean over prompts of the variance of x over the prompt's end states, whose joint probabilities are `ends`."""
    if automaton.prompts == 1:
        return jnp.sum(ends * jnp.square(x - jnp.sum(ends * x)))
    prompt = jnp.asarray(np.maximum(automaton.prompt_of, 0))
    means = jax.ops.segment_sum(ends * x, prompt, automaton.prompts) / jax.ops.segment_sum(ends, prompt, automaton.prompts)
    return jnp.sum(ends * jnp.square(x - means[prompt]))


def _solve_over_end_states(objective: Objective, ends: Float[Array, " S"]):
    """Solve the bandit over end states: log pi*/pi_ref of each state, the objective, and its gradient in the `ends`.

    The objective is a number for each prompt, where there are several.
    ends: the reference's probability of each end state. By the envelope theorem the gradient is t(r - lambda) - beta f(t) with
    t = pi*/pi_ref. The objective is NaN where the optimum would end in a state that the reference never reaches: there is no
    h-transform to such a state.
    """
    automaton, task_reward, states = objective.task.automaton, objective.task.reward, objective.task.automaton.states
    if automaton.prompts == 1:
        outcomes = automaton.outcomes
        log_weight, value, gradient = _solve_end_bandit(objective, jnp.log(ends[outcomes]), task_reward[outcomes])
    else:
        padding = automaton.outcomes_by_prompt < 0
        outcomes = np.where(padding, states, automaton.outcomes_by_prompt)
        p = jnp.where(padding, 0.0, ends[np.maximum(automaton.outcomes_by_prompt, 0)])
        reward = jnp.where(padding, -jnp.inf, jnp.asarray(task_reward)[np.maximum(automaton.outcomes_by_prompt, 0)])
        log_p = jnp.log(p / jnp.sum(p, axis=1, keepdims=True))
        log_weight, value, gradient = jax.vmap(lambda *prompt: _solve_end_bandit(objective, *prompt))(log_p, reward)

    def over_states(values, fill):
        return jnp.full((states,), fill, values.dtype).at[outcomes].set(values, mode="drop")

    return over_states(log_weight, -jnp.inf), value, over_states(gradient, 0.0)


def _solve_end_bandit(objective: Objective, log_p: Float[Array, " E"], reward: Float[Array, " E"]):
    """As `_solve_over_end_states`, for the end states of one prompt; a reward of -inf marks padding."""
    div, params, beta = objective.divergence, objective.params, jnp.asarray(objective.beta)
    assert div is not None
    log_pi = solve_bandit(div, params, log_p, reward, beta)
    reached = log_p > -jnp.inf
    leaves_support = jnp.any(~reached & (log_pi > -jnp.inf))
    u = jnp.where(reached, log_pi - jnp.where(reached, log_p, 0.0), -jnp.inf)
    distance = divergences.exact(div, params, log_pi, log_p)
    value = jnp.sum(jnp.where(reached, jnp.exp(log_pi) * reward, 0.0)) - beta * distance
    value = jnp.where(leaves_support, jnp.nan, value)
    f, slope = div.both(jnp.maximum(u, LOWEST_LOG_RATIO), params)
    beta = beta * divergences.root_slope(div, distance)
    likeliest = jnp.argmax(log_pi)
    multiplier = reward[likeliest] - beta * slope[likeliest]
    at_zero = -beta * div.limit("zero", params, beta.dtype)
    gradient = jnp.where(u > -jnp.inf, jnp.exp(u) * (reward - multiplier) - beta * f, at_zero)
    return u, value, jnp.where(reached, gradient, 0.0)


def pull_back(automaton: Automaton, log_weight: Float[Array, "T D V"]) -> Float[Array, "T D V"]:
    """The policy under which a sequence's probability is proportional to the product of its tokens' weights.

    It is Doob's h-transform, by a backward recursion over tokens. Weights and policy are given as logarithms.
    """
    inner, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)

    def step(log_h, inputs):
        weight, end = inputs
        next_log_h = jnp.where(end, 0.0, jnp.append(log_h, jnp.full((), -jnp.inf, log_h.dtype))[inner])
        joint = weight + next_log_h
        total = jax.nn.logsumexp(joint, axis=-1)
        row = jnp.where(joint > -jnp.inf, joint - jnp.where(total > -jnp.inf, total, 0.0)[:, None], -jnp.inf)
        return total, jnp.where(jnp.isnan(joint), jnp.nan, row)

    last = jnp.full((automaton.decisions,), -jnp.inf, log_weight.dtype)
    _, log_pi = jax.lax.scan(step, last, (log_weight, ends), reverse=True)
    return log_pi


def advantages(automaton: Automaton, rewards: Float[Array, "T D V"], allowed: Bool[Array, "*T D V"]) -> Float[Array, "T D V"]:
    """The advantage Q*(s, a) - V*(s) of each token without a penalty: 0 for an optimal token, -inf for a forbidden one."""
    inner, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)
    allowed = jnp.broadcast_to(allowed, rewards.shape)

    def step(value, inputs):
        reward, end, is_allowed = inputs
        next_value = jnp.where(end, 0.0, jnp.append(value, jnp.full((), -jnp.inf, value.dtype))[inner])
        q = jnp.where(is_allowed, reward + next_value, -jnp.inf)
        v = jnp.max(q, axis=-1, keepdims=True)
        return v[:, 0], jnp.where(q > -jnp.inf, q - jnp.where(q > -jnp.inf, v, 0.0), -jnp.inf)

    last = jnp.full((automaton.decisions,), -jnp.inf, rewards.dtype)
    return jax.lax.scan(step, last, (rewards, ends, allowed), reverse=True)[1]


def greedy(automaton: Automaton, rewards: Float[Array, "T D V"]) -> tuple[Float[Array, "T D V"], Bool[Array, ""]]:
    """The policy of largest expected reward, uniform over tied tokens, and whether any state that it visits has a tie."""
    is_optimal = advantages(automaton, rewards, jnp.asarray(automaton.legal)[None]) == 0.0
    count = jnp.sum(is_optimal, axis=-1, keepdims=True)
    log_pi = jnp.where(is_optimal, -jnp.log(jnp.maximum(count, 1).astype(rewards.dtype)), -jnp.inf)
    visited = policy_values.occupancy(automaton, log_pi) > 0.0
    return log_pi, jnp.any(visited & (count[:, :, 0] > 1))
