"""What the numbers that a loss returns beside its value estimate, by their expectations in several worlds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlkl.diagnostics.check.worlds import World

CLOSE = 1e-6
OFF_POLICY = "sampler"  # the world whose samples are not the policy's


class Metric(NamedTuple):
    """A number that a loss returns: what it estimates, and its expectation in each world."""

    name: str
    estimates: str
    values: Mapping[str, float]


def identify(name: str, values: Mapping[str, float], worlds: Mapping[str, World], beta: float) -> Metric:
    """Match a metric's expectations to quantities of the worlds; those of the policy's own samples decide if all do not."""
    quantities = {label: dict(_quantities(world)) for label, world in worlds.items() if label in values}
    on_policy = [label for label in quantities if label != OFF_POLICY]
    for labels, condition in ((list(quantities), ""), (on_policy, ", on the policy's own samples")):
        for factor, prefix in ((1.0, ""), (beta, "the coefficient times ")):
            for quantity in quantities[on_policy[0]]:
                expected = np.array([factor * quantities[label].get(quantity, np.nan) for label in labels])
                measured = np.array([values[label] for label in labels])
                if np.all(np.abs(measured - expected) <= CLOSE * (np.abs(expected) + 1e-3)):
                    return Metric(name, prefix + quantity + condition, values)
    return Metric(name, "no quantity that is known", values)


def _quantities(world: World) -> Iterator[tuple[str, float]]:
    """Quantities of a world by name: exact ones first, then means over the batch of estimators that are no exact value."""
    log_pi, log_ref, log_sampler, mask = world.sequences
    lengths = world.lengths
    drawn = np.exp(log_sampler.sum(axis=1))
    models = {"pi": log_pi, "pi_ref": log_ref, "sampler": log_sampler}
    for first, second in (("pi", "pi_ref"), ("pi_ref", "pi"), ("sampler", "pi"), ("pi", "sampler"), ("sampler", "pi_ref")):
        p, u = np.exp(models[first].sum(axis=1)), models[first] - models[second]
        yield from _aggregated(f"KL({first}‖{second})", p, u, lengths)
    yield "E[r]", float(world.probability @ world.reward)
    yield "E[length]", float(world.probability @ lengths)
    yield "0", 0.0
    yield "1", 1.0
    for first, second in (("pi", "pi_ref"), ("pi", "sampler")):
        u = models[first] - models[second]
        estimators = {"k1": u, "k2": u**2 / 2, "k3": np.where(mask, np.expm1(-u) + u, 0.0), "|u|": np.abs(u)}
        for name, values in estimators.items():
            yield from _aggregated(f"{name} of log({first}/{second})", drawn, values, lengths)
        yield from _aggregated(f"the ratio {first}/{second}", drawn, np.where(mask, np.exp(u), 0.0), lengths)
    yield from _aggregated("-log pi, the entropy", drawn, -log_pi, lengths)


def _aggregated(
    name: str, p: np.ndarray, values: np.ndarray, lengths: Sequence[int] | np.ndarray
) -> Iterator[tuple[str, float]]:
    """The mean over sequences of a sum over tokens, over the mean length, and with each sequence over its own length."""
    sums = values.sum(axis=1)
    yield f"{name} per token", float(p @ sums) / float(p @ np.asarray(lengths))
    yield f"{name} per sequence", float(p @ sums)
    yield f"{name}, each sequence divided by its length", float(p @ (sums / np.asarray(lengths)))
