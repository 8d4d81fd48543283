"""Transforms of a card: add the last tokens to the states, unfold into the tree of prefixes, and export as JSON."""

import dataclasses
import json

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import Automaton
from rlkl.tasks.checks import fits
from rlkl.tasks.registry import Card


def remember(card: Card, order: int) -> Card:
    """The card with states (state, last `order` tokens); `automaton.context` numbers the distinct last tokens.

    At the beginning of a sequence there are fewer tokens. End states that differ in their last tokens alone share a name.
    """
    task, automaton = card.task, card.task.automaton
    decisions: list[tuple[int, tuple[int, ...]]] = [(int(start), ()) for start in automaton.starts]
    numbers = {start: i for i, start in enumerate(decisions)}
    ends = {state: i for i, state in enumerate(range(automaton.decisions, automaton.states))}
    rows: list[np.ndarray] = []
    for state, read in decisions:
        row = np.full(automaton.vocabulary, -1)
        for token in np.flatnonzero(automaton.legal[state]):
            next_base = int(automaton.next_state[state, token])
            if next_base in ends:
                row[token] = -2 - ends[next_base]  # numbered once the decisions are counted
                continue
            successor = (next_base, (*read, int(token))[-order:])
            if successor not in numbers:
                numbers[successor] = len(decisions)
                decisions.append(successor)
            row[token] = numbers[successor]
        rows.append(row)
        fits("policy.order", order, len(decisions) * automaton.vocabulary * automaton.horizon)
    following = np.stack(rows)
    following = np.where(following <= -2, len(decisions) - 2 - following, following)
    tokens = {read: i for i, read in enumerate(dict.fromkeys(read for _, read in decisions))}
    context = np.array([tokens[read] for _, read in decisions])
    base_states = [state for state, _ in decisions] + list(ends)
    refined = Automaton(
        following, len(base_states), automaton.horizon, range(automaton.prompts), context, automaton.prompt_weights
    )
    outcome_names = dict(zip(automaton.outcomes.tolist(), card.outcomes, strict=True))
    log_reference = np.asarray(task.log_reference)[[state for state, _ in decisions]]
    remembered = dataclasses.replace(
        task,
        automaton=refined,
        reward=np.asarray(task.reward)[base_states],
        log_reference=log_reference,
        gold=None if task.gold is None else np.asarray(task.gold)[base_states],
    )
    return dataclasses.replace(card, task=remembered, outcomes=tuple(outcome_names[base_states[i]] for i in refined.outcomes))


def unfold(card: Card, key: str, value: str) -> Card:
    """The card on the tree of prefixes: a decision state for each prefix, an end state, named by its text, for each sequence.

    Unchanged for a bandit, and where there are too many sequences to enumerate. `key` and `value` name the setting that needs
    the tree, for the error message.
    """
    task, automaton = card.task, card.task.automaton
    if automaton.horizon == 1 or not automaton.is_enumerable:
        return card
    states, levels = automaton.starts, []  # of the prefixes of a length, level by level
    texts, ends, names = [""] * automaton.prompts, [], []
    for t in range(automaton.horizon):
        following = automaton.next_state[states]
        parent, token = np.nonzero(following >= 0)
        after = following[parent, token]
        ended = automaton.ends_at(t)[states[parent], token]
        levels.append((states, parent, token, ended))
        read = [texts[i] + (card.joiner if t else "") + card.tokens[v] for i, v in zip(parent, token, strict=True)]
        ends += after[ended].tolist()
        names += [text for text, last in zip(read, ended, strict=True) if last]
        texts = [text for text, last in zip(read, ended, strict=True) if not last]
        states = after[~ended]
    decisions = sum(len(prefixes) for prefixes, *_ in levels)
    fits(key, value, automaton.horizon * decisions * automaton.vocabulary)
    tree = np.full((decisions, automaton.vocabulary), -1)
    row, end = 0, decisions
    for prefixes, parent, token, ended in levels:
        numbered = np.where(ended, end + np.cumsum(ended) - 1, row + len(prefixes) + np.cumsum(~ended) - 1)
        tree[row + parent, token] = numbered
        row, end = row + len(prefixes), end + int(ended.sum())
    base_states = np.concatenate([*(prefixes for prefixes, *_ in levels), ends]).astype(int)
    unfolded = dataclasses.replace(
        task,
        automaton=Automaton(
            tree, len(base_states), automaton.horizon, range(automaton.prompts), prompt_weights=automaton.prompt_weights
        ),
        reward=np.asarray(task.reward)[base_states],
        log_reference=np.asarray(task.log_reference)[base_states[:decisions]],
        gold=None if task.gold is None else np.asarray(task.gold)[base_states],
    )
    return dataclasses.replace(card, task=unfolded, outcomes=tuple(names))


def export(card: Card) -> str:
    """The card's task as JSON text, in the format of `automaton/custom`.

    A bandit's tokens are named by its outcomes or, with several prompts, by their numbers. States in which no sequence ends
    have reward 0 and are named by their index. Coordinates and the joiner are lost. A typicality reward and a reward model that
    reads the tokens are refused.
    """
    task, automaton = card.task, card.task.automaton
    if (typicality := float(task.typicality)) != 0.0:
        raise SettingsError("task.export", "", f"a file has no place for task.typicality={typicality:g}; it must be 0")
    if task.reward_model is not None:
        rule = "a file has no place for a reward model that reads the tokens (tabular and features give a reward of end states)"
        raise SettingsError("task.model", "network", rule)
    reward = np.zeros(automaton.states)
    reward[automaton.outcomes] = np.asarray(task.reward)[automaton.outcomes]
    starts = automaton.starts.tolist()
    prompts = {"prompt_weights": automaton.prompt_weights.tolist(), "prompts": list(card.prompts)}
    return json.dumps(
        {
            "vocabulary": list(card.tokens or (map(str, range(automaton.vocabulary)) if card.prompts else card.outcomes)),
            "horizon": automaton.horizon,
            "start": starts if automaton.prompts > 1 else starts[0],
            **(prompts if automaton.prompts > 1 else {}),
            "next_state": automaton.next_state.tolist(),
            "reference": np.exp(np.asarray(task.log_reference)).tolist(),
            "reward": reward.tolist(),
            "states": _state_names(card),
        }
    )


def _state_names(card: Card) -> list[str]:
    """A name for each state: that of its outcome, else its index, with primes where an outcome already has that name."""
    outcomes = dict(zip(card.task.automaton.outcomes.tolist(), card.outcomes, strict=True))
    names, taken = [], set(card.outcomes)
    for state in range(card.task.automaton.states):
        name = str(state)
        while name in taken:
            name += "'"
        names.append(outcomes.get(state, name))
    return names
