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

from rlkl import divergences, exact, rollout
from rlkl.divergences import Divergence, Params
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollout import Batch
from rlkl.tasks.automaton import Automaton, Task

HALVINGS = 70  # of a bracket of 2^14 nats: to below one rounding error
FAR = 2.0**14  # a log-ratio at which probabilities have long been zero
LIMIT = -1e30  # stands for a log-ratio of minus infinity where a slope is read
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
            return jnp.sum(rollout.along(self.log_pi, batch), axis=1)
        if self.log_listed is not None:
            return self.log_listed
        assert self.log_weight is not None
        return log_ref + self.log_weight[final_states(batch)]


def final_states(batch: Batch) -> Array:
    """Int["N"]: where each sequence ends (its last state: a sequence that has ended stays where it is)."""
    return jnp.asarray(batch.states)[:, -1]


def reason(task: Task, div: Divergence | None, reference: AnyPolicy) -> str | None:
    """Why `solve` knows no optimum for a task (its arrays on the host), divergence and reference; None where it does."""
    if task.reward_model is not None:
        return f"the reward model reads the whole history, and {task.automaton.unlisted}"
    if div is None or task.automaton.horizon == 1 or float(task.typicality) == 0.0 or rollout.is_enumerable(task.automaton):
        return None
    if not isinstance(reference, Policy):
        return "with a typicality reward the optimum beside a network's reference depends on the history"
    if div.name == "kl_pi_ref":
        return None
    return f"with a typicality reward the optimum under {div.formula} depends on the history"


def solve(
    task: Task,
    div: Divergence | None,
    params: Params,
    beta: Float[Array, ""],
    reference: AnyPolicy,
    typical: bool = False,
    key: PRNGKeyArray | None = None,
) -> Optimum:
    """The optimum over all policies on legal tokens; without a penalty (div None), the largest reward.

    typical: whether the task has a typicality reward (known on the host). key: for a network's reference whose sequences
    cannot be listed.
    """
    automaton = task.automaton
    no = jnp.asarray(False)
    if task.reward_model is not None:
        unknown = jnp.full((automaton.states,), jnp.nan, beta.dtype)
        return Optimum(None, unknown[0], no, log_weight=unknown)
    earned = exact.token_rewards(task, beta.dtype)
    if div is None:
        log_pi, tied = greedy(automaton, earned)
        return Optimum(log_pi, exact.objective(task, None, params, beta, log_pi, log_pi), tied)
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
    elif rollout.is_enumerable(automaton) and (typical or not table):
        listed = rollout.enumerate_all(automaton)
        log_ref = rollout.log_probability(reference, listed)
        worth = jnp.sum(exact.sequence_rewards(task, listed, log_ref.dtype), axis=1)
        best = solve_bandit(div, params, log_ref, worth, beta)
        value = exact.enumerated_objective(task, div, params, beta, listed, best, log_ref)
        return Optimum(None, value, no, log_listed=best)
    elif table:
        log_ref = table_of(reference)
        ends = exact.outcome_probabilities(automaton, log_ref)
        log_weight, value, _ = _over_ends(task, div, params, beta, ends)
        tilt = jnp.where(automaton.ends, log_weight[np.maximum(automaton.next_state, 0)][None], 0.0)
        value = jnp.where(typical, jnp.nan, value)
        return Optimum(jnp.where(jnp.isnan(value), jnp.nan, pull_back(automaton, log_ref + tilt)), value, no)
    else:
        assert key is not None
        batch = rollout.draw(key, automaton, reference, SAMPLES)
        ends = jnp.bincount(final_states(batch), length=automaton.states) / SAMPLES
        log_weight, value, slope = _over_ends(task, div, params, beta, ends.astype(beta.dtype))
        spread = jnp.sum(ends * jnp.square(slope - jnp.sum(ends * slope)))
        value, log_weight = (jnp.where(typical, jnp.nan, x) for x in (value, log_weight))
        return Optimum(None, value, no, log_weight=log_weight, stderr=jnp.sqrt(spread / SAMPLES))
    return Optimum(log_pi, exact.objective(task, div, params, beta, log_pi, log_ref), no)


def _over_ends(task, div, params, beta, ends: Float[Array, " S"]):
    """The bandit over end states, solved: log pi*/pi_ref of each state, its objective, and that objective's derivative by
    each end state's reference probability (by the envelope theorem t(r - lambda) - beta f(t), t being pi*/pi_ref).

    NaN where the best policy would end in a state that the reference never reaches: it has no h-transform.
    """
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
    visited = exact.occupancy(automaton, log_pi) > 0.0
    return log_pi, jnp.any(visited & (count[:, :, 0] > 1))


def solve_bandit(
    div: Divergence, params: Params, log_ref: Float[Array, " A"], reward: Float[Array, " A"], beta: Float[Array, ""]
) -> Float[Array, " A"]:
    """log pi* over arms; reward -inf marks an arm that may not be taken. The registered closed form where there is one."""
    if div.optimum is not None:
        return div.optimum(log_ref, reward, beta, params)
    return solve_by_root(div, params, log_ref, reward, beta)


def solve_by_root(
    div: Divergence, params: Params, log_ref: Float[Array, " A"], reward: Float[Array, " A"], beta: Float[Array, ""]
) -> Float[Array, " A"]:
    """log pi* for any strictly convex f with a slope: two nested bisections, each monotone."""
    inside = (log_ref > -jnp.inf) & (reward > -jnp.inf)
    top = jnp.max(reward, where=inside, initial=-jnp.inf)
    gap = divergences.scaled(jnp.where(inside, top - jnp.where(inside, reward, top), 0.0), beta)
    log_p = jnp.where(inside, log_ref, -jnp.inf)
    slope = lambda u: div.both(u, params)[1]  # noqa: E731
    widths = _lower_bracket(slope, -gap)

    def ratios(v):
        """u of every arm where the best-rewarded one stands at v: slope(u) = slope(v) - gap."""
        return jnp.where(gap == 0.0, v, _invert(slope, slope(v) - gap, -widths, jnp.broadcast_to(v, gap.shape)))

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        over = jax.nn.logsumexp(log_p + ratios(middle)) > 0.0
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    zero = jnp.zeros((), log_ref.dtype)
    most = -jax.nn.logsumexp(log_p, where=inside & (gap == 0.0))
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (zero, jnp.maximum(most, zero)))
    v = 0.5 * (low + high)

    # Arms of reference probability zero take mass where f's slope at infinity is too low to forbid it.
    outside = (log_ref == -jnp.inf) & (reward > -jnp.inf)
    steepest = div.limit("infinity", params, log_ref.dtype)
    best = jnp.max(reward, where=outside, initial=-jnp.inf)
    possible = jnp.isfinite(best) & jnp.isfinite(steepest)
    wanted = jnp.where(possible, (top - jnp.where(possible, best, top)) / beta + steepest, jnp.inf)
    takes = wanted < slope(v)
    target = jnp.where(takes, wanted, 0.0) - gap
    shifted = _invert(slope, target, -_lower_bracket(slope, target), jnp.broadcast_to(v, gap.shape))
    u = jnp.where(takes, shifted, ratios(v))
    kept = jnp.where(inside, jnp.where(inside, log_ref, 0.0) + u, -jnp.inf)
    rest = jnp.log(-jnp.expm1(jnp.minimum(jax.nn.logsumexp(kept), 0.0)))
    winners = outside & (reward == best)
    share = rest - jnp.log(jnp.maximum(jnp.sum(winners), 1).astype(log_ref.dtype))
    return jnp.where(takes & winners, share, jnp.where(takes, kept, kept - jax.nn.logsumexp(kept)))


def _lower_bracket(slope, target: Float[Array, " A"]) -> Float[Array, " A"]:
    """Widths w with slope(-w) <= target, by doubling; FAR where f's slope at zero is finite and above the target."""
    bounded = slope(jnp.full_like(target, LIMIT)) > target

    def double(_, width):
        return jnp.where(slope(-width) > target, 2.0 * width, width)

    widths = jax.lax.fori_loop(0, 60, double, jnp.ones_like(target))
    return jnp.where(bounded, FAR, widths)


def _invert(slope, target: Float[Array, " A"], low: Float[Array, " A"], high: Float[Array, " A"]) -> Float[Array, " A"]:
    """u with slope(u) = target in [low, high]; -inf where the slope stays above the target all the way down."""

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        over = slope(middle) > target
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    lower, upper = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return jnp.where(slope(low) > target, -jnp.inf, 0.5 * (lower + upper))


def gradient(
    div: Divergence,
    params: Params,
    log_pi: Float[Array, " A"],
    log_ref: Float[Array, " A"],
    reward: Float[Array, " A"],
    beta: Float[Array, ""],
) -> Float[Array, " A"]:
    """dJ/dpi of a bandit, from log-ratios; at an arm of probability zero, its one-sided limit."""
    if div.certificate is not None:
        return div.certificate(log_pi, log_ref, reward, beta)
    in_pi, in_ref = log_pi > -jnp.inf, log_ref > -jnp.inf
    u = jnp.where(in_pi & in_ref, jnp.where(in_pi, log_pi, 0.0) - jnp.where(in_ref, log_ref, 0.0), LIMIT)
    slope = jnp.where(in_ref, div.both(u, params)[1], div.limit("infinity", params, log_pi.dtype))
    return jnp.where(reward > -jnp.inf, reward - beta * slope, -jnp.inf)


def gap(
    div: Divergence,
    params: Params,
    log_pi: Float[Array, " A"],
    log_ref: Float[Array, " A"],
    reward: Float[Array, " A"],
    beta: Float[Array, ""],
) -> Float[Array, ""]:
    """The Frank-Wolfe gap max_a g_a - pi.g >= J* - J(pi): a bound on what a bandit policy leaves (Jaggi, ICML 2013)."""
    g = gradient(div, params, log_pi, log_ref, reward, beta)
    pi = jnp.exp(log_pi)
    return jnp.max(g) - jnp.sum(jnp.where(pi > 0.0, pi * jnp.where(pi > 0.0, g, 0.0), 0.0))
