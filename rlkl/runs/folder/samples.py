"""What policies write: the same uniform numbers turned into sequences by reference, policy and optimum."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from rlkl.config.build import Built
from rlkl.exact import optimal_policy
from rlkl.policies import AnyPolicy, Fixed, base, decoded
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.settings import numerics
from rlkl.tasks import Automaton
from rlkl.training import blocks
from rlkl.training.blocks import Trained, static_part

SHOWN, COMPARED = 8, 1000  # sequences: in samples.txt, and behind the corpus metrics
# Line breaks, escaped: in samples.txt a sequence is one line.
BREAKS = str.maketrans({c: repr(c)[1:-1] for c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"})
CANDIDATES = 16  # of the reference a sequence of an optimum that is no table

KEPT = 4 * blocks.KEPT  # programs: a run has reference, policy and optimum, and may have a decoded policy


@functools.lru_cache(maxsize=KEPT)
def _walk(automaton: Automaton, _: tuple) -> Callable:
    """The walk through this automaton by policies of one static part, jitted; what it compiles goes with it."""
    return jax.jit(lambda uniform, policy: sampling.walk(uniform, automaton, policy))


@functools.lru_cache(maxsize=KEPT)
def _log_ratio(_: tuple) -> Callable:
    """log(pi*/pi_ref) of a batch, for arguments of one static part, jitted; what it compiles goes with it."""

    def of(optimum, reference, batch):
        log_ref = scoring.log_probability(reference, batch)
        return optimum.log_probability(batch, log_ref) - log_ref

    return jax.jit(of)


def sequences(built: Built, trained: Trained, size: int = COMPARED) -> dict[str, list[np.ndarray]]:
    """`size` sequences (tokens, each cut to its length) of reference, policy and optimum, from one seed."""
    automaton = built.run.task.automaton
    uniform = np.random.default_rng(0).random((automaton.horizon, size))
    with numerics.pinned():
        policies: dict[str, AnyPolicy] = {
            "reference": built.run.reference,
            "policy": base.cast(trained.state.policy, np.float64),
        }
        if trained.final.decoded is not None:
            policies["decoded"] = decoded(policies["policy"], built.run.settings.decoding)
        known = not np.isnan(trained.optimum.objective)
        if known and trained.optimum.log_pi is not None:
            policies["optimum"] = Fixed(trained.optimum.log_pi, automaton.horizon)
        written = {name: _cut(_walk(automaton, static_part(policy))(uniform, policy)) for name, policy in policies.items()}
        if known and "optimum" not in written:
            written["optimum"] = _resampled(built, trained.optimum, size)
    return written


def _cut(batch: Batch) -> list[np.ndarray]:
    return [tokens[mask] for tokens, mask in zip(np.asarray(batch.tokens), np.asarray(batch.mask), strict=True)]


def _resampled(built: Built, optimum: optimal_policy.Optimum, size: int) -> list[np.ndarray]:
    """Sequences of an optimum that is no table: the reference's, drawn again in proportion to pi*/pi_ref."""
    automaton, draw = built.run.task.automaton, np.random.default_rng(1)
    if optimum.log_listed is not None:
        listed, share = enumerate_all(automaton), np.exp(np.asarray(optimum.log_listed))
        taken = draw.choice(len(share), size, p=share / share.sum())
        return [np.asarray(listed.tokens)[i][np.asarray(listed.mask)[i]] for i in taken]
    reference = built.run.reference
    uniform = draw.random((automaton.horizon, CANDIDATES * size))
    batch = _walk(automaton, static_part(reference))(uniform, reference)
    drawn = (optimum, reference, batch)
    share = np.exp(np.asarray(_log_ratio(static_part(drawn))(*drawn)))
    kept = _cut(batch)
    return [kept[i] for i in draw.choice(len(share), size, p=share / share.sum())]


def text(built: Built, tokens: np.ndarray) -> str:
    """A sequence as a person reads it."""
    return built.card.joiner.join(built.card.tokens[token] for token in tokens)


def side_by_side(built: Built, written: dict[str, list[np.ndarray]]) -> str:
    """samples.txt: the first few sequences of each, one above the other."""
    lines = []
    for i in range(SHOWN):
        lines += ["", *(f"{name:<10}{text(built, kept[i]).translate(BREAKS)}" for name, kept in written.items())]
    return "\n".join(lines[1:]) + "\n"
