"""Optimal bandit policies in closed form, and gradients of objectives that are not differentiable.

A divergence that has them registers them beside its generator (`rlkl.divergences`). log_ref and reward are of the arms.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def scaled(difference: Float[Array, "..."], beta: Float[Array, ""]) -> Float[Array, "..."]:
    """difference/beta, and exactly 0 where the difference is 0, however small beta."""
    return jnp.where(difference == 0.0, 0.0, difference / beta)


def tilted(log_ref, reward, beta, params):
    """The optimum under KL(pi‖pi_ref): pi_ref e^{r/beta}/Z. It subtracts the largest reward first: r/beta may overflow."""
    inside = log_ref > -jnp.inf
    best = jnp.max(reward, where=inside, initial=-jnp.inf)
    return jax.nn.log_softmax(jnp.where(inside, log_ref + scaled(jnp.minimum(reward - best, 0.0), beta), -jnp.inf))


def move_mass(log_ref, reward, beta, params):
    """The optimum under total variation: arms with a reward more than beta below the largest lose their mass to the argmax.

    Of several argmaxima the one most likely under the reference receives it; the optimum is then not unique.
    """
    best = jnp.max(reward)
    receiver = jnp.argmax(jnp.where(reward == best, jnp.maximum(log_ref, jnp.finfo(log_ref.dtype).min), -jnp.inf))
    moved = best - reward > beta
    total = jax.nn.logsumexp(log_ref, where=moved)
    return jnp.where(moved, -jnp.inf, log_ref).at[receiver].set(jnp.logaddexp(log_ref[receiver], total))


def best_subgradient(log_pi, log_ref, reward, beta):
    """A subgradient of J under total variation; at pi = pi_ref, the one that bounds the optimality gap most tightly."""
    middle = jnp.max(reward) - 0.5 * beta
    at_kink = jnp.clip(middle, reward - 0.5 * beta, reward + 0.5 * beta)
    off = jnp.where(log_pi > log_ref, reward - 0.5 * beta, reward + 0.5 * beta)
    return jnp.where(log_pi == log_ref, at_kink, off)


def threshold_policy(log_ref, reward, beta, params):
    """The optimum under the square root of Pearson's chi-square: pi_ref (r - theta)_+, normalised.

    The threshold theta is that at which (r - theta)_+ has the standard deviation beta under the reference. Where the reward's
    own is at most beta, the optimum is the reference. In the offset s = max r - r of an arm and tau = max r - theta, pi is
    proportional to pi_ref (tau - s)_+; the standard deviation rises with tau, which is found by bisection of its logarithm.
    """
    inside = (log_ref > -jnp.inf) & (reward > -jnp.inf)
    best = jnp.max(reward, where=inside, initial=-jnp.inf)
    offset, p = jnp.where(inside, best - jnp.where(inside, reward, best), jnp.inf), jnp.exp(log_ref)

    def deviation(tau):
        excess = jnp.maximum(tau - offset, 0.0)
        mean = jnp.sum(p * excess)
        return jnp.sqrt(jnp.sum(p * jnp.square(excess - mean)))

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.sqrt(low * high)
        over = deviation(middle) > beta
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    largest = jnp.max(offset, where=inside, initial=0.0)
    beta = jnp.asarray(beta, log_ref.dtype)
    _, tau = jax.lax.fori_loop(0, 70, halve, (jnp.minimum(beta, largest), largest))  # no deviation exceeds tau
    excess = jnp.where(inside, jnp.maximum(tau - offset, 0.0), 0.0)
    log_pi = jax.nn.log_softmax(jnp.where(excess > 0.0, log_ref + jnp.log(jnp.where(excess > 0.0, excess, 1.0)), -jnp.inf))
    return jnp.where(deviation(largest) <= beta, jnp.where(inside, log_ref, -jnp.inf), log_pi)


def norm_gradient(log_pi, log_ref, reward, beta):
    """A gradient of J under the square root of Pearson's chi-square; at pi = pi_ref the subgradient nearest to a constant."""
    inside = log_ref > -jnp.inf
    p, finite = jnp.exp(log_ref), jnp.where(inside & (reward > -jnp.inf), reward, 0.0)
    excess = jnp.where(inside, jnp.expm1(jnp.where(inside, log_pi - jnp.where(inside, log_ref, 0.0), 0.0)), 0.0)
    distance = jnp.sqrt(jnp.sum(p * jnp.square(excess)))
    centred = finite - jnp.sum(p * finite)
    deviation = jnp.sqrt(jnp.sum(p * jnp.square(centred)))
    at_kink = centred / jnp.where(deviation > 0.0, jnp.maximum(deviation, beta), 1.0)
    slope = jnp.where(distance > 0.0, excess / jnp.where(distance > 0.0, distance, 1.0), at_kink)
    return jnp.where(inside, reward - beta * slope, -jnp.inf)
