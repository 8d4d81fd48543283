"""Bandits with several prompts: a bandit for each prompt, with arms of its own. P prompts, V arms a prompt."""

from typing import Any

import numpy as np
from jaxtyping import Float

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.checks import fits, number, numbers, probabilities, whole
from rlkl.tasks.registry import Card, register


def prompt_bandits(
    reward: Float[np.ndarray, "P V"],
    reference: Float[np.ndarray, "P V"],
    typicality: float = 0.0,
    prompt_weights: Float[np.ndarray, " P"] | None = None,
) -> Task:
    """The task with a prompt for each row: decision state p is prompt p, and each of its arms is an end state."""
    prompts, arms = reward.shape
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference)
    following = prompts + np.arange(prompts * arms).reshape(prompts, arms)
    return Task(
        automaton=Automaton(following, prompts * (1 + arms), 1, range(prompts), prompt_weights=prompt_weights),
        reward=np.concatenate([np.zeros(prompts), reward.ravel()]),  # no sequence ends in a start state
        log_reference=log_reference,
        typicality=np.asarray(typicality, np.float64),
        coordinates=np.arange(arms, dtype=np.float64),
    )


def card(
    reward: Float[np.ndarray, "P V"],
    reference: Float[np.ndarray, "P V"],
    arms: list[str],
    prompts: list[str],
    typicality: Any,
    prompt_weights: Float[np.ndarray, " P"] | None = None,
) -> Card:
    """The card of such a task, with names of its arms and prompts; an outcome is named by both."""
    task = prompt_bandits(reward, reference, number("task.typicality", typicality), prompt_weights)
    outcomes = tuple(f"{prompt}: {arm}" for prompt in prompts for arm in arms)
    return Card(task, outcomes, {}, prompts=tuple(prompts))


@register("bandit/prompts")
def prompts(prompts=16, size=10, correct=2, lowest=0.001, highest=0.9, typicality=0.0) -> Card:
    """Bandits with reward 1 for correct arms and 0 for the others; the reference's success rates go from `lowest` to `highest`.

    Each of `prompts` equally likely prompts has `size` arms, `correct` of them correct. Success rates are evenly spaced in
    log-odds. Among the correct arms, and among the others, the reference's probabilities are proportional to 1/rank.
    """
    count, size = whole("task.prompts", prompts, at_least=2), whole("task.size", size, at_least=2)
    correct = whole("task.correct", correct, at_least=1)
    fits("task.prompts", prompts, count * size)
    if correct >= size:
        raise SettingsError("task.correct", correct, f"must be below task.size={size}")
    rates = {key: number(f"task.{key}", value, above=0.0) for key, value in (("lowest", lowest), ("highest", highest))}
    for key, rate in rates.items():
        if rate >= 1.0:
            raise SettingsError(f"task.{key}", rate, "must be below 1")
    low, high = (np.log(rate) - np.log1p(-rate) for rate in rates.values())
    success = 1.0 / (1.0 + np.exp(-np.linspace(low, high, count)))
    share = [(1.0 / np.arange(1, k + 1)) / (1.0 / np.arange(1, k + 1)).sum() for k in (correct, size - correct)]
    reference = np.concatenate([success[:, None] * share[0], (1.0 - success)[:, None] * share[1]], axis=1)
    reward = np.broadcast_to(np.arange(size) < correct, (count, size)).astype(np.float64)
    arms = [f"correct {i}" for i in range(1, correct + 1)] + [f"wrong {i}" for i in range(1, size - correct + 1)]
    names = [f"prompt {i} (success {rate:.3g})" for i, rate in enumerate(success, start=1)]
    return card(reward, reference, arms, names, typicality)


def custom_prompts(reward, reference, names, typicality, prompts, prompt_weights) -> Card:
    """The card of `bandit/custom` where rewards and reference probabilities are lists of rows, one a prompt."""
    rewards = [numbers("task.reward", row) for row in reward]
    if not isinstance(reference, (list, tuple)) or len(reference) != len(rewards):
        raise SettingsError("task.reference", reference, f"must be {len(rewards)} rows, one a prompt, as task.reward has")
    references = [probabilities("task.reference", row) for row in reference]
    sizes = {row.size for row in (*rewards, *references)}
    if len(sizes) > 1 or sizes == {1}:
        raise SettingsError("task.reward", reward, "must be rows of equal length, of at least 2, and task.reference as well")
    arms, labels = [str(arm) for arm in range(rewards[0].size)], [f"prompt {i}" for i in range(1, len(rewards) + 1)]
    for key, given, default in (("names", names, arms), ("prompts", prompts, labels)):
        if given is not None and (not isinstance(given, (list, tuple)) or len(given) != len(default)):
            raise SettingsError(f"task.{key}", given, f"must be a list of {len(default)} names")
    weights = None if prompt_weights is None else numbers("task.prompt_weights", prompt_weights)
    if weights is not None and (weights.size != len(rewards) or not (weights > 0.0).all()):
        raise SettingsError("task.prompt_weights", prompt_weights, f"must be {len(rewards)} numbers above 0, one a prompt")
    arms, labels = list(map(str, names or arms)), list(map(str, prompts or labels))
    return card(np.stack(rewards), np.stack(references), arms, labels, typicality, weights)
