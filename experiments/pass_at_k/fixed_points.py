"""Fixed points of the unlikeliness reward: its exact expected gradient over groups, and where that vanishes.

In groups of G with the group's mean as the baseline, the expected gradient is that of a reward held fixed, for each answer y,

    r(y) = s(y) (1 - w (G - 1)/G F(y)) + w/G C(y),

with s = 1 for a success and 0 else, F(y) the probability of an answer less likely than y, and C(y) that of a success likelier
than y, ties counted half. The last term comes from the baseline: an unlikely y raises nobody's rank. For G to infinity r(y) =
s(y) (1 - w F(y)). The reward is that of He et al. 2025 (arXiv 2506.02355) as their code ranks; r(y) and its fixed points are
derived here, and a test of `rlkl.training.likelihood_rewards` enumerates groups.

With beta KL(pi‖pi_ref) a fixed point has pi ∝ q e^(r/beta), q the reference. As ranks jump where two answers become equally
likely, it may hold them equal: the limit of ranks that are smoothed over a width in log-probability.
"""

import numpy as np
import scipy
from scipy.special import expit, log_softmax

WIDTHS = np.geomspace(1.0, 1e-4, 10)  # of smoothed ranks, in nats


def effective_reward(log_pi: np.ndarray, success: np.ndarray, weight: float, size: float, width: float) -> np.ndarray:
    """r(y) of each answer, with ranks smoothed over a width."""
    less = expit((log_pi[:, None] - log_pi) / width)  # how far the column's answer is less likely than the row's
    pi = np.exp(log_pi)
    return success * (1.0 - weight * (1.0 - 1.0 / size) * (less @ pi)) + weight / size * ((1.0 - less) @ (pi * success))


def _jacobian(log_pi: np.ndarray, success: np.ndarray, weight: float, size: float, width: float) -> np.ndarray:
    """The derivative of `effective_reward` in log pi, as if its entries were free."""
    pi, less = np.exp(log_pi), expit((log_pi[:, None] - log_pi) / width)
    steep = less * (1.0 - less) / width

    def of_share(mass: np.ndarray) -> np.ndarray:  # of less @ mass
        return less * mass - steep * mass + np.diag(steep @ mass)

    correct = pi * success
    likelier = np.tile(correct, (pi.size, 1)) - of_share(correct)  # of (1 - less) @ correct
    return -weight * (1.0 - 1.0 / size) * success[:, None] * of_share(pi) + weight / size * likelier


def fixed_point(q: np.ndarray, success: np.ndarray, beta: float, weight: float, size: float) -> np.ndarray:
    """The policy of one prompt at which the expected gradient vanishes, followed from wide ranks to narrow ones."""
    log_q = np.log(q)

    def residual(log_ratio: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        log_pi = log_softmax(log_q + log_ratio)
        of_free = _jacobian(log_pi, success, weight, size, width) / beta
        normalised = of_free - np.outer(of_free.sum(axis=1), np.exp(log_pi))
        return log_ratio - effective_reward(log_pi, success, weight, size, width) / beta, np.eye(q.size) - normalised

    log_ratio = success / beta
    for width in WIDTHS:
        log_ratio = scipy.optimize.root(residual, log_ratio, args=(width,), jac=True, tol=1e-11).x
    return np.exp(log_softmax(log_q + log_ratio))


def distance(pi: np.ndarray, q: np.ndarray, success: np.ndarray, beta: float, weight: float, size: float) -> float:
    """By how much log pi misses the fixed point's equation, with the narrowest ranks, up to a constant."""
    left = np.log(pi / q) - effective_reward(np.log(pi), success, weight, size, WIDTHS[-1]) / beta
    return float(np.ptp(left))


def work(reward_of, corners: np.ndarray) -> float:
    """The integral of a reward that depends on the policy around the closed polygon of these policies; 0 for a gradient.

    reward_of: a policy -> its reward of each answer. The midpoint rule is exact where that is linear in the policy.
    """
    ends = np.roll(corners, -1, axis=0)
    fine = np.linspace(0.0, 1.0, 401)
    total = 0.0
    for start, end in zip(corners, ends, strict=True):
        points = start + (0.5 * (fine[1:] + fine[:-1]))[:, None] * (end - start)
        total += float(np.mean([reward_of(point) @ (end - start) for point in points]))
    return total
