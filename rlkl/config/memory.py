"""How much memory a run would need at the least, so that one that cannot fit is refused before anything is allocated."""

from collections.abc import Iterator
from typing import NamedTuple

from rlkl import algorithms, policies
from rlkl.errors import SettingsError
from rlkl.evaluation import metrics
from rlkl.rollouts import batch
from rlkl.training import blocks
from rlkl.training.spec import Run

MOST_BYTES = 2**33  # of one run, or of the block of small runs that it is compiled with
COLUMNS = 40  # numbers in a logged row


class Need(NamedTuple):
    """What one setting needs, in bytes."""

    key: str
    value: object
    size: float


def check_memory(run: Run) -> None:
    """Raise `SettingsError` for the first setting that would need more than MOST_BYTES."""
    for need in needs(run):
        if need.size > MOST_BYTES:
            rule = f"would need at least {need.size / 2**30:.3g} GiB of memory; at most {MOST_BYTES / 2**30:g} GiB are allowed"
            raise SettingsError(need.key, need.value, rule)


def needs(run: Run) -> Iterator[Need]:
    """What the settings that size arrays need: parameters, activations, sequences and logged rows."""
    chosen, automaton = run.settings, run.task.automaton
    family, number = policies.REGISTRY[chosen.policy.name], 4.0 if chosen.dtype == "float32" else 8.0
    horizon, vocabulary, together = automaton.horizon, automaton.vocabulary, blocks.width(run)
    parameters = _parameters(run)
    if family.network:
        largest = "layers" if _deep(run) and chosen.policy.layers > chosen.policy.width else "width"
        size = 4.0 * number * parameters  # with Adam's two averages and the gradient
        yield Need(f"policy.{largest}", getattr(chosen.policy, largest), size)
    yield Need("rollout.staleness", chosen.rollout.staleness, together * number * chosen.rollout.staleness * parameters)
    yield Need("log_every", chosen.log_every, 8.0 * COLUMNS * (1.0 + chosen.steps / chosen.log_every))
    counted = horizon == 1 and not family.network
    token = 1.0 if counted else float(vocabulary) + _activations(run)  # numbers kept for each token that is read
    if chosen.batch_size is not None:
        yield Need("batch_size", chosen.batch_size, together * number * chosen.batch_size * horizon * token)
    elif family.network and algorithms.gradient_kind(chosen.algorithm.name) == "exact":
        yield Need("policy.width", chosen.policy.width, number * automaton.sequences * horizon * token)
    if family.network and not batch.is_enumerable(automaton):
        yield Need("policy.width", chosen.policy.width, 8.0 * metrics.LAST_SAMPLES * horizon * vocabulary)
    if chosen.reference.name == "pretrained":
        yield Need("reference.samples", chosen.reference.samples, 12.0 * chosen.reference.samples * horizon)
        size = min(chosen.reference.batch_size, chosen.reference.samples)
        yield Need("reference.batch_size", chosen.reference.batch_size, 4.0 * size * horizon * token)


def _deep(run: Run) -> bool:
    return run.settings.policy.name == "transformer"


def _parameters(run: Run) -> float:
    """How many numbers the policy has: of a network its widest matrices, of another the table that it fills."""
    chosen, automaton = run.settings.policy, run.task.automaton
    if not policies.REGISTRY[chosen.name].network:
        return float(automaton.horizon * automaton.decisions * automaton.vocabulary)
    return (12.0 * chosen.layers if _deep(run) else 3.0) * float(chosen.width) ** 2 + 2.0 * chosen.width * automaton.vocabulary


def _activations(run: Run) -> float:
    """How many numbers a network keeps for each token, to be differentiated: none of a table's."""
    chosen = run.settings.policy
    if not policies.REGISTRY[chosen.name].network:
        return 0.0
    return float(chosen.width) * (8.0 * chosen.layers if _deep(run) else 4.0)
