"""Any automaton, read from a JSON file. An error in the file is reported in one line."""

import json
from typing import Any

import numpy as np

from rlkl.errors import SettingsError, nearest, shortened
from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.checks import file_text, fits, number
from rlkl.tasks.registry import Card, register

REQUIRED = ("vocabulary", "horizon", "start", "next_state", "reference", "reward")
OPTIONAL = ("states", "prompts", "prompt_weights")


@register("automaton/custom")
def custom(path, typicality=0.0) -> Card:
    """An automaton from a JSON file with the keys vocabulary (V names), horizon, start, next_state (D rows of V, -1 where
    illegal), reference (D rows of V), reward (S values, earned in the final state) and, optionally, states (S names).

    start is a state or, for a task with P prompts, a list of P states, from no two of which a common state can be reached; then
    prompts (P names) and prompt_weights (P numbers above 0) are optional, too.

    A reward for each step can be expressed by states that carry the sum earned so far, if it takes finitely many values.
    """

    def refuse(what: str):
        return SettingsError("task.path", str(path), what)

    text = file_text("task.path", path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise refuse(f"is not JSON ({error})") from None
    except RecursionError:
        raise refuse("is nested too deeply") from None
    if not isinstance(content, dict):
        raise refuse("must hold one JSON object")
    for key in content:
        if key not in (*REQUIRED, *OPTIONAL):
            raise refuse(f"has an unknown key {key!r}; " + nearest(key, (*REQUIRED, *OPTIONAL)))
    for key in REQUIRED:
        if key not in content:
            raise refuse(f"lacks {key!r}")
    return _card(content, path, refuse, typicality)


def _card(content: dict[str, Any], path: Any, refuse, typicality: Any) -> Card:
    tokens, horizon, start = content["vocabulary"], content["horizon"], content["start"]
    if not _are_names(tokens) or len(tokens) < 2:
        raise refuse("vocabulary must be a list of at least 2 names")
    if not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
        raise refuse(f"horizon is {shortened(str(horizon), 20)}; must be a whole number of at least 1")
    reward = _array(content["reward"], "reward", 1, refuse)
    following = _array(content["next_state"], "next_state", 2, refuse)
    reference = _array(content["reference"], "reference", 2, refuse)
    shape, states = following.shape, reward.size
    if shape[1] != len(tokens) or reference.shape != shape:
        raise refuse(f"next_state is {shape}, reference {reference.shape}, the vocabulary {len(tokens)}; need D rows of V each")
    if not shape[0] <= states:
        raise refuse(f"reward has {states} values for {shape[0]} decision states; needs one a state")
    starts = start if isinstance(start, list) and start else [start]
    for state in starts:
        if not isinstance(state, int) or isinstance(state, bool) or not 0 <= state < shape[0]:
            raise refuse(f"start is {shortened(str(state), 20)}; must be one of the decision states 0 to {shape[0] - 1}")
    fits("task.path", path, horizon * following.size)
    if (following != np.round(following)).any() or (following < -1).any() or (following >= states).any():
        entry = np.argwhere((following != np.round(following)) | (following < -1) | (following >= states))[0]
        raise refuse(f"next_state{entry.tolist()} is {following[tuple(entry)]:g}; must be -1 or a state from 0 to {states - 1}")
    if (wrong := ~((reference >= 0).all(1) & (np.abs(reference.sum(1) - 1.0) <= 1e-6))).any():
        row = int(np.flatnonzero(wrong)[0])
        raise refuse(f"reference row {row} sums to {reference[row].sum():.6g}; probabilities must be at least 0 and sum to 1")
    if (reference[following < 0] > 0).any():
        raise refuse("reference gives probability to an illegal token (next_state -1)")
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference / reference.sum(axis=1, keepdims=True))
    try:
        weights = _prompt_weights(content, len(starts), refuse)
        automaton = Automaton(following.astype(int), states, horizon, starts, prompt_weights=weights)
    except ValueError as error:
        raise refuse(str(error)) from None
    if (lost := np.setdiff1d(np.flatnonzero(reward), automaton.outcomes)).size:
        raise refuse(f"state {lost[0]} has a reward, and no legal sequence of {horizon} tokens ends in it")
    names = [str(state) for state in range(states)] if content.get("states") is None else content["states"]
    if not _are_names(names):
        raise refuse("states must be a list of names, one a state")
    if len(names) != states:
        raise refuse(f"states has {len(names)} names for {states} states")
    task = Task(
        automaton, reward, log_reference, np.asarray(number("task.typicality", typicality)), np.arange(len(tokens), dtype=float)
    )
    prompts = _prompts(content, len(starts), refuse)
    return Card(task, tuple(str(names[i]) for i in automaton.outcomes), {}, tuple(map(str, tokens)), prompts=prompts)


def _prompt_weights(content: dict[str, Any], count: int, refuse) -> np.ndarray | None:
    """The weights of the prompts; None where they are equal."""
    if content.get("prompt_weights") is None:
        return None
    weights = _array(content["prompt_weights"], "prompt_weights", 1, refuse)
    if weights.size != count or not (weights > 0.0).all():
        raise refuse(f"prompt_weights must be {count} numbers above 0, one for each start state")
    return weights


def _prompts(content: dict[str, Any], count: int, refuse) -> tuple[str, ...]:
    """The names of the prompts: by default their numbers; none where there is one prompt."""
    names = content.get("prompts") or list(range(count))
    if not _are_names(names) or len({str(name) for name in names}) != count:
        raise refuse(f"prompts must be a list of {count} different names, one for each start state")
    return tuple(map(str, names)) if count > 1 else ()


def _are_names(values: Any) -> bool:
    """Whether `values` is a list of names: strings or numbers."""
    return isinstance(values, list) and all(isinstance(x, (str, int, float)) and not isinstance(x, bool) for x in values)


def _array(values: Any, key: str, rank: int, refuse) -> np.ndarray:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise refuse(f"{key} must be {'rows' if rank == 2 else 'a list'} of numbers") from None
    if array.ndim != rank or array.size == 0 or not np.isfinite(array).all():
        raise refuse(f"{key} must be {'rows of equal length' if rank == 2 else 'a list'}, of finite numbers")
    return array
