"""Probes of a loss: what its penalty does with padding, the spread of rewards, large log-ratios, positions and tokens.

Each function returns a flag's name with a sentence, or nothing. All compare gradients of the same loss on changed inputs.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.check.arguments import batch_arrays
from rlkl.diagnostics.check.matching import SAME, Match
from rlkl.diagnostics.check.measure import Evaluate, Measured, measure
from rlkl.diagnostics.check.worlds import World
from rlkl.divergences import REGISTRY, Params
from rlkl.settings import numerics

LARGEST_RATIO = 22.0  # of the log-ratios that clamps are looked for in
NEAR = 1.0  # log-ratios within which no library clamps
CURVE = 1e-3  # relative difference above which the curve of a penalty departs from its divergence's


SCALED = "rewards or advantages are divided by their spread, so the step does not grow with them"


class Flag(NamedTuple):
    """A property of a loss that its user should know, and the sentence that says so."""

    name: str
    says: str


def _differ(first: np.ndarray, second: np.ndarray, size: float) -> bool:
    return not np.linalg.norm(first - second) <= SAME * size


def detached(without: Measured, with_penalty: Measured) -> Iterator[Flag]:
    """Whether the penalty has no gradient at any token, in contrast to one whose expectation is zero."""
    changes = [with_penalty.evaluation.gradient[name] - each for name, each in without.evaluation.gradient.items()]
    if any(np.any(change) for change in changes):
        return
    if with_penalty.evaluation.value != without.evaluation.value:
        yield Flag("detached", "the penalty changes the loss and has no gradient: it is detached")
    else:
        yield Flag("absent", "the coefficient changes neither the loss nor its gradient")


def scaled_by_std(evaluate: Evaluate, world: World, without: Measured) -> Iterator[Flag]:
    """Whether the step does not grow with the rewards."""
    threefold = measure(evaluate, world, 0.0, reward_scale=3.0).gradient
    if _differ(threefold, 3.0 * without.gradient, float(np.linalg.norm(threefold))):
        yield Flag("scaled_by_std", SCALED)


def padding(unpadded: Measured, padded: Measured) -> Iterator[Flag]:
    """Whether a gradient changes with columns of padding, or flows into them."""
    size = float(np.linalg.norm(unpadded.gradient))
    if padded.at_padding > SAME * size:
        yield Flag("padding", "padding has a gradient: the mask is ignored")
    elif _differ(padded.gradient, unpadded.gradient, size):
        yield Flag("padding", "the gradient changes with the number of padding columns or with what stands in them")


def swapped(match: Match) -> Iterator[Flag]:
    """Whether the gradient is that of k3 with policy and reference exchanged."""
    exchanged = ("pearson", 0.5), ("0.5 χ²(pi‖pi_ref) - KL(pi‖pi_ref)", 0.5), ("χ²(pi‖pi_ref) - KL(pi‖pi_ref)", 1.0)
    for name, coefficient in exchanged:
        if name in (match.divergence, match.says) and abs(match.coefficient - coefficient) < 1e-3:
            yield Flag("swapped", "this is the gradient of k3 with policy and reference exchanged")


class Curve(NamedTuple):
    """The slope of a penalty, over its coefficient, at log-ratios u of a token; the mean over tokens of the loss is undone."""

    u: Float[np.ndarray, " N"]
    slope: Float[np.ndarray, " N"]


def slope_curve(evaluate: Evaluate, world: World, beta: float, u: Float[np.ndarray, " N"] | None = None) -> Curve | None:
    """The derivative of the penalty by each token's log-probability; None for a loss of logits alone.

    world: a bandit. Each row of the batch is given a log-ratio of its own, by its reference's log-probability.
    """
    rows = world.population
    if u is None:
        u = np.concatenate([np.linspace(-LARGEST_RATIO, LARGEST_RATIO, len(rows) - 12), np.linspace(-NEAR, NEAR, 12)])
    arrays = batch_arrays(world, rows, reward_scale=0.0)  # what is left of the loss is its penalty
    arrays["ref_log_probs"] = arrays["log_probs"] - u[:, None]
    gradient = evaluate(arrays, beta).gradient
    if "log_probs" not in gradient:
        return None
    slope = gradient["log_probs"][:, 0] * len(rows) / beta
    order = np.argsort(u)
    return Curve(u[order], slope[order])


def clamped(evaluate: Evaluate, world: World, match: Match, beta: float) -> Iterator[Flag]:
    """Whether the penalty's slope departs from that of its divergence at large log-ratios, and from which on."""
    curve = slope_curve(evaluate, world, beta)
    if curve is None or match.divergence is None:
        return
    divergence, near = match.divergence, np.abs(curve.u) <= NEAR
    slope = _slope(divergence, curve.u[near])
    factors = np.linalg.lstsq(np.stack([slope, np.ones(len(slope))], axis=1), curve.slope[near], rcond=None)[0]

    def departs(curve: Curve) -> np.ndarray:
        fitted = factors[0] * _slope(divergence, curve.u) + factors[1]
        return np.abs(curve.slope - fitted) > CURVE * np.maximum(np.abs(fitted), np.abs(factors[0]))

    changed = departs(curve)
    if changed[near].any() or not changed.any():
        return
    bounds = []
    for side, word in ((-1.0, "below"), (1.0, "above")):
        inner, outer = curve.u[~changed & (side * curve.u > 0)], curve.u[changed & (side * curve.u > 0)]
        if not len(outer):
            continue
        first = outer[np.argmin(np.abs(outer))]
        last = inner[np.abs(inner) < abs(first)]
        fine = np.linspace(last[np.argmax(np.abs(last))], first, len(curve.u))
        refined = slope_curve(evaluate, world, beta, fine)
        assert refined is not None
        edge = refined.u[departs(refined)]
        bounds.append(f"{word} {edge[np.argmin(np.abs(edge))] if len(edge) else first:.2f}")
    yield Flag("clamped", f"its slope is changed, as by a clamp, where log(pi/pi_ref) is {' or '.join(bounds)}")


def _slope(divergence: str, u: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    with numerics.pinned():
        return np.asarray(REGISTRY[divergence].both(jnp.asarray(u), Params())[1])


def shifted(evaluate: Evaluate, world: World, beta: float) -> Iterator[Flag]:
    """Whether a token's penalty depends on the reference at other positions, and not at its own. world: several tokens."""
    arrays = batch_arrays(world, world.population)
    base, horizon = _position_gradients(evaluate, arrays, beta), world.automaton.horizon
    influence = np.zeros((horizon, horizon))
    for column in range(horizon):
        moved = dict(arrays)
        for name in ("ref_log_probs", "ref_logits"):
            moved[name] = arrays[name].copy()
            moved[name][:, column] -= np.linspace(0.1, 0.4, arrays[name][:, column].size).reshape(arrays[name][:, column].shape)
        change = _position_gradients(evaluate, moved, beta) - base
        influence[:, column] = np.abs(change).reshape(len(change), horizon, -1).max(axis=(0, 2))
    others = influence[~np.eye(horizon, dtype=bool)]
    if others.max() > 0.0 and np.diag(influence).max() < SAME * others.max():
        yield Flag("shifted", "a token's penalty reads the reference at another position than its own")


def at_reference(evaluate: Evaluate, world: World, beta: float, size: float) -> Iterator[Flag]:
    """Whether the penalty pulls where the policy is the reference. size: of the gradients of single rows, which cancel."""
    equal = dataclasses.replace(world, reference=world.policy)
    pull = measure(evaluate, equal, beta).gradient - measure(evaluate, equal, 0.0).gradient
    if np.linalg.norm(pull) > SAME * size:
        yield Flag(
            "nonzero_at_reference", "its gradient is not zero where the policy is the reference, as every divergence's is"
        )


def tokens_and_temperature(evaluate: Evaluate, world: World, beta: float) -> Iterator[Flag]:
    """Whether a loss of logits takes the log-probability of another token, or of logits at another temperature.

    The gradient of log softmax(logits/tau)[token] is e_token - softmax(logits/tau), over tau. world: several tokens.
    """
    arrays = batch_arrays(world, world.population)
    gradients = [evaluate(arrays, coefficient).gradient for coefficient in (0.0, beta)]
    if "logits" not in gradients[0]:
        return
    rows = (gradients[1]["logits"] - gradients[0]["logits"])[arrays["mask"] > 0]
    tokens, log_pi = arrays["tokens"][arrays["mask"] > 0], arrays["logits"][arrays["mask"] > 0]
    used = np.abs(rows).max(axis=1) > SAME * np.abs(rows).max()
    rows, tokens, log_pi = rows[used], tokens[used], log_pi[used]
    common = -np.sign(np.sign(rows).sum(axis=1, keepdims=True))
    alone = np.sign(rows) == common  # one entry against all others: the token's
    if not len(rows) or not np.all(alone.sum(axis=1) == 1):
        return
    log_rest, log_pi_rest = (x[~alone].reshape(len(rows), -1) for x in (np.log(np.abs(rows)), log_pi))
    log_rest, log_pi_rest = (x - x.mean(axis=1, keepdims=True) for x in (log_rest, log_pi_rest))
    inverse = float((log_rest * log_pi_rest).sum() / (log_pi_rest**2).sum())
    if np.abs(log_rest - inverse * log_pi_rest).max() > 1e-4:
        return  # no gradient of one log-probability: a sum over the vocabulary, say
    if np.mean(np.argmax(alone, axis=1) == tokens) < 0.99:
        yield Flag("wrong_token", "the log-probability that is penalised is not that of the sampled token")
    if abs(inverse - 1.0) > 1e-4:
        yield Flag("temperature", f"the policy's logits are divided by a temperature of {1 / inverse:.4g} in the penalty")


def _position_gradients(evaluate: Evaluate, arrays: dict[str, np.ndarray], beta: float) -> np.ndarray:
    """The penalty's gradient at every position, by whichever array the loss reads."""
    without, with_penalty = evaluate(arrays, 0.0).gradient, evaluate(arrays, beta).gradient
    name = next(iter(with_penalty))
    return with_penalty[name] - without[name]
