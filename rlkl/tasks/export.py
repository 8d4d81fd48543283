"""A task as the JSON text that `automaton/custom` reads."""

import json

import numpy as np

from rlkl.settings import SettingsError
from rlkl.tasks import Card


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
