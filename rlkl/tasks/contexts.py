"""The same task on an automaton whose states also remember the last few tokens, so that a policy of those is a table."""

import dataclasses

import numpy as np

from rlkl.tasks import Card
from rlkl.tasks.arguments import fits
from rlkl.tasks.automaton import Automaton


def remember(card: Card, order: int) -> Card:
    """The card with states (state, last `order` tokens), fewer tokens at the beginning; `automaton.context` numbers the tokens.

    An outcome keeps its name, so several end states that differ in what they remember share one.
    """
    task, automaton = card.task, card.task.automaton
    start: tuple[int, tuple[int, ...]] = (automaton.start, ())
    decisions, found = [start], {start: 0}
    ends = {state: i for i, state in enumerate(range(automaton.decisions, automaton.states))}
    rows: list[np.ndarray] = []
    for state, read in decisions:
        row = np.full(automaton.vocabulary, -1)
        for token in np.flatnonzero(automaton.legal[state]):
            after = int(automaton.next_state[state, token])
            if after in ends:
                row[token] = -2 - ends[after]  # numbered once the decisions are counted
                continue
            entered = (after, (*read, int(token))[-order:])
            if entered not in found:
                found[entered] = len(decisions)
                decisions.append(entered)
            row[token] = found[entered]
        rows.append(row)
        fits("policy.order", order, len(decisions) * automaton.vocabulary * automaton.horizon)
    following = np.stack(rows)
    following = np.where(following <= -2, len(decisions) - 2 - following, following)
    tokens = {read: i for i, read in enumerate(dict.fromkeys(read for _, read in decisions))}
    context = np.array([tokens[read] for _, read in decisions])
    before = [state for state, _ in decisions] + list(ends)
    refined = Automaton(following, len(before), automaton.horizon, 0, context)
    named = dict(zip(automaton.outcomes.tolist(), card.outcomes, strict=True))
    log_reference = np.asarray(task.log_reference)[[state for state, _ in decisions]]
    remembered = dataclasses.replace(
        task,
        automaton=refined,
        reward=np.asarray(task.reward)[before],
        log_reference=log_reference,
        gold=None if task.gold is None else np.asarray(task.gold)[before],
    )
    return dataclasses.replace(card, task=remembered, outcomes=tuple(named[before[i]] for i in refined.outcomes))
