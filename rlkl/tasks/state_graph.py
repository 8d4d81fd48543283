"""Tasks from a transition function over states of any hashable type; states and tokens are numbered automatically."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.checks import fits, number
from rlkl.tasks.registry import Card

# token -> (next state, weight under the reference); the weights of a row are normalised.
Row = Mapping[str, tuple[Hashable, float]]
Rows = Callable[[Any], Row | None]  # state -> its row; None for an end state


def watched(rows: Rows, watch: Callable[[Any, str], Hashable]) -> Rows:
    """The product of an automaton and a monitor: states are (state, memory), and `watch(memory, token)` is the next memory."""

    def row(pair):
        state, memory = pair
        transitions = rows(state)
        if transitions is None:
            return None
        return {token: ((after, watch(memory, token)), weight) for token, (after, weight) in transitions.items()}

    return row


def explore(rows: Rows, starts: Sequence[Hashable], limit: Callable[[int], None]) -> tuple[list[Hashable], list[Hashable]]:
    """The decision states (the starts first) and the end states that can be reached from `starts`.

    `limit` is called with the number of decision states found so far; it may raise.
    """
    decisions: list[Hashable] = []
    ends: list[Hashable] = []
    queue, reached = list(starts), set(starts)
    for state in queue:
        row = rows(state)
        (ends if row is None else decisions).append(state)
        limit(len(decisions))
        for after, _ in (row or {}).values():
            if after not in reached:
                reached.add(after)
                queue.append(after)
    return decisions, ends


def card(
    rows: Rows,
    start: Hashable | Mapping[str, Hashable],
    tokens: tuple[str, ...],
    horizon: int,
    reward: Callable[[Any], float],
    name: Callable[[Any], str],
    typicality: Any = 0.0,
    joiner: str = " ",
    **facts: Any,
) -> Card:
    """The card of the task with these rows.

    `start`: the start state or, for several equally likely prompts, the start state of each by the prompt's name. `reward` and
    `name` map a final state to its reward and its name; `tokens` is the vocabulary, in order.
    """
    starts = start if isinstance(start, Mapping) else {"": start}
    decisions, ends = explore(
        rows, list(starts.values()), lambda count: fits("task.horizon", horizon, horizon * len(tokens) * count)
    )
    states = [*decisions, *ends]
    numbered, column = {state: i for i, state in enumerate(states)}, {token: i for i, token in enumerate(tokens)}
    following = np.full((len(decisions), len(tokens)), -1)
    weight = np.zeros(following.shape)
    for s, state in enumerate(decisions):
        for token, (after, w) in (rows(state) or {}).items():
            following[s, column[token]], weight[s, column[token]] = numbered[after], w
    with np.errstate(divide="ignore"):
        log_reference = np.log(weight / weight.sum(axis=1, keepdims=True))
    automaton = Automaton(following, len(states), horizon, range(len(starts)))
    task = Task(
        automaton,
        np.array([float(reward(state)) for state in states]),
        log_reference,
        np.asarray(number("task.typicality", typicality)),
        np.arange(len(tokens), dtype=np.float64),
    )
    prompts = tuple(starts) if len(starts) > 1 else ()
    return Card(task, tuple(name(states[i]) for i in automaton.outcomes), facts, tokens, joiner, prompts=prompts)
