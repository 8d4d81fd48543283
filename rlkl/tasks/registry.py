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
    """A task with what people need beside its arrays.

    outcomes: a name for each end state in `task.automaton.outcomes`; facts: what a record should say of it (the hash
    of a text, ...), as plain JSON values; tokens: the vocabulary, where it is not the outcomes themselves, and joiner
    what stands between two tokens of a text; corpus: sequences (Int["N T"]) of the text that the task was made from;
    preferences: what the reward was fitted to, where it was.
    """

    task: Task
    outcomes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    joiner: str = " "
    corpus: np.ndarray | None = None
    preferences: "Preferences | None" = None

    @cached_property
    def digest(self) -> str:
        """A hash of the content: of all that a run can read off its task, wherever that came from."""
        names = json.dumps([self.outcomes, self.facts, self.tokens, self.joiner], sort_keys=True, default=str)
        hashed = hashlib.sha256((self.task.automaton.digest + names).encode())
        for leaf in jax.tree.leaves((self.task, self.corpus)):
            array = np.ascontiguousarray(leaf)
            hashed.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
        return hashed.hexdigest()


REGISTRY: dict[str, Callable[..., Card]] = {}


def register(name: str):
    """Decorator: make a builder of cards the task `name`."""

    def add(build):
        REGISTRY[name] = build
        return build

    return add


def options(name: str) -> dict[str, Any]:
    """A task's options and their defaults, read off its builder."""
    return {key: argument.default for key, argument in inspect.signature(REGISTRY[name]).parameters.items()}


def build(name: str, **chosen: Any) -> Card:
    """The card of task `name`; raises `SettingsError` for an unknown name or option, a bad value, or outcomes of one name."""
    if name not in REGISTRY:
        raise SettingsError("task.name", name, "unknown task; " + nearest(name, REGISTRY))
    known = options(name)
    for key, value in chosen.items():
        if key not in known:
            raise SettingsError(f"task.{key}", value, f"unknown option of {name}; " + nearest(key, [*known, "name"]))
    for key, default in known.items():
        if default is inspect.Parameter.empty and chosen.get(key) is None:
            raise SettingsError(f"task.{key}", "null", f"{name} needs a value here")
    card = REGISTRY[name](**chosen)
    twice = [outcome for outcome, count in Counter(card.outcomes).items() if count > 1]
    if twice:
        raise SettingsError("task.names", twice[0], f"names several outcomes of {name}; each needs a name of its own")
    return card
