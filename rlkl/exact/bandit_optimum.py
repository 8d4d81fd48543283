"""The policy of one token that maximises E[r] - beta D, by its closed form or by a root search in the multiplier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences
from rlkl.divergences import Divergence, Params
from rlkl.exact.policy_values import mean

HALVINGS = 70  # of a bracket of 2^14 nats: to below one rounding error
FAR = 2.0**14  # a log-ratio at which probabilities have long been zero
LIMIT = -1e30  # stands for a log-ratio of minus infinity where a slope is read


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
    return jnp.max(g) - mean(jnp.exp(log_pi), g)
