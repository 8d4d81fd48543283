"""Bandits: tasks of one token, with one end state for each arm."""

from typing import Any

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks.automaton import Automaton, Task
from rlkl.tasks.checks import choice, fits, number, numbers, probabilities, whole
from rlkl.tasks.prompt_bandits import custom_prompts
from rlkl.tasks.registry import Card, register


def bandit(reward, reference, typicality: float = 0.0, coordinates=None) -> Task:
    """The bandit with the given rewards and reference probabilities, both Float["V"]."""
    reward, reference = np.asarray(reward, np.float64), np.asarray(reference, np.float64)
    arms = reward.size
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference)[None, :]
    return Task(
        automaton=Automaton(np.arange(1, arms + 1)[None, :], states=arms + 1, horizon=1),
        reward=np.concatenate([[0.0], reward]),  # no sequence ends in the start state
        log_reference=log_reference,
        typicality=np.asarray(typicality, np.float64),
        coordinates=np.arange(arms, dtype=np.float64) if coordinates is None else np.asarray(coordinates, np.float64),
    )


def card(reward, reference, names=None, typicality: Any = 0.0, coordinates=None, **facts: Any) -> Card:
    """The card of a bandit. Arms without names are named by their index; `facts` are recorded with each run."""
    task = bandit(reward, reference, number("task.typicality", typicality), coordinates)
    names = [str(arm) for arm in range(task.automaton.vocabulary)] if names is None else names
    return Card(task, tuple(names), facts)


def _size(size: Any) -> int:
    arms = whole("task.size", size, at_least=2)
    fits("task.size", size, arms)
    return arms


@register("bandit/custom")
def custom(reward, reference, names=None, prompts=None, prompt_weights=None, typicality=0.0) -> Card:
    """Any bandit, given by lists of rewards and reference probabilities; or a bandit a prompt, given by lists of rows.

    prompts: names of the prompts. prompt_weights: their probabilities, up to a factor; null: all are equally likely.
    """
    if isinstance(reward, (list, tuple)) and reward and isinstance(reward[0], (list, tuple)):
        return custom_prompts(reward, reference, names, typicality, prompts, prompt_weights)
    for key, value in (("prompts", prompts), ("prompt_weights", prompt_weights)):
        if value is not None:
            raise SettingsError(f"task.{key}", value, "is of several prompts: task.reward=[[...],[...]] has a row for each")
    reward, reference = numbers("task.reward", reward), probabilities("task.reference", reference)
    if reward.size != reference.size:
        raise SettingsError(
            "task.reference", reference.tolist(), f"has {reference.size} numbers, and task.reward has {reward.size}"
        )
    if names is not None:
        if not isinstance(names, (list, tuple)) or len(names) != reward.size:
            raise SettingsError("task.names", names, f"must be a list of {reward.size} names, one an arm")
        names = [str(name) for name in names]
    if reward.size < 2:
        raise SettingsError("task.reward", reward.size, "must have at least 2 arms")
    return card(reward, reference, names, typicality)


@register("bandit/bimodal")
def bimodal(gap=0.0, typicality=0.0) -> Card:
    """64 ordered arms from -8 to 8 with reference .7 N(-3,1) + .3 N(3,1); the reward is `gap` times the minor mode's bump."""
    x = np.linspace(-8.0, 8.0, 64)
    density = 0.7 * np.exp(-0.5 * (x + 3.0) ** 2) + 0.3 * np.exp(-0.5 * (x - 3.0) ** 2)
    reward = number("task.gap", gap) * np.exp(-0.5 * (x - 3.0) ** 2)
    return card(reward, density / density.sum(), [f"{position:+.2f}" for position in x], typicality, x)


@register("bandit/two_modes")
def two_modes(others=1, typicality=0.0) -> Card:
    """Two rare modes of unequal mass and reward; other arms have reward 0 (GX-Chen et al. 2025, arXiv 2510.20817, fig. 2)."""
    others = whole("task.others", others, at_least=1)
    fits("task.others", others, others)
    modes = np.exp([-4.05, -5.95])
    reference = np.concatenate([modes, np.full(others, (1.0 - modes.sum()) / others)])
    names = ["likely mode", "better mode"] + [f"other {i}" for i in range(others)]
    return card(np.concatenate([[0.75, 1.0], np.zeros(others)]), reference, names, typicality)


@register("bandit/zipf")
def zipf(seed=0, reward_kind="uniform", size=1000, typicality=0.0) -> Card:
    """Arms with reference probability proportional to 1/rank; rewards are uniform in [0,1], standard normal, or rank/size."""
    size = _size(size)
    generator = np.random.default_rng(whole("task.seed", seed, at_least=0))
    rank = np.arange(1, size + 1)
    kind = choice("task.reward_kind", reward_kind, ("uniform", "normal", "rank"))
    random_reward = generator.standard_normal(size) if kind == "normal" else generator.uniform(size=size)
    reward = rank / size if kind == "rank" else random_reward
    return card(reward, (1.0 / rank) / (1.0 / rank).sum(), [f"rank {r}" for r in rank], typicality)


@register("bandit/needle")
def needle(mass=1e-4, size=100, typicality=0.0) -> Card:
    """One rewarded arm, of reference probability `mass`."""
    size = _size(size)
    mass = number("task.mass", mass, above=0.0)
    if mass >= 1.0:
        raise SettingsError("task.mass", mass, "must be below 1")
    reference = np.full(size, (1.0 - mass) / (size - 1))
    reference[0] = mass
    return card(np.eye(size)[0], reference, ["needle"] + [f"hay {i}" for i in range(1, size)], typicality)


@register("bandit/random")
def random(seed=0, size=10, typicality=0.0) -> Card:
    """Random reference, from Dirichlet(1), and random rewards, from N(0,1)."""
    size = _size(size)
    generator = np.random.default_rng(whole("task.seed", seed, at_least=0))
    reference = generator.dirichlet(np.ones(size))
    return card(generator.standard_normal(size), reference, None, typicality)
