"""The registry of tasks. A task is one function that returns a `Card`; its arguments are its options in the config."""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rlkl.errors import SettingsError, nearest
from rlkl.tasks.automaton import Task

if TYPE_CHECKING:
    from rlkl.tasks.preferences.annotators import Preferences


@dataclass(frozen=True)
class Card:
    """A task with its names and its metadata.

    outcomes: a name for each end state in `task.automaton.outcomes`.
    facts: metadata that a run records (the hash of a text, ...), as JSON values.
    tokens: the vocabulary; empty where it equals the outcomes. joiner: the separator of two tokens in a printed sequence.
    corpus: sequences (Int["N T"]) of the text that the task was built from, if any.
    preferences: the preference data that the reward was fitted to, if any.
    prompts: a name for each prompt, if there are several.
    """

    task: Task
    outcomes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    joiner: str = " "
    corpus: np.ndarray | None = None
    preferences: "Preferences | None" = None
    prompts: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that a run can read from its card, in hexadecimal."""
        names = json.dumps([self.outcomes, self.facts, self.tokens, self.joiner, self.prompts], sort_keys=True, default=str)
        hashed = hashlib.sha256((self.task.automaton.digest + names).encode())
        for leaf in jax.tree.leaves((self.task, self.corpus)):
            array = np.ascontiguousarray(leaf)
            hashed.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
        return hashed.hexdigest()


REGISTRY: dict[str, Callable[..., Card]] = {}


def register(name: str):
    """Decorator: register a function that returns a `Card` as the task `name`."""

    def add(build):
        REGISTRY[name] = build
        return build

    return add


def options(name: str) -> dict[str, Any]:
    """The options of a task with their defaults, taken from the signature of its builder."""
    return {key: argument.default for key, argument in inspect.signature(REGISTRY[name]).parameters.items()}


def build(name: str, **overrides: Any) -> Card:
    """Build the card of task `name`; raises `SettingsError` for a bad name, option or value, or for equal outcome names."""
    if name not in REGISTRY:
        raise SettingsError("task.name", name, "unknown task; " + nearest(name, REGISTRY))
    defaults = options(name)
    for key, value in overrides.items():
        if key not in defaults:
            raise SettingsError(f"task.{key}", value, f"unknown option of {name}; " + nearest(key, [*defaults, "name"]))
    for key, default in defaults.items():
        if default is inspect.Parameter.empty and overrides.get(key) is None:
            raise SettingsError(f"task.{key}", "null", f"{name} needs a value here")
    card = REGISTRY[name](**overrides)
    duplicates = [outcome for outcome, count in Counter(card.outcomes).items() if count > 1]
    if duplicates:
        raise SettingsError("task.names", duplicates[0], f"names several outcomes of {name}; each needs a name of its own")
    return card
