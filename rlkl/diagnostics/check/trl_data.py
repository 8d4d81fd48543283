"""What TRL's trainers learn from in a check: data sets that hold the population of a world, or every pair of it."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rlkl.diagnostics.check.worlds import World


class Data(NamedTuple):
    """What a trainer learns from: columns of its data set, the sequences that the policy generates, settings of its config."""

    columns: dict[str, list[Any]]
    generated: Int[np.ndarray, " N"]
    settings: dict[str, Any]


def groups(world: World, size: int | None) -> Data:
    """Groups of samples of one prompt: every group of a size, each as often as it is drawn, or one of the population."""
    rows = world.population
    if size is not None:
        rows = np.array(list(itertools.product(rows, repeat=size))).ravel()
    size = len(rows) if size is None else size
    settings = {
        "per_device_train_batch_size": len(rows),
        "num_generations": size,
        "max_completion_length": world.automaton.horizon,
    }
    return Data({"prompt": [_prompt(world)] * (len(rows) // size)}, rows, settings)


def prompts(world: World, _: int | None) -> Data:
    """The population, as samples of as many prompts."""
    size = len(world.population)
    settings = {"per_device_train_batch_size": size, "max_completion_length": world.automaton.horizon}
    return Data({"prompt": [_prompt(world)] * size}, world.population, settings)


def messages(world: World, _: int | None) -> Data:
    """The population, as samples in the place of answers, which are the population, too."""
    rows = world.population
    settings = {"per_device_train_batch_size": len(rows), "max_new_tokens": world.automaton.horizon, "lmbda": 1.0}
    return Data({"messages": [[*_chat(world), *_answer(world, row)] for row in rows.tolist()]}, rows, settings)


def generated_pairs(world: World, _: int | None) -> Data:
    """Every pair of the population, as two samples of one prompt."""
    pairs = np.array(list(itertools.product(world.population, repeat=2)))
    settings = {"per_device_train_batch_size": len(pairs), "max_new_tokens": world.automaton.horizon}
    return Data({"prompt": [_prompt(world)] * len(pairs)}, pairs.T.ravel(), settings)


def preferences(world: World, _: int | None) -> Data:
    """Every pair of the population, as a data set: the one with the larger reward is chosen, else the first."""
    pairs = np.array(list(itertools.product(world.population, repeat=2)))
    swapped = (world.reward[pairs[:, 0]] < world.reward[pairs[:, 1]])[:, None]
    pairs = np.where(swapped, pairs[:, ::-1], pairs)
    columns = {
        "prompt": [_chat(world)] * len(pairs),
        "chosen": [_answer(world, row) for row in pairs[:, 0].tolist()],
        "rejected": [_answer(world, row) for row in pairs[:, 1].tolist()],
    }
    return Data(columns, world.population, {"per_device_train_batch_size": len(pairs)})


def examples(world: World, _: int | None) -> Data:
    """The population, as a data set: those at or above the mean reward are desirable."""
    rows = world.population
    columns: dict[str, list[Any]] = {
        "prompt": [_chat(world)] * len(rows),
        "completion": [_answer(world, row) for row in rows.tolist()],
        "label": [bool(world.reward[row] >= world.probability @ world.reward) for row in rows],
    }
    return Data(columns, rows, {"per_device_train_batch_size": len(rows)})


def _prompt(world: World) -> str:
    return str(world.automaton.vocabulary)


def _chat(world: World) -> list[dict[str, str]]:
    return [{"role": "user", "content": _prompt(world)}]


def _answer(world: World, row: int) -> list[dict[str, str]]:
    words = map(str, world.batch.tokens[row][np.asarray(world.batch.mask)[row]])
    return [{"role": "assistant", "content": " ".join(words)}]
