"""Annotators: pairs of sequences that the reference wrote, and which of the two is preferred.

P(first preferred) = sigmoid((s(first) - s(second))/temperature), s = gold reward + typicality log pi_ref: annotators that
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

MOST_IN_PAIRS = 1024  # sequences of which every pair is laid out


class Read(NamedTuple):
    """Sequences as annotators read them: their tokens, the state each ends in, and log pi_ref of each."""

    tokens: Int[np.ndarray, "M T"]
    end: Int[np.ndarray, " M"]
    log_reference: Float[np.ndarray, " M"]


@dataclass(frozen=True)
class Preferences:
    """What annotators were asked: how they judge, and what they read. sequences, pairs: None where they judge every pair, as
    often as the reference writes it (infinitely many answers); scale: of the fitted reward in the log-odds of a preference."""

    typicality: float
    temperature: float
    sequences: Read | None = None
    pairs: Pairs | None = None
    scale: float = 1.0

    def scores(self, task: Task, read: Read) -> Float[np.ndarray, " M"]:
        """What the annotators hold each sequence to be worth, over their temperature: the log-odds are its differences."""
        typical = self.typicality * read.log_reference if self.typicality != 0.0 else 0.0
        return (np.asarray(task.gold)[read.end] + typical) / self.temperature


def under_gold(task: Task) -> Task:
    """The task whose reward is also the gold reward that annotators go by."""
    return replace(task, gold=np.asarray(task.reward, np.float64))


def read_sequences(task: Task, tokens: Int[np.ndarray, "M T"]) -> Read:
    """Given legal sequences, read."""
    states = task.automaton.walk(tokens)
    row, going = np.minimum(states[:, :-1], task.automaton.decisions - 1), states[:, :-1] < task.automaton.decisions
    log_reference = np.where(going, np.asarray(task.log_reference)[row, tokens], 0.0).sum(axis=1)
    return Read(tokens, states[:, -1], log_reference)


def written(task: Task, size: int, draw: np.random.Generator) -> Int[np.ndarray, "N T"]:
    """`size` sequences of the reference, padded with token 0 past their ends: an inverse CDF over all rows at once."""
    automaton = task.automaton
    p = np.exp(np.asarray(task.log_reference))
    rows = np.cumsum(p, axis=1) / p.sum(axis=1, keepdims=True)
    line = (np.arange(len(rows))[:, None] + rows).ravel()
    last = automaton.vocabulary - 1 - np.argmax(p[:, ::-1] > 0.0, axis=1)  # of positive probability, against rounding
    tokens, state = np.zeros((size, automaton.horizon), np.int32), np.full(size, automaton.start)
    for t in range(automaton.horizon):
        row, going = np.minimum(state, automaton.decisions - 1), state < automaton.decisions
        found = np.searchsorted(line, row + draw.random(size), side="right") - row * automaton.vocabulary
        tokens[:, t] = np.where(going, np.minimum(found, last[row]), 0)
        state = np.where(going, automaton.next_state[row, tokens[:, t]], state)
    return tokens


def ask(task: Task, by: Preferences, count: int, seed: int) -> Preferences:
    """`count` pairs drawn from the reference, each judged once."""
    draw = np.random.default_rng(seed)
    tokens, place = np.unique(written(task, 2 * count, draw), axis=0, return_inverse=True)
    sequences, (first, second) = read_sequences(task, tokens), place.reshape(2, count)
    scores = by.scores(task, sequences)
    preferred = draw.random(count) < scipy.special.expit(scores[first] - scores[second])
    pairs = Pairs(first, second, preferred.astype(np.float64), np.ones(count))
    return Preferences(by.typicality, by.temperature, sequences, pairs)


def listed(task: Task, key: str, value: str) -> Read:
    """Every legal sequence, read; the setting `key` asks for them."""
    if task.automaton.sequences > MOST_SEQUENCES:
        many = f"{task.automaton.count} sequences; at most {MOST_SEQUENCES} can be listed"
        raise SettingsError(key, value, f"needs every sequence of the task, and it has {many}")
    return read_sequences(task, task.automaton.enumerated()[0])


def every_pair(task: Task, by: Preferences) -> Preferences:
    """All pairs of the sequences that the reference writes, each with the annotators' probability and as often as it comes."""
    if task.automaton.sequences > MOST_IN_PAIRS:
        many = f"{task.automaton.count} sequences, and every pair of at most {MOST_IN_PAIRS} is laid out"
        raise SettingsError("task.pairs", "null", f"would need every pair of {many}; give a number of pairs")
    every = listed(task, "task.pairs", "null")
    kept = every.log_reference > -np.inf
    sequences = Read(every.tokens[kept], every.end[kept], every.log_reference[kept])
    scores, first, second = by.scores(task, sequences), *np.triu_indices(len(sequences.end), 1)
    weight = 2.0 * np.exp(sequences.log_reference[first] + sequences.log_reference[second])
    pairs = Pairs(first, second, scipy.special.expit(scores[first] - scores[second]), weight)
    return Preferences(by.typicality, by.temperature, sequences, pairs, by.scale)


def recovered(task: Task, asked: Preferences) -> tuple[float, float] | None:
    """The typicality weight that the answers tell, and its standard error (observed Fisher information); None where they do
    not: no pair differs in log pi_ref, or the pairs are separated.

    A Bradley-Terry regression on the differences in log pi_ref and, where it differs at all, in the gold reward, whose
    coefficient is free; the annotators' temperature is known.
    """
    if asked.pairs is None or asked.sequences is None:
        return asked.typicality, 0.0
    sequences, pairs = asked.sequences, asked.pairs
    gold = np.asarray(task.gold)[sequences.end]
    rewarded = [gold] if np.ptp(gold[np.concatenate([pairs.first, pairs.second])]) > 0.0 else []
    covariates = np.stack([sequences.log_reference, *rewarded], axis=1)
    fit = bradley_terry.fit(pairs, np.zeros(len(gold), int), 1, covariates)
    if fit is None:
        return None
    return float(asked.temperature * fit.coefficients[0]), float(asked.temperature * fit.stderr[0])


def comparisons(task: Task, asked: Preferences) -> Comparisons:
    """The pairs as an algorithm learns from them, on the automaton of `task`; pairs of a sequence with itself teach nothing."""
    laid = asked if asked.pairs is not None else every_pair(task, asked)
    assert laid.sequences is not None
    assert laid.pairs is not None
    tokens, (first, second, preferred, weight) = laid.sequences.tokens, laid.pairs
    states = task.automaton.walk(tokens)
    share, scale = weight / weight.sum(), np.asarray(laid.scale)
    return Comparisons(tokens, states, first.astype(np.int32), second.astype(np.int32), preferred, share, scale)
