"""The optimal policy of a bandit: the arm probabilities that maximise E[r] - beta D, in closed form or by bisection."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl.closed_forms import scaled
from rlkl.divergences import Divergence, Params
from rlkl.exact.policy_values import mean

HALVINGS = 70  # bisection steps: they narrow a bracket of 2^14 nats to below one rounding error
WIDEST_BRACKET = 2.0**14  # in nats: at a log-ratio of minus this, probabilities are zero
LOWEST_LOG_RATIO = -1e30  # stands for a log-ratio of minus infinity where f and its slope are evaluated


def solve_bandit(
    div: Divergence, params: Params, log_ref: Float[Array, " A"], reward: Float[Array, " A"], beta: Float[Array, ""]
) -> Float[Array, " A"]:
    """log pi* over arms, by the divergence's closed form or else by `solve_by_root`; reward -inf marks a forbidden arm."""
    if div.optimum is not None:
        return div.optimum(log_ref, reward, beta, params)
    return solve_by_root(div, params, log_ref, reward, beta)


def solve_by_root(
    div: Divergence, params: Params, log_ref: Float[Array, " A"], reward: Float[Array, " A"], beta: Float[Array, ""]
) -> Float[Array, " A"]:
    """log pi* over arms for any strictly convex f, by two nested bisections.

    The outer one finds v, the log-ratio of the best-rewarded arms at which pi sums to 1; the inner one finds the log-ratio of
    every other arm at that v.
    """
    in_support = (log_ref > -jnp.inf) & (reward > -jnp.inf)
    top = jnp.max(reward, where=in_support, initial=-jnp.inf)
    # Each arm's reward below the best one's, over beta.
    shortfall = scaled(jnp.where(in_support, top - jnp.where(in_support, reward, top), 0.0), beta)
    log_p = jnp.where(in_support, log_ref, -jnp.inf)

    def slope(u):
        return div.both(u, params)[1]

    widths = _lower_bracket(slope, -shortfall)

    def log_ratios(v):
        """The log-ratio u of every arm, where slope(u) = slope(v) - shortfall."""
        inverse = _invert(slope, slope(v) - shortfall, -widths, jnp.broadcast_to(v, shortfall.shape))
        return jnp.where(shortfall == 0.0, v, inverse)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        over = jax.nn.logsumexp(log_p + log_ratios(middle)) > 0.0
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    zero = jnp.zeros((), log_ref.dtype)
    largest = -jax.nn.logsumexp(log_p, where=in_support & (shortfall == 0.0))  # where the best-rewarded arms have all mass
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (zero, jnp.maximum(largest, zero)))
    v = 0.5 * (low + high)

    # Arms of reference probability zero take mass where f's slope at infinity is too low to forbid it.
    off_support = (log_ref == -jnp.inf) & (reward > -jnp.inf)
    slope_at_infinity = div.limit("infinity", params, log_ref.dtype)
    top_off_support = jnp.max(reward, where=off_support, initial=-jnp.inf)
    possible = jnp.isfinite(top_off_support) & jnp.isfinite(slope_at_infinity)
    reward_difference = top - jnp.where(possible, top_off_support, top)
    threshold = jnp.where(possible, reward_difference / beta + slope_at_infinity, jnp.inf)
    takes_mass = threshold < slope(v)
    target = jnp.where(takes_mass, threshold, 0.0) - shortfall
    lowered = _invert(slope, target, -_lower_bracket(slope, target), jnp.broadcast_to(v, shortfall.shape))
    u = jnp.where(takes_mass, lowered, log_ratios(v))
    log_pi = jnp.where(in_support, jnp.where(in_support, log_ref, 0.0) + u, -jnp.inf)
    log_rest = jnp.log(-jnp.expm1(jnp.minimum(jax.nn.logsumexp(log_pi), 0.0)))
    takers = off_support & (reward == top_off_support)
    log_share = log_rest - jnp.log(jnp.maximum(jnp.sum(takers), 1).astype(log_ref.dtype))
    return jnp.where(takes_mass & takers, log_share, jnp.where(takes_mass, log_pi, log_pi - jax.nn.logsumexp(log_pi)))


def _lower_bracket(slope, target: Float[Array, " A"]) -> Float[Array, " A"]:
    """Widths w with slope(-w) <= target, by doubling; WIDEST_BRACKET where the slope stays above the target everywhere."""
    unreachable = slope(jnp.full_like(target, LOWEST_LOG_RATIO)) > target

    def double(_, width):
        return jnp.where(slope(-width) > target, 2.0 * width, width)

    widths = jax.lax.fori_loop(0, 60, double, jnp.ones_like(target))
    return jnp.where(unreachable, WIDEST_BRACKET, widths)


def _invert(slope, target: Float[Array, " A"], low: Float[Array, " A"], high: Float[Array, " A"]) -> Float[Array, " A"]:
    """The u in [low, high] with slope(u) = target, by bisection; -inf where slope(low) is above the target."""

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
    """The gradient dJ/dpi of a bandit's objective in the arm probabilities; one-sided at an arm of probability zero."""
    if div.certificate is not None:
        return div.certificate(log_pi, log_ref, reward, beta)
    in_pi, in_ref = log_pi > -jnp.inf, log_ref > -jnp.inf
    u = jnp.where(in_pi & in_ref, jnp.where(in_pi, log_pi, 0.0) - jnp.where(in_ref, log_ref, 0.0), LOWEST_LOG_RATIO)
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
    """The Frank-Wolfe gap max_a g_a - pi.g of a bandit policy, an upper bound on its regret J* - J(pi) (Jaggi, ICML 2013)."""
    g = gradient(div, params, log_pi, log_ref, reward, beta)
    return jnp.max(g) - mean(jnp.exp(log_pi), g)
