"""Build a run and its task from a composed config, checked and with every null resolved."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlkl import policies, settings, tasks
from rlkl.config import memory, plugins
from rlkl.config.resolve import resolve
from rlkl.divergences import Params
from rlkl.errors import SettingsError, nearest
from rlkl.penalties import options
from rlkl.tasks.preferences import annotators
from rlkl.tasks.transforms import export, remember, unfold
from rlkl.training import reward_shaping, spec


class Built(NamedTuple):
    """A checked run, its task's card, its resolved config, and how it is tracked and executed.

    run: its reference is the task's; `runs.store.pretrained_references.attach` replaces it where a pretrained one is chosen.
    resolved: the config with every null replaced by the value that it stands for.
    """

    run: spec.Run
    card: tasks.Card
    tracking: settings.Tracking
    resolved: dict[str, Any]
    execution: settings.Execution = settings.Execution()
    engine: settings.Engine = settings.Engine()
    plugins: tuple[str, ...] = ()  # absolute paths of the files

    @property
    def store(self) -> Path:
        """The folder of the store of finished runs."""
        return Path(self.execution.store).expanduser()


def build(config: Mapping[str, Any], cards: dict[str, tasks.Card] | None = None) -> Built:
    """Build the run that a plain config describes; raises `SettingsError` at the first bad setting.

    cards: cache of the tasks built so far, so that a task of the same options is built once; this run's task is added to it.
    """
    files = config.get("plugins") or []
    plugins.load(files)
    checked = settings.check_settings(config)
    run_settings = checked.run
    family = policies.REGISTRY.get(run_settings.policy.name)
    tokens_remembered = None if family is None or family.memory is None else family.memory(run_settings.policy)
    as_tree = run_settings.reward_shaping.name == "mara"
    card_key = json.dumps([config.get("task"), config.get("plugins"), tokens_remembered, as_tree], default=str)
    cards = {} if cards is None else cards
    if card_key not in cards:
        cards[card_key] = _build_card(settings.group(config, "task"), tokens_remembered, as_tree)
    card = cards[card_key]
    run_settings = dataclasses.replace(run_settings, reward_shaping=reward_shaping.resolve_shaping(run_settings, card))
    run_settings = resolve(run_settings, card.task)
    if run_settings.algorithm.name == "dpo":
        card = _with_comparisons(run_settings, card)
    run = spec.make_run(run_settings, card.task)
    memory.check_memory(run)
    resolved = _fill_nulls(config, run_settings)
    return Built(run, card, checked.tracking, resolved, checked.execution, checked.engine, plugins.absolute_paths(files))


def _build_card(task: Mapping[str, Any], tokens_remembered: int | None, as_tree: bool) -> tasks.Card:
    """Build the task that these options describe, and export it if they say so.

    tokens_remembered: how many of the last tokens a state tells the policy; None if it needs none. as_tree: build the tree of
    the task's sequences, if they can be listed, so that each sequence can have a reward of its own.
    """
    options = dict(task)
    name = options.pop("name", None)
    if not isinstance(name, str):
        rule = "must be a name; " + nearest(str(name), tasks.REGISTRY)
        raise SettingsError("task.name", "null" if name is None else name, rule)
    export_path = options.pop("export", None)
    card = tasks.build(name, **options)
    if export_path is not None:
        _export(card, export_path)
    card = unfold(card, "reward_shaping", "mara") if as_tree else card
    return card if tokens_remembered is None else remember(card, tokens_remembered)


def _with_comparisons(run_settings: settings.Settings, card: tasks.Card) -> tasks.Card:
    """Add to the card's task the pairs that direct preference optimisation learns from; raises `SettingsError`."""
    if card.preferences is None:
        raise SettingsError("algorithm", "dpo", "learns from preferences, and this task has none (task=preference/... has)")
    _check_link(run_settings, card.task)
    if run_settings.algorithm.entropy_coef is not None:
        rule = "algorithm=dpo maximises no reward beside it"
        raise SettingsError("algorithm.entropy_coef", run_settings.algorithm.entropy_coef, rule)
    if run_settings.reward_shaping.name != "none":
        raise SettingsError("reward_shaping", run_settings.reward_shaping.name, "algorithm=dpo learns from no reward")
    pairs = annotators.comparisons(card.task, card.preferences)
    return dataclasses.replace(card, task=dataclasses.replace(card.task, comparisons=pairs))


def _check_link(run_settings: settings.Settings, task: tasks.Task) -> None:
    """Check that the preferences determine the policy through f'(pi/pi_ref); raises `SettingsError`."""
    div, key = options.divergence(run_settings.penalty), "penalty.divergence"
    if div is None:
        raise SettingsError(key, "none", "algorithm=dpo reads the reward off a divergence; there must be one")
    if not div.identifies_rewards(Params(run_settings.penalty.alpha, run_settings.penalty.weights)):
        rule = "tells no reward apart (f' is not strictly rising, or D is a root), as algorithm=dpo needs; kl_pi_ref does"
        raise SettingsError(key, div.name, rule)
    if run_settings.policy.support == "all" and (task.automaton.legal & (task.log_reference == -math.inf)).any():
        rule = "has tokens that the reference never takes, and so no pair compares (algorithm=dpo); use reference"
        raise SettingsError("policy.support", "all", rule)


def _export(card: tasks.Card, path: Any) -> None:
    if not isinstance(path, str):
        raise SettingsError("task.export", path, "must be a file's path")
    text = export(card)
    try:
        Path(path).expanduser().write_text(text, encoding="utf-8")
    except (OSError, RuntimeError, ValueError) as error:  # a RuntimeError: no such user
        raise SettingsError("task.export", path, f"cannot be written ({getattr(error, 'strerror', None) or error})") from None


def _fill_nulls(config: Mapping[str, Any], run_settings: settings.Settings) -> dict[str, Any]:
    """Replace the config's nulls by the resolved settings."""
    resolved = dataclasses.asdict(run_settings)
    filled: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key in resolved:
            filled[key] = {inner: resolved[key].get(inner, entry) for inner, entry in value.items()}
        else:
            filled[key] = resolved.get(key, value)
    return filled
