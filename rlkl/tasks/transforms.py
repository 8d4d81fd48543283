"""A card's task rewritten: on states that remember the last tokens, on the tree of its sequences, and as JSON text."""

import dataclasses
import json

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import MOST_SEQUENCES, Automaton
from rlkl.tasks.checks import fits
from rlkl.tasks.registry import Card


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


def unfold(card: Card, key: str, value: str) -> Card:
    """The card with a decision state for each prefix and an end state, named by its text, for each sequence; `key` and
    `value` are the setting that asks for it. Unchanged where the sequences are too many to list; a bandit is its own tree."""
    task, automaton = card.task, card.task.automaton
    if automaton.horizon == 1 or automaton.sequences > MOST_SEQUENCES:
        return card
    states, levels = np.array([automaton.start]), []  # of the prefixes of a length, level by level
    texts, ends, names = [""], [], []
    for t in range(automaton.horizon):
        following = automaton.next_state[states]
        parent, token = np.nonzero(following >= 0)
        after = following[parent, token]
        over = automaton.ends_at(t)[states[parent], token]
        levels.append((states, parent, token, over))
        read = [texts[i] + (card.joiner if t else "") + card.tokens[v] for i, v in zip(parent, token, strict=True)]
        ends += after[over].tolist()
        names += [text for text, last in zip(read, over, strict=True) if last]
        texts = [text for text, last in zip(read, over, strict=True) if not last]
        states = after[~over]
    decisions = sum(len(prefixes) for prefixes, *_ in levels)
    fits(key, value, automaton.horizon * decisions * automaton.vocabulary)
    tree = np.full((decisions, automaton.vocabulary), -1)
    row, end = 0, decisions
    for prefixes, parent, token, over in levels:
        numbered = np.where(over, end + np.cumsum(over) - 1, row + len(prefixes) + np.cumsum(~over) - 1)
        tree[row + parent, token] = numbered
        row, end = row + len(prefixes), end + int(over.sum())
    before = np.concatenate([*(prefixes for prefixes, *_ in levels), ends]).astype(int)
    unfolded = dataclasses.replace(
        task,
        automaton=Automaton(tree, len(before), automaton.horizon),
        reward=np.asarray(task.reward)[before],
        log_reference=np.asarray(task.log_reference)[before[:decisions]],
        gold=None if task.gold is None else np.asarray(task.gold)[before],
    )
    return dataclasses.replace(card, task=unfolded, outcomes=tuple(names))


def export(card: Card) -> str:
    """Any card's task in the format of `automaton/custom`: the same automaton, reference and reward.

    A bandit's tokens are its outcomes. States that no sequence ends in have reward 0 and are named by index. The format has
    no place for coordinates (a token's index takes theirs), the joiner, and, which are refused, the typicality reward and a
    reward model that reads the tokens.
    """
    task, automaton = card.task, card.task.automaton
    if (typicality := float(task.typicality)) != 0.0:
        raise SettingsError("task.export", "", f"a file has no place for task.typicality={typicality:g}; it must be 0")
    if task.reward_model is not None:
        rule = "a file has no place for a reward model that reads the tokens (tabular and features give a reward of end states)"
        raise SettingsError("task.model", "network", rule)
    reward = np.zeros(automaton.states)
    reward[automaton.outcomes] = np.asarray(task.reward)[automaton.outcomes]
    return json.dumps(
        {
            "vocabulary": list(card.tokens or card.outcomes),
            "horizon": automaton.horizon,
            "start": automaton.start,
            "next_state": automaton.next_state.tolist(),
            "reference": np.exp(np.asarray(task.log_reference)).tolist(),
            "reward": reward.tolist(),
            "states": _state_names(card),
        }
    )


def _state_names(card: Card) -> list[str]:
    """A name for each state: an outcome's own, else the index, with primes where an outcome has that name."""
    outcomes = dict(zip(card.task.automaton.outcomes.tolist(), card.outcomes, strict=True))
    names, taken = [], set(card.outcomes)
    for state in range(card.task.automaton.states):
        name = str(state)
        while name in taken:
            name += "'"
        names.append(outcomes.get(state, name))
    return names
