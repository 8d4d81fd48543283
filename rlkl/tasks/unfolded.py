"""The same task on the tree of its sequences, where each sequence has an end state of its own: a reward that reads the whole
history is a reward of the end state there, and every exact tool applies."""

import dataclasses

import numpy as np

from rlkl.tasks import Card
from rlkl.tasks.arguments import fits
from rlkl.tasks.automaton import MOST_SEQUENCES, Automaton


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
