"""Sample sequences from reference, policy and optimum, all with the same uniform numbers."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int

from rlkl.config.build import Built
from rlkl.exact import optimal_policy
from rlkl.policies import AnyPolicy, Fixed, base, decoded
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.settings import numerics
from rlkl.tasks import Automaton
from rlkl.training import blocks
from rlkl.training.blocks import Trained, static_part

SHOWN, COMPARED = 8, 1000  # number of sequences in samples.txt, and for the corpus metrics
# Escapes of line breaks: in samples.txt a sequence is one line.
BREAKS = str.maketrans({c: repr(c)[1:-1] for c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"})
CANDIDATES = 16  # sequences of the reference for each one that is resampled from an optimum that is no table

CACHED = 4 * blocks.CACHED  # programs: a run has reference, policy and optimum, and may have a decoded policy


@functools.lru_cache(maxsize=CACHED)
def _walk(automaton: Automaton, _: tuple) -> Callable:
    """Return `sampling.walk` jitted for an automaton and policies of one static part; eviction frees what it compiled."""
    return jax.jit(lambda uniform, policy, start: sampling.walk(uniform, automaton, policy, start))


@functools.lru_cache(maxsize=CACHED)
def _log_ratio(_: tuple) -> Callable:
    """Return log(pi*/pi_ref) of a batch, jitted for arguments of one static part; eviction frees what it compiled."""

    def log_ratio(optimum, reference, batch):
        log_ref = scoring.log_probability(reference, batch)
        return optimum.log_probability(batch, log_ref) - log_ref

    return jax.jit(log_ratio)


def sequences(built: Built, trained: Trained, size: int = COMPARED) -> dict[str, list[np.ndarray]]:
    """Sample `size` sequences of reference, policy and optimum, by name, from one seed; each is cut to its length.

    The sequences of one place answer the prompt of that place in `prompts_of`. Where a decoding rule is set, "decoded" holds
    sequences of the decoded policy.
    """
    automaton = built.run.task.automaton
    uniform, start = np.random.default_rng(0).random((automaton.horizon, size)), automaton.starts[prompts_of(automaton, size)]
    with numerics.pinned():
        policies: dict[str, AnyPolicy] = {
            "reference": built.run.reference,
            "policy": base.cast(trained.state.policy, np.float64),
        }
        if trained.final.decoded is not None:
            policies["decoded"] = decoded(policies["policy"], built.run.settings.decoding)
        has_optimum = not np.isnan(trained.optimum.objective)
        if has_optimum and trained.optimum.log_pi is not None:
            policies["optimum"] = Fixed(trained.optimum.log_pi, automaton.horizon)
        sampled = {
            name: _cut(_walk(automaton, static_part(policy))(uniform, policy, start)) for name, policy in policies.items()
        }
        if has_optimum and "optimum" not in sampled:
            sampled["optimum"] = _resample(built, trained.optimum, size)
    return sampled


def prompts_of(automaton: Automaton, size: int) -> np.ndarray:
    """Return the prompt of each of `size` samples (Int["N"]), drawn by the prompts' weights from one seed."""
    return np.random.default_rng(2).choice(automaton.prompts, size, p=automaton.prompt_weights)


def _cut(batch: Batch) -> list[np.ndarray]:
    return [tokens[mask] for tokens, mask in zip(np.asarray(batch.tokens), np.asarray(batch.mask), strict=True)]


def _resample(built: Built, optimum: optimal_policy.Optimum, size: int) -> list[np.ndarray]:
    """Sample from an optimum that is no table: exactly where it lists all sequences, else by importance resampling.

    Importance resampling draws sequences of the reference with weights pi*/pi_ref.
    """
    automaton, rng = built.run.task.automaton, np.random.default_rng(1)
    if optimum.log_listed is not None:
        listed, weight = enumerate_all(automaton), np.exp(np.asarray(optimum.log_listed))
        indices = _choose(rng, automaton, weight, listed, size)
        return [np.asarray(listed.tokens)[i][np.asarray(listed.mask)[i]] for i in indices]
    reference = built.run.reference
    uniform = rng.random((automaton.horizon, CANDIDATES * size))
    start = np.repeat(automaton.starts[prompts_of(automaton, size)], CANDIDATES)
    batch = _walk(automaton, static_part(reference))(uniform, reference, start)
    arguments = (optimum, reference, batch)
    weight = np.exp(np.asarray(_log_ratio(static_part(arguments))(*arguments)))
    candidates = _cut(batch)
    return [candidates[i] for i in _choose(rng, automaton, weight, batch, size)]


def _choose(
    rng: np.random.Generator, automaton: Automaton, weight: np.ndarray, batch: Batch, size: int
) -> Int[np.ndarray, " N"]:
    """Draw `size` sequences of a batch by their weights, each among those of its prompt in `prompts_of`.

    Return their indices.
    """
    prompts, prompt = prompts_of(automaton, size), automaton.prompt_of[np.asarray(batch.states)[:, 0]]
    index = np.empty(size, np.int64)
    for number in range(automaton.prompts):
        rows, places = np.flatnonzero(prompt == number), np.flatnonzero(prompts == number)
        if places.size:
            index[places] = rng.choice(rows, places.size, p=weight[rows] / weight[rows].sum())
    return index


def text(built: Built, tokens: np.ndarray) -> str:
    """Return a sequence as text."""
    return built.card.joiner.join(built.card.tokens[token] for token in tokens)


def samples_txt(built: Built, sequences: dict[str, list[np.ndarray]]) -> str:
    """Return samples.txt: the first SHOWN sequences of each policy, one above the other."""
    lines, card, automaton = [], built.card, built.run.task.automaton
    prompts = prompts_of(automaton, COMPARED)
    for i in range(SHOWN):
        lines += ["", *([f"{'prompt':<10}{card.prompts[prompts[i]].translate(BREAKS)}"] if card.prompts else [])]
        lines += [*(f"{name:<10}{text(built, tokens[i]).translate(BREAKS)}" for name, tokens in sequences.items())]
    return "\n".join(lines[1:]) + "\n"
