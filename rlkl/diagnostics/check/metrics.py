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
    """Match a metric's expectations to exact quantities of the worlds, and to means of estimators over the batch.

    Many metrics are an exact quantity on the policy's own samples alone; the estimator that they average is then named too.
    """
    on_policy = {label: value for label, value in values.items() if label != OFF_POLICY}
    exact = _matching(values, {label: dict(_exact(worlds[label])) for label in values}, beta)
    if exact:
        return Metric(name, exact, values)
    exact = _matching(on_policy, {label: dict(_exact(worlds[label])) for label in on_policy}, beta)
    batch_mean = _matching(values, {label: dict(_estimators(worlds[label])) for label in values}, beta)
    parts = ([f"{exact} on the policy's own samples"] if exact else []) + ([f"the mean of {batch_mean}"] if batch_mean else [])
    return Metric(name, "; ".join(parts) or "no quantity that is known", values)


def _matching(values: Mapping[str, float], quantities: Mapping[str, Mapping[str, float]], beta: float) -> str:
    """The first quantity, or the coefficient times one, that has these values in all worlds; empty if none has."""
    measured = np.array(list(values.values()))
    for factor, prefix in ((1.0, ""), (beta, "the coefficient times ")):
        for quantity in next(iter(quantities.values())):
            expected = factor * np.array([quantities[label][quantity] for label in values])
            if np.all(np.abs(measured - expected) <= CLOSE * (np.abs(expected) + 1e-3)):
                return prefix + quantity
    return ""


def _exact(world: World) -> Iterator[tuple[str, float]]:
    """Exact quantities of a world."""
    models = _models(world)
    for first, second in (("pi", "pi_ref"), ("pi_ref", "pi"), ("sampler", "pi"), ("pi", "sampler"), ("sampler", "pi_ref")):
        p, u = np.exp(models[first].sum(axis=1)), models[first] - models[second]
        yield from _aggregated(f"KL({first}‖{second})", p, u, world.lengths)
    yield from _aggregated("the policy's entropy", world.probability, -models["pi"], world.lengths)
    yield "E[r]", float(world.probability @ world.reward)
    yield "E[length]", float(world.probability @ world.lengths)
    yield "0", 0.0
    yield "1", 1.0


def _estimators(world: World) -> Iterator[tuple[str, float]]:
    """Means over the batch of estimators that are no exact quantity."""
    models, mask = _models(world), np.asarray(world.batch.mask)
    drawn = np.exp(models["sampler"].sum(axis=1))
    for first, second in (("pi", "pi_ref"), ("pi", "sampler")):
        u = models[first] - models[second]
        estimators = {"k1": u, "k2": u**2 / 2, "k3": np.where(mask, np.expm1(-u) + u, 0.0), "|u|": np.abs(u)}
        for name, values in estimators.items():
            yield from _aggregated(f"{name} of log({first}/{second})", drawn, values, world.lengths)
        yield from _aggregated(f"the ratio {first}/{second}", drawn, np.where(mask, np.exp(u), 0.0), world.lengths)
    yield from _aggregated("-log pi", drawn, -models["pi"], world.lengths)


def _models(world: World) -> dict[str, np.ndarray]:
    return {"pi": world.sequences.log_pi, "pi_ref": world.sequences.log_ref, "sampler": world.sequences.log_sampler}


def _aggregated(
    name: str, p: np.ndarray, values: np.ndarray, lengths: Sequence[int] | np.ndarray
) -> Iterator[tuple[str, float]]:
    """The mean over sequences of a sum over tokens, over the mean length, and with each sequence over its own length."""
    sums = values.sum(axis=1)
    yield f"{name} per token", float(p @ sums) / float(p @ np.asarray(lengths))
    yield f"{name} per sequence", float(p @ sums)
    yield f"{name}, each sequence divided by its length", float(p @ (sums / np.asarray(lengths)))
