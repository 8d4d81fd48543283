"""From a composed config to a run with its task, checked and with nothing left to resolve."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlkl import policies, settings, tasks
from rlkl.config import memory, plugins
from rlkl.config.resolve import resolve
from rlkl.errors import SettingsError, nearest
from rlkl.tasks.preferences import annotators
from rlkl.tasks.transforms import export, remember, unfold
from rlkl.training import reward_shaping, spec


class Built(NamedTuple):
    """A run with what people need beside it; `resolved` is its config with nothing left to resolve. A pretrained reference
    is not trained yet: the run holds the task's own until `runs.store.pretrained_references` attaches it."""

    run: spec.Run
    card: tasks.Card
    tracking: settings.Tracking
    resolved: dict[str, Any]
    execution: settings.Execution = settings.Execution()
    engine: settings.Engine = settings.Engine()
    plugins: tuple[str, ...] = ()  # of the files, wherever the process goes later on

    @property
    def store(self) -> Path:
        """The folder of what is kept."""
        return Path(self.execution.store).expanduser()


def build(config: Mapping[str, Any], cards: dict[str, tasks.Card] | None = None) -> Built:
    """The run that a plain config names; raises `SettingsError` at the first bad setting.

    cards: of the tasks built so far, to which this one's is added; a task of the same options is built once.
    """
    files = config.get("plugins") or []
    plugins.load(files)
    groups = {name: settings.from_mapping(cls, _group(config, name), f"{name}.") for name, cls in settings.GROUPS.items()}
    execution = {field.name for field in dataclasses.fields(settings.Execution)}
    beside = {"task", "tracking", "plugins", "engine"} | execution
    known = {field.name for field in dataclasses.fields(settings.Settings)} | beside
    for key in config:
        if key not in known:
            raise SettingsError(key, config[key], "unknown option; " + nearest(key, known))
    top = {key: config[key] for key in config if key in known - beside - set(groups)}
    chosen = dataclasses.replace(settings.from_mapping(settings.Settings, top), **groups)
    tracking = settings.from_mapping(settings.Tracking, _group(config, "tracking"), "tracking.")
    carried_out = settings.from_mapping(settings.Execution, {key: config[key] for key in execution if key in config})
    engine = settings.from_mapping(settings.Engine, _group(config, "engine"), "engine.")
    family = policies.REGISTRY.get(chosen.policy.name)
    remembered = None if family is None or family.memory is None else family.memory(chosen.policy)
    tree = chosen.reward_shaping.name == "mara"
    named = json.dumps([config.get("task"), config.get("plugins"), remembered, tree], default=str)
    cards = {} if cards is None else cards
    if named not in cards:
        cards[named] = _card(_group(config, "task"), remembered, tree)
    card = cards[named]
    chosen = dataclasses.replace(chosen, reward_shaping=reward_shaping.resolve_shaping(chosen, card))
    chosen = resolve(chosen, card.task)
    if chosen.algorithm.name == "dpo":
        card = _compared(chosen, card)
    run = spec.make_run(chosen, card.task)
    memory.check_memory(run)
    return Built(run, card, tracking, fill(config, chosen), carried_out, engine, plugins.places(files))


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The part of the config that a group names."""
    values = config.get(name)
    if values is not None and not isinstance(values, Mapping):
        raise SettingsError(name, values, f"must be a choice by name, or keys below it, as in {name}.name=...")
    return values or {}


def _card(given: Mapping[str, Any], remembered: int | None, tree: bool) -> tasks.Card:
    """The task that these options name, written out where they ask for it, for a policy that remembers so many tokens; on the
    tree of its sequences where each is to have a reward of its own and they can be listed."""
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        rule = "must be a name; " + nearest(str(name), tasks.REGISTRY)
        raise SettingsError("task.name", "null" if name is None else name, rule)
    exported = options.pop("export", None)
    card = tasks.build(name, **options)
    if exported is not None:
        _export(card, exported)
    card = unfold(card, "reward_shaping", "mara") if tree else card
    return card if remembered is None else remember(card, remembered)


def _compared(chosen: settings.Settings, card: tasks.Card) -> tasks.Card:
    """The card with the pairs that direct preference optimisation learns from."""
    if card.preferences is None:
        raise SettingsError("algorithm", "dpo", "learns from preferences, and this task has none (task=preference/... has)")
    if chosen.penalty.divergence != "kl_pi_ref":
        raise SettingsError("penalty.divergence", chosen.penalty.divergence, "algorithm=dpo is of KL(pi‖pi_ref) alone")
    if chosen.algorithm.entropy_coef is not None:
        raise SettingsError(
            "algorithm.entropy_coef", chosen.algorithm.entropy_coef, "algorithm=dpo maximises no reward beside it"
        )
    if chosen.reward_shaping.name != "none":
        raise SettingsError("reward_shaping", chosen.reward_shaping.name, "algorithm=dpo learns from no reward")
    pairs = annotators.comparisons(card.task, card.preferences)
    return dataclasses.replace(card, task=dataclasses.replace(card.task, comparisons=pairs))


def _export(card: tasks.Card, path: Any) -> None:
    if not isinstance(path, str):
        raise SettingsError("task.export", path, "must be a file's path")
    text = export(card)
    try:
        Path(path).expanduser().write_text(text, encoding="utf-8")
    except (OSError, RuntimeError, ValueError) as error:  # a RuntimeError: no such user
        raise SettingsError("task.export", path, f"cannot be written ({getattr(error, 'strerror', None) or error})") from None


def fill(config: Mapping[str, Any], chosen: settings.Settings) -> dict[str, Any]:
    """The config with its nulls replaced by what they were resolved to."""
    flat = dataclasses.asdict(chosen)
    merged: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key in flat:
            merged[key] = {inner: flat[key].get(inner, entry) for inner, entry in value.items()}
        else:
            merged[key] = flat.get(key, value)
    return merged
