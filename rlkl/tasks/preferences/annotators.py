"""Simulated annotators, who compare pairs of sequences sampled from the reference.

P(first preferred) = sigmoid((s(first) - s(second))/temperature), s = gold reward + typicality log pi_ref: annotators may
favour typical text (Zhang et al. 2025, "Verbalized sampling", arXiv 2510.01171). NumPy on the host.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import MOST_SEQUENCES, Comparisons, Task
from rlkl.tasks.preferences import bradley_terry
from rlkl.tasks.preferences.bradley_terry import Pairs

MOST_IN_PAIRS = 1024  # largest number of sequences whose pairs are all enumerated


class Read(NamedTuple):
    """M sequences as annotators read them: their tokens, end states, log pi_ref given the prompt, and prompts."""

    tokens: Int[np.ndarray, "M T"]
    end: Int[np.ndarray, " M"]
    log_reference: Float[np.ndarray, " M"]
    prompt: Int[np.ndarray, " M"]

    def select(self, index: np.ndarray) -> "Read":
        """The sequences at these indices, or under this mask."""
        return Read(*(column[index] for column in self))


@dataclass(frozen=True)
class Preferences:
    """The annotators of a task, and the pairs that they judged.

    typicality, temperature: see the module's docstring. sequences, pairs: None for infinitely many answers, where every pair is
    judged as often as the reference samples it. scale: factor of the fitted reward in the log-odds of a preference.
    """

    typicality: float
    temperature: float
    sequences: Read | None = None
    pairs: Pairs | None = None
    scale: float = 1.0

    def scores(self, task: Task, sequences: Read) -> Float[np.ndarray, " M"]:
        """The annotators' score of each sequence over their temperature: its differences are the log-odds of a preference."""
        typical = self.typicality * sequences.log_reference if self.typicality != 0.0 else 0.0
        return (np.asarray(task.gold)[sequences.end] + typical) / self.temperature


def under_gold(task: Task) -> Task:
    """The task with its own reward as the gold reward, by which annotators judge."""
    return replace(task, gold=np.asarray(task.reward, np.float64))


def read_sequences(task: Task, tokens: Int[np.ndarray, "M T"], prompt: Int[np.ndarray, " M"]) -> Read:
    """The end state and log pi_ref of each of these legal sequences, the answers to these prompts."""
    states = task.automaton.walk(tokens, prompt)
    row, unfinished = np.minimum(states[:, :-1], task.automaton.decisions - 1), states[:, :-1] < task.automaton.decisions
    log_reference = np.where(unfinished, np.asarray(task.log_reference)[row, tokens], 0.0).sum(axis=1)
    return Read(tokens, states[:, -1], log_reference, prompt)


def sample_pairs(task: Task, count: int, generator: np.random.Generator) -> Read:
    """Sample `count` pairs of sequences from the reference: the first one of each, then the second ones.

    The two answer one prompt, which is drawn by the prompts' weights.
    """
    drawn = np.zeros(count, int)
    if task.automaton.prompts > 1:
        drawn = generator.choice(task.automaton.prompts, count, p=task.automaton.prompt_weights)
    prompt = np.tile(drawn, 2)
    return read_sequences(task, sample_reference(task, 2 * count, generator, prompt), prompt)


def sample_reference(
    task: Task, size: int, generator: np.random.Generator, prompt: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N T"]:
    """Sample `size` answers to these prompts from the reference, padded with token 0 after their ends (inverse CDF over all
    rows at once).
    """
    automaton = task.automaton
    p = np.exp(np.asarray(task.log_reference))
    row_cdf = np.cumsum(p, axis=1) / p.sum(axis=1, keepdims=True)
    cdf = (np.arange(len(row_cdf))[:, None] + row_cdf).ravel()
    last = automaton.vocabulary - 1 - np.argmax(p[:, ::-1] > 0.0, axis=1)  # last possible token: guards against rounding
    tokens, state = np.zeros((size, automaton.horizon), np.int32), automaton.starts[prompt]
    for t in range(automaton.horizon):
        row, unfinished = np.minimum(state, automaton.decisions - 1), state < automaton.decisions
        drawn = np.searchsorted(cdf, row + generator.random(size), side="right") - row * automaton.vocabulary
        tokens[:, t] = np.where(unfinished, np.minimum(drawn, last[row]), 0)
        state = np.where(unfinished, automaton.next_state[row, tokens[:, t]], state)
    return tokens


def ask(task: Task, annotators: Preferences, count: int, seed: int) -> Preferences:
    """Sample `count` pairs from the reference and have each of them judged once."""
    generator = np.random.default_rng(seed)
    drawn = sample_pairs(task, count, generator)
    distinct, index = np.unique(np.column_stack([drawn.prompt, drawn.tokens]), axis=0, return_inverse=True)
    sequences, (first, second) = read_sequences(task, distinct[:, 1:], distinct[:, 0]), index.reshape(2, count)
    scores = annotators.scores(task, sequences)
    preferred = generator.random(count) < scipy.special.expit(scores[first] - scores[second])
    pairs = Pairs(first, second, preferred.astype(np.float64), np.ones(count))
    return Preferences(annotators.typicality, annotators.temperature, sequences, pairs)


def every_sequence(task: Task, key: str, value: str) -> Read:
    """Every legal sequence of the task; refused, in the name of setting `key`, where there are too many."""
    if not task.automaton.is_enumerable:
        many = f"{task.automaton.count} sequences; at most {MOST_SEQUENCES} can be listed"
        raise SettingsError(key, value, f"needs every sequence of the task, and it has {many}")
    tokens, states = task.automaton.enumerated()
    return read_sequences(task, tokens, task.automaton.prompt_of[states[:, 0]])


def every_pair(task: Task, annotators: Preferences) -> Preferences:
    """All pairs of sequences of one prompt, weighted by their probability under the reference, with the annotators' exact
    preferences.
    """
    if task.automaton.sequences > MOST_IN_PAIRS:
        many = f"{task.automaton.count} sequences, and every pair of at most {MOST_IN_PAIRS} is laid out"
        raise SettingsError("task.pairs", "null", f"would need every pair of {many}; give a number of pairs")
    all_sequences = every_sequence(task, "task.pairs", "null")
    sequences = all_sequences.select(all_sequences.log_reference > -np.inf)
    scores, (first, second) = annotators.scores(task, sequences), np.triu_indices(len(sequences.end), 1)
    comparable = sequences.prompt[first] == sequences.prompt[second]
    first, second = first[comparable], second[comparable]
    weight = 2.0 * np.exp(sequences.log_reference[first] + sequences.log_reference[second])
    weight = weight * task.automaton.prompt_weights[sequences.prompt[first]]
    pairs = Pairs(first, second, scipy.special.expit(scores[first] - scores[second]), weight)
    return Preferences(annotators.typicality, annotators.temperature, sequences, pairs, annotators.scale)


def recovered(task: Task, preferences: Preferences) -> tuple[float, float] | None:
    """Estimate the annotators' typicality weight from their answers: the estimate and its standard error.

    None where it is not identified: no pair differs in log pi_ref, or the pairs are separated. The estimate is a Bradley-Terry
    regression on log pi_ref and, where it varies, the gold reward, with a free coefficient each; the annotators' temperature is
    taken as known. The standard error comes from the observed Fisher information.
    """
    if preferences.pairs is None or preferences.sequences is None:
        return preferences.typicality, 0.0
    sequences, pairs = preferences.sequences, preferences.pairs
    gold = np.asarray(task.gold)[sequences.end]
    rewarded = [gold] if np.ptp(gold[np.concatenate([pairs.first, pairs.second])]) > 0.0 else []
    covariates = np.stack([sequences.log_reference, *rewarded], axis=1)
    fit = bradley_terry.fit(pairs, np.zeros(len(gold), int), 1, covariates)
    if fit is None:
        return None
    return float(preferences.temperature * fit.coefficients[0]), float(preferences.temperature * fit.stderr[0])


def comparisons(task: Task, preferences: Preferences) -> Comparisons:
    """The preference data as training reads it: the judged pairs, or all pairs where there are infinitely many answers."""
    judged = preferences if preferences.pairs is not None else every_pair(task, preferences)
    assert judged.sequences is not None
    assert judged.pairs is not None
    tokens, (first, second, preferred, weight) = judged.sequences.tokens, judged.pairs
    states = task.automaton.walk(tokens, judged.sequences.prompt)
    share, scale = weight / weight.sum(), np.asarray(judged.scale)
    return Comparisons(tokens, states, first.astype(np.int32), second.astype(np.int32), preferred, share, scale)
