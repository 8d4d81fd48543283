"""Automata from rows of named states: write a state as any value, its tokens as words, and let them be numbered."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.checks import fits, number
from rlkl.tasks.registry import Card

# What each token of a state leads to, and its weight under the reference (made to sum to 1).
Row = Mapping[str, tuple[Hashable, float]]
Rows = Callable[[Any], Row | None]


def watched(rows: Rows, watch: Callable[[Any, str], Hashable]) -> Rows:
    """The automaton beside a monitor: states are (state, seen), and `watch(seen, token)` says what is seen next."""

    def row(both):
        state, seen = both
        inner = rows(state)
        if inner is None:
            return None
        return {token: ((after, watch(seen, token)), weight) for token, (after, weight) in inner.items()}

    return row


def explore(rows: Rows, start: Hashable, limit: Callable[[int], None]) -> tuple[list[Hashable], list[Hashable]]:
    """The states that can be reached from `start`: those with tokens (start first), and those without. `limit` is called with
    how many there are so far, and may raise."""
    decisions: list[Hashable] = []
    ends: list[Hashable] = []
    waiting, found = [start], {start}
    for state in waiting:
        row = rows(state)
        (ends if row is None else decisions).append(state)
        limit(len(decisions))
        for after, _ in (row or {}).values():
            if after not in found:
                found.add(after)
                waiting.append(after)
    return decisions, ends


def card(
    rows: Rows,
    start: Hashable,
    tokens: tuple[str, ...],
    horizon: int,
    reward: Callable[[Any], float],
    name: Callable[[Any], str],
    typicality: Any = 0.0,
    joiner: str = " ",
    **facts: Any,
) -> Card:
    """The task of these rows: `reward` and `name` of a final state, `tokens` in the order of the vocabulary."""
    decisions, ends = explore(rows, start, lambda count: fits("task.horizon", horizon, horizon * len(tokens) * count))
    states = [*decisions, *ends]
    numbered, column = {state: i for i, state in enumerate(states)}, {token: i for i, token in enumerate(tokens)}
    following = np.full((len(decisions), len(tokens)), -1)
    weight = np.zeros(following.shape)
    for s, state in enumerate(decisions):
        for token, (after, w) in (rows(state) or {}).items():
            following[s, column[token]], weight[s, column[token]] = numbered[after], w
    with np.errstate(divide="ignore"):
        log_reference = np.log(weight / weight.sum(axis=1, keepdims=True))
    automaton = Automaton(following, len(states), horizon)
    task = Task(
        automaton,
        np.array([float(reward(state)) for state in states]),
        log_reference,
        np.asarray(number("task.typicality", typicality)),
        np.arange(len(tokens), dtype=np.float64),
    )
    return Card(task, tuple(name(states[i]) for i in automaton.outcomes), facts, tokens, joiner)
