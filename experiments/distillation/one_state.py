"""Distillation on one state: sums over k tokens of student pi and teacher q, their gradients, and where gradient flow ends.

K is the set of the k tokens. Written out in NumPy, without rlkl. The laws are derived, not read: with a softmax the gradient by
the logit of token i is pi_i (g_i - sum_j pi_j g_j), where g is the derivative by pi. If g is the same for all tokens outside K,
dz_i/dt is pi_i times a factor that they share, so that e^-z_i - e^-z_j stays as it is, and so does the sum of all logits.
"""

from collections.abc import Callable

import numpy as np
import scipy

LOSSES = ("full", "dropped", "renormalised", "bucket", "forward dropped", "masked k1")
Field = Callable[[np.ndarray], np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    """The distribution of each row of logits."""
    return scipy.special.softmax(logits, axis=-1)


def top(p: np.ndarray, k: int) -> np.ndarray:
    """A mask of the k largest entries of each row; of equal ones the first count."""
    inside = np.zeros(p.shape, bool)
    np.put_along_axis(inside, np.argsort(-p, axis=-1, kind="stable")[..., :k], True, axis=-1)
    return inside


def truncated(pi: np.ndarray, q: np.ndarray, inside: np.ndarray, forward: bool = False) -> np.ndarray:
    """sum_K pi log(pi/q); forward: sum_K q log(q/pi)."""
    first, second = (q, pi) if forward else (pi, q)
    return np.sum(scipy.special.rel_entr(first, second), axis=-1, where=inside)


def by_pi(loss: str, pi: np.ndarray, q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The derivative by pi of a loss, and for "masked k1" the reward of the sampled token, negative: log(pi/q) if it is in K.

    E[g grad log pi] is the gradient of a loss whose derivative is g. "masked k1" is thus sum_K (pi log(pi/q) - pi + q).
    """
    q = np.broadcast_to(q, pi.shape)
    mass, reference = (np.sum(each, axis=-1, keepdims=True, where=inside) for each in (pi, q))
    u = np.log(pi / q)
    if loss == "full":
        return u
    if loss == "dropped":
        return np.where(inside, u + 1.0, 0.0)
    if loss == "forward dropped":
        return np.where(inside, -q / pi, 0.0)
    if loss == "masked k1":
        return np.where(inside, u, 0.0)
    if loss == "bucket":
        return np.where(inside, u, np.log1p(-mass) - np.log1p(-reference))
    of_both = u - np.log(mass / reference)
    value = np.sum(pi / mass * of_both, axis=-1, keepdims=True, where=inside)
    return np.where(inside, (of_both - value) / mass, 0.0)


def descent(loss: str, logits: np.ndarray, q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Minus the gradient by the logits."""
    pi = softmax(logits)
    slope = by_pi(loss, pi, q, inside)
    return pi * (np.sum(pi * slope, axis=-1, keepdims=True) - slope)


def flow(loss: str, logits: np.ndarray, q: np.ndarray, inside: np.ndarray, time: float) -> np.ndarray:
    """Logits after gradient flow for this time."""
    solved = scipy.integrate.solve_ivp(
        lambda _, z: descent(loss, z, q, inside), (0.0, time), logits, "LSODA", rtol=1e-10, atol=1e-12
    )
    return solved.y[:, -1]


def end(loss: str, logits: np.ndarray, q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The policy at which gradient flow from these logits ends, in closed form but for the root of one increasing function."""
    if loss == "full" or inside.all():
        return q
    if loss == "forward dropped":  # in the limit
        return np.where(inside, q, 0.0) / np.sum(q, where=inside)
    if loss == "renormalised":  # the logits outside K stay, and so does the sum of those in K
        shift = np.mean((logits - np.log(q))[inside])
        return softmax(np.where(inside, np.log(q) + shift, logits))
    target = q[inside] / (np.e if loss == "dropped" else 1.0)
    return softmax(_with_conserved_tail(logits, np.log(target), inside))


def _with_conserved_tail(logits: np.ndarray, log_target: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Logits with these log-probabilities in K whose tail and whose sum obey the conservation laws."""
    inverse = np.exp(-logits[~inside])
    log_tail = np.log1p(-np.exp(log_target).sum())

    def at(x: float) -> np.ndarray:
        tail = -np.log(inverse - inverse.min() + np.exp(x))
        shift = scipy.special.logsumexp(tail) - log_tail
        reached = logits.copy()
        reached[inside], reached[~inside] = log_target + shift, tail
        return reached

    return at(scipy.optimize.brentq(lambda x: at(x).sum() - logits.sum(), -60.0, 60.0, xtol=1e-13, rtol=1e-14))


def clamped_end(logits: np.ndarray, q: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The policy at which sum_K q log(q/pi) has fallen to 0 along its flow: clamped at 0, it has no gradient from there on."""

    def value(_, z):
        return float(truncated(softmax(z), q, inside, forward=True))

    value.terminal, value.direction = True, -1.0  # type: ignore[attr-defined]
    if value(0.0, logits) <= 0.0:
        return softmax(logits)
    solved = scipy.integrate.solve_ivp(
        lambda _, z: descent("forward dropped", z, q, inside), (0.0, 1e6), logits, "LSODA", events=value, rtol=1e-10, atol=1e-12
    )
    return softmax(solved.y[:, -1])


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p‖q) of each row."""
    return scipy.special.rel_entr(p, q).sum(axis=-1)
