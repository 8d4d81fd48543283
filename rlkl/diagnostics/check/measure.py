"""Expected gradients of a loss in a world, by the logits of its policy: of the population batch, and of groups."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.check.arguments import batch_arrays
from rlkl.diagnostics.check.call import Evaluation
from rlkl.diagnostics.check.worlds import World

Evaluate = Callable[[Mapping[str, np.ndarray], float], Evaluation]
REWARDS = ("rewards", "token_rewards", "advantages", "returns", "expected_reward")
BATCH_SIZE = 64  # of the batch whose variance is reported


class Measured(NamedTuple):
    """What a loss does on a batch: its gradient, that of each row, and what it returns.

    at_padding: the largest gradient that padding has.
    """

    gradient: Float[np.ndarray, "D V"]
    rows: Float[np.ndarray, "N D V"]
    at_padding: float
    evaluation: Evaluation


def measure(
    evaluate: Evaluate,
    world: World,
    beta: float,
    rows: Int[np.ndarray, " N"] | None = None,
    reward_scale: float = 1.0,
    weight: Float[np.ndarray, " N"] | None = None,
    noise_at_padding: bool = False,
) -> Measured:
    """Measure a loss on a batch of sequences; by default on the population batch, whose mean is an expectation."""
    rows = world.population if rows is None else rows
    arrays = batch_arrays(world, rows, reward_scale=reward_scale, weight=weight, noise_at_padding=noise_at_padding)
    evaluation = evaluate(arrays, beta)
    padding = arrays["mask"] == 0.0
    at_padding = max((np.abs(each[padding]).max(initial=0.0) for each in evaluation.gradient.values()), default=0.0)
    by_row = row_gradients(world, rows, evaluation.gradient)
    return Measured(by_row.sum(axis=0), by_row, float(at_padding), evaluation)


def row_gradients(world: World, rows: np.ndarray, gradient: Mapping[str, np.ndarray]) -> Float[np.ndarray, "N D V"]:
    """The gradient of each row by the logits, from the loss's gradient by `log_probs` [N, T] and `logits` [N, T, V]."""
    columns = slice(world.padding[0], world.padding[0] + world.automaton.horizon)
    mask, states, tokens = np.asarray(world.batch.mask)[rows], world.states[rows], world.batch.tokens[rows]
    by_row = np.zeros((len(rows), *world.policy.shape))
    index = np.arange(len(rows))[:, None]
    if "log_probs" in gradient:
        weights = np.where(mask, gradient["log_probs"][:, columns], 0.0)
        np.add.at(by_row, (index, states, tokens), weights)
        np.add.at(by_row, (index, states), -weights[..., None] * world.policy[states])
    if "logits" in gradient:
        np.add.at(by_row, (index, states), np.where(mask[..., None], gradient["logits"][:, columns], 0.0))
    return by_row


def batch_variance(rows: Float[np.ndarray, "N D V"]) -> float:
    """The variance of the gradient of a batch of `BATCH_SIZE` rows, summed over logits, from the rows of a population batch."""
    each = len(rows) * rows.reshape(len(rows), -1)
    return float(np.mean(np.sum((each - each.mean(axis=0)) ** 2, axis=1))) / BATCH_SIZE


def groups(world: World, size: int) -> Iterator[tuple[Int[np.ndarray, " G"], float]]:
    """Every group of `size` sequences of the sampler, in any order, and its probability."""
    probability = np.exp(world.sequences.log_sampler.sum(axis=1))
    for group in itertools.combinations_with_replacement(range(len(probability)), size):
        counts = np.bincount(group)
        orders = math.factorial(size) // math.prod(math.factorial(count) for count in counts)
        yield np.array(group), orders * float(np.prod(probability[list(group)]))


def over_groups(evaluate: Evaluate, world: World, beta: float, size: int) -> Float[np.ndarray, "D V"]:
    """The expected gradient of a loss whose batch is one group of `size` sequences."""
    return sum(
        (weight * measure(evaluate, world, beta, rows).gradient for rows, weight in groups(world, size)),
        start=np.zeros(world.policy.shape),
    )


def without_coefficient(evaluate: Evaluate) -> Evaluate:
    """The evaluation of a loss that has no coefficient: at 0 it is less what stays when all rewards are 0, the penalty."""

    def evaluate_parts(arrays: Mapping[str, np.ndarray], beta: float) -> Evaluation:
        full = evaluate(arrays, beta)
        if beta != 0.0:
            return full
        penalty = evaluate({**arrays, **{name: np.zeros_like(arrays[name]) for name in REWARDS}}, beta)
        gradient = {name: each - penalty.gradient[name] for name, each in full.gradient.items()}
        return Evaluation(full.value - penalty.value, gradient, full.metrics)

    return evaluate_parts
