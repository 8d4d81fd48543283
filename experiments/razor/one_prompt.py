"""Policies that solve one prompt, and how far training takes them from the start, in closed form.

Rewards are 0 and 1, pi_0 is the start, v its probability of a correct answer. Derived here:

- Exact policy gradient on a softmax's logits z without a penalty: dz_y/dt = pi_y (r_y - p), p = E_pi[r]. Hence
  e^(-z_a) - e^(-z_b) stays what it is for any two correct answers, and for any two wrong ones, and so does the sum of logits.
  Advantages that are divided by a function of p (GRPO, expected) change the speed and not the path.
- Adam does not depend on the scale of a logit's gradient. Correct answers' gradients are in proportion to pi_0 as long as all
  their logits moved alike, and so are wrong ones'. By induction all correct logits move alike, and all wrong ones: KL(pi‖pi_0)
  is the least possible at every success, as far as Adam's eps is small beside the gradients. Where it is not, Adam is plain
  gradient descent.
- As p goes to 1 on the path of plain gradients the likeliest correct answer's e^(-z) goes to 0 and no other's does: all mass
  ends on it, and KL(pi‖pi_0) ends at -log of its probability under pi_0. The I-projection, pi_0 given a correct answer, has
  -log v.
- The least KL(pi‖pi_0) of any policy of success p is that of the two outcomes, p log(p/v) + (1 - p) log((1 - p)/(1 - v)).
"""

import itertools
import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.integrate import solve_ivp
from scipy.stats import multinomial

START = np.array([0.12, 0.06, 0.02, 0.3, 0.2, 0.15, 0.1, 0.05])
CORRECT = np.arange(len(START)) < 3
HALVINGS = 80


def kl(p: Float[np.ndarray, "*B A"], q: Float[np.ndarray, "*B A"]) -> Float[np.ndarray, "*B"]:
    """KL(p‖q); 0 log 0 is 0."""
    return np.sum(np.where(p > 0.0, p * np.log(np.where(p > 0.0, p, 1.0) / q), 0.0), axis=-1)


def least(success: Float[np.ndarray, "*B"], v: Float[np.ndarray, "*B"] | float) -> Float[np.ndarray, "*B"]:
    """The least KL(pi‖pi_0) of a policy with this probability of a correct answer."""
    return kl(np.stack([success, 1.0 - success], -1), np.stack(np.broadcast_arrays(v, 1.0 - v), -1))


def conditioned(start: Float[np.ndarray, "*B A"], correct: Bool[np.ndarray, "*B A"]) -> Float[np.ndarray, "*B A"]:
    """The I-projection of the start on the policies that always succeed: the start given a correct answer."""
    kept = np.where(correct, start, 0.0)
    return kept / kept.sum(axis=-1, keepdims=True)


def gradient_path(
    start: Float[np.ndarray, "B A"], correct: Bool[np.ndarray, "B A"], success: Float[np.ndarray, " B"]
) -> Float[np.ndarray, "B A"]:
    """The policy at these probabilities of success on the path of exact policy gradient without a penalty, in closed form.

    The rise m of the likeliest correct answer's logit gives all correct ones; u >= 0, which is added to every wrong answer's
    e^(-z), follows from the sum of logits; m is found by bisection.
    """
    inverse = 1.0 / start  # e^(-z) at the start
    top = np.min(inverse, axis=1, where=correct, initial=np.inf)[:, None]
    low, high = np.zeros(len(start)), np.full(len(start), 60.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = _at_rise(inverse, correct, top, middle)[0] < np.log(success / (1.0 - success))
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return _at_rise(inverse, correct, top, 0.5 * (low + high))[1]


def _at_rise(inverse, correct, top, rise) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B A"]]:
    """Log-odds of success and the policy where the likeliest correct answer's logit has risen by `rise`."""
    changed = np.where(correct, inverse - top + top * np.exp(-rise[:, None]), inverse)
    risen = np.sum(np.where(correct, np.log(inverse / changed), 0.0), axis=1)
    low, high = np.full(len(inverse), -80.0), np.full(len(inverse), 200.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        fallen = np.sum(np.where(correct, 0.0, np.log1p(np.exp(middle)[:, None] / inverse)), axis=1)
        low, high = np.where(fallen < risen, middle, low), np.where(fallen < risen, high, middle)
    changed = np.where(correct, changed, inverse + np.exp(0.5 * (low + high))[:, None])
    weight = 1.0 / changed
    right, wrong = (np.sum(np.where(mask, weight, 0.0), axis=1) for mask in (correct, ~correct))
    return np.log(right / wrong), weight / (right + wrong)[:, None]


def penalised_path(beta: float, direction: str, times: Float[np.ndarray, " C"]) -> Float[np.ndarray, "C A"]:
    """The policy at these times on the path of exact policy gradient with a penalty, from START, by numerical integration."""
    log_start = np.log(START)

    def slope(_, logits):
        log_pi = logits - np.logaddexp.reduce(logits)
        pi = np.exp(log_pi)
        value = CORRECT - beta * (log_pi - log_start) if direction == "kl_pi_ref" else CORRECT.astype(float)
        pull = beta * (START - pi) if direction == "kl_ref_pi" else 0.0
        return pi * (value - pi @ value) + pull

    found = solve_ivp(slope, (0.0, times[-1]), log_start, "LSODA", times, rtol=1e-9, atol=1e-11)
    logits = found.y.T
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])


def adam(
    start: Float[np.ndarray, "B A"], correct: Bool[np.ndarray, "B A"], rate: float, steps: int, eps: float
) -> tuple[Float[np.ndarray, "B A"], Float[np.ndarray, "B A"]]:
    """Adam on exact gradients without a penalty (b1 .9, b2 .99): the policies where success first reaches .99, and the last."""
    logits, first, second = np.log(start), np.zeros_like(start), np.zeros_like(start)
    reached, policy = np.full_like(start, np.nan), start
    for step in range(1, steps + 1):
        right = np.sum(policy, axis=1, where=correct, keepdims=True)
        wrong = np.sum(policy, axis=1, where=~correct, keepdims=True)
        reached = np.where(np.isnan(reached) & (right >= 0.99), policy, reached)
        slope = policy * np.where(correct, wrong, -right)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        logits += rate * first / (1.0 - 0.9**step) / (np.sqrt(second / (1.0 - 0.99**step)) + eps)
        policy = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    return reached, policy


def random_starts(count: int, answers: int, right: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random starts, uniform on the simplex, of which the first answers are correct."""
    starts = np.random.default_rng(seed).dirichlet(np.ones(answers), count)
    return starts, np.broadcast_to(np.arange(answers) < right, starts.shape)


def filtered_samples(count: int) -> float:
    """Expected KL(q‖pi_0) of the frequencies q of `count` correct samples of the start, at which maximum likelihood ends."""
    share = conditioned(START, CORRECT)[CORRECT]
    counts = np.array([n for n in itertools.product(range(count + 1), repeat=len(share)) if sum(n) == count])
    return float(-math.log(START[CORRECT].sum()) + multinomial.pmf(counts, count, share) @ kl(counts / count, share))
