"""The exact optimum of any (task, divergence, beta), and the certificate that it is one.

J(pi) = E_pi[r] - beta D_f(pi, pi_ref). Where f'(t) = (r - lambda)/beta has a root for every arm, one scalar lambda
makes the policy sum to 1. All of it is done in log-ratios, and in the log-ratio v of the best-rewarded arm instead of
lambda, which would hug the largest reward at small beta and drown in rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlkl import exact
from rlkl.divergences import Divergence, Params
from rlkl.tasks.automaton import Automaton, Task

HALVINGS = 70  # of a bracket of 2^14 nats: to below one rounding error
FAR = 2.0**14  # a log-ratio at which probabilities have long been zero
LIMIT = -1e30  # stands for a log-ratio of minus infinity where a slope is read


class Optimum(NamedTuple):
    """The best policy, its objective, and whether another is as good.

    objective is NaN where no optimum is known (see `reason`); then log_pi is the reference's.
    """

    log_pi: Float[Array, "T D V"]
    objective: Float[Array, ""]
    tied: Bool[Array, ""]


def reason(task: Task, div: Divergence | None) -> str | None:
    """Why `solve` knows no optimum for a task (its arrays on the host) and divergence; None where it does."""
    if div is None or div.name == "kl_pi_ref" or task.automaton.horizon == 1:
        return None
    if not exact.has_exact_divergence(task.automaton, div):
        return f"{div.formula} has no dynamic program over tokens"
    if float(task.typicality) != 0.0:
        return f"with a typicality reward the optimum under {div.formula} depends on the history"
    return None


def solve(
    task: Task, div: Divergence | None, params: Params, beta: Float[Array, ""], log_ref: Float[Array, "T D V"]
) -> Optimum:
    """The optimum over all policies on legal tokens; without a penalty (div None), the largest reward."""
    automaton = task.automaton
    earned = exact.token_rewards(task, log_ref.dtype)
    if div is None:
        log_pi, tied = greedy(automaton, earned)
    elif automaton.horizon == 1:
        legal = jnp.asarray(automaton.legal[automaton.start])
        row = solve_bandit(
            div, params, log_ref[0, automaton.start], jnp.where(legal, earned[0, automaton.start], -jnp.inf), beta
        )
        log_pi, tied = log_ref.at[0, automaton.start].set(row), jnp.asarray(False)
    elif div.name == "kl_pi_ref":
        log_pi, tied = pull_back(automaton, log_ref + earned / beta), jnp.asarray(False)
    else:
        log_pi, tied = pull_back(automaton, log_ref + _end_log_ratio(task, div, params, beta, log_ref)), jnp.asarray(False)
    lost = jnp.any(jnp.isnan(log_pi))
    log_pi = jnp.where(lost, log_ref, log_pi)
    objective = exact.objective(task, div, params, beta, log_pi, log_ref)
    return Optimum(log_pi, jnp.where(lost, jnp.nan, objective), tied)


def _end_log_ratio(task, div, params, beta, log_ref) -> Float[Array, "T D V"]:
    """log w of the end state that a token leads to, 0 where it ends nothing: the bandit over end states, solved.

    NaN where the best policy would end in a state that the reference never reaches: it has no h-transform.
    """
    automaton = task.automaton
    at = automaton.outcomes
    log_p = jnp.log(exact.outcome_probabilities(automaton, log_ref)[at])
    best = solve_bandit(div, params, log_p, task.reward[at], beta)
    lost = jnp.any((log_p == -jnp.inf) & (best > -jnp.inf))
    log_w = jnp.where(log_p > -jnp.inf, best - jnp.where(log_p > -jnp.inf, log_p, 0.0), -jnp.inf)
    of_state = jnp.zeros((automaton.states,), log_p.dtype).at[at].set(jnp.where(lost, jnp.nan, log_w))
    return jnp.where(automaton.ends, of_state[np.maximum(automaton.next_state, 0)][None], 0.0)


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


def greedy(automaton: Automaton, earned: Float[Array, "T D V"]) -> tuple[Float[Array, "T D V"], Bool[Array, ""]]:
    """The best-rewarded policy, even over ties, and whether there is a tie where it goes."""
    inner, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)
    legal = jnp.asarray(automaton.legal)

    def step(ahead, inputs):
        reward, end = inputs
        onward = jnp.where(end, 0.0, jnp.append(ahead, jnp.full((), -jnp.inf, ahead.dtype))[inner])
        worth = jnp.where(legal, reward + onward, -jnp.inf)
        best = jnp.max(worth, axis=-1, keepdims=True)
        return best[:, 0], (worth == best) & (worth > -jnp.inf)

    last = jnp.full((automaton.decisions,), -jnp.inf, earned.dtype)
    _, chosen = jax.lax.scan(step, last, (earned, ends), reverse=True)
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
    gap = jnp.where(inside, (top - jnp.where(inside, reward, top)) / beta, 0.0)
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
