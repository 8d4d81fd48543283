"""Bound a run's memory from below, so that a run that cannot fit is refused before anything is allocated."""

from collections.abc import Iterator
from typing import NamedTuple

from rlkl import algorithms, policies
from rlkl.errors import SettingsError
from rlkl.evaluation import metrics
from rlkl.training import blocks
from rlkl.training.spec import Run

MOST_BYTES = 2**33  # of one run, or of the block of runs that it is trained in
COLUMNS = 40  # numbers in a logged row


class Need(NamedTuple):
    """The memory that one setting needs. size: in bytes."""

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
    """Yield the memory that each setting needs: for parameters, activations, sequences and logged rows."""
    settings, automaton = run.settings, run.task.automaton
    family, number_bytes = policies.REGISTRY[settings.policy.name], 8.0 if settings.dtype == "float64" else 4.0
    horizon, vocabulary, block_width = automaton.horizon, automaton.vocabulary, blocks.width(run)
    parameters = _parameters(run)
    if family.network:
        largest = "layers" if _deep(run) and settings.policy.layers > settings.policy.width else "width"
        size = 4.0 * number_bytes * parameters  # parameters, gradient and Adam's two moments
        yield Need(f"policy.{largest}", getattr(settings.policy, largest), size)
    yield Need(
        "rollout.staleness", settings.rollout.staleness, block_width * number_bytes * settings.rollout.staleness * parameters
    )
    yield Need("log_every", settings.log_every, 8.0 * COLUMNS * (1.0 + settings.steps / settings.log_every))
    counted = horizon == 1 and not family.network
    token_size = 1.0 if counted else float(vocabulary) + _activations(run)  # numbers kept for each token
    if settings.batch_size is not None:
        yield Need("batch_size", settings.batch_size, block_width * number_bytes * settings.batch_size * horizon * token_size)
    elif family.network and algorithms.gradient_kind(settings.algorithm.name) == "exact":
        yield Need("policy.width", settings.policy.width, number_bytes * automaton.sequences * horizon * token_size)
    if family.network and not automaton.is_enumerable:
        yield Need("policy.width", settings.policy.width, 8.0 * metrics.LAST_SAMPLES * horizon * vocabulary)
    if settings.reference.name == "pretrained":
        yield Need("reference.samples", settings.reference.samples, 12.0 * settings.reference.samples * horizon)
        size = min(settings.reference.batch_size, settings.reference.samples)
        yield Need("reference.batch_size", settings.reference.batch_size, 4.0 * size * horizon * token_size)


def _deep(run: Run) -> bool:
    return run.settings.policy.name == "transformer"


def _parameters(run: Run) -> float:
    """Count the policy's parameters: of a network those of its widest matrices, else the entries of its table."""
    policy, automaton = run.settings.policy, run.task.automaton
    if not policies.REGISTRY[policy.name].network:
        return float(automaton.horizon * automaton.decisions * automaton.vocabulary)
    return (12.0 * policy.layers if _deep(run) else 3.0) * float(policy.width) ** 2 + 2.0 * policy.width * automaton.vocabulary


def _activations(run: Run) -> float:
    """Count the activations that backpropagation keeps for each token: 0 for a table."""
    policy = run.settings.policy
    if not policies.REGISTRY[policy.name].network:
        return 0.0
    return float(policy.width) * (8.0 * policy.layers if _deep(run) else 4.0)
