"""Check a whole trainer: the gradients of its real first steps in small worlds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from rlkl.diagnostics.check import probes, trl_trainers, worlds
from rlkl.diagnostics.check.matching import ROUNDING, SAME, match
from rlkl.diagnostics.check.metrics import Metric, identify
from rlkl.diagnostics.check.probes import Flag
from rlkl.diagnostics.check.report import CheckRow, Report, check_row, direction_flags, group_flags
from rlkl.diagnostics.check.trl_trainers import Step
from rlkl.diagnostics.check.worlds import World

TRAINER_WORLDS = ("bandit", "equal", "unequal", "extreme")
GROUPS = {"groups_2": 2, "groups_4": 4}
SCALE = 3.0  # by which rewards are multiplied, to see whether the step grows with them
FirstStep = Callable[..., Step]  # of a world, beta, reward_scale and group_size


def check_trainer(
    name: str,
    beta: float,
    options: Mapping[str, Any],
    selected: Sequence[str],
    on_progress: Callable[[str], None] = lambda world: None,
) -> Report:
    """Check what the penalty of a TRL trainer descends, from its own `train()` with plain SGD on the population of each world.

    options: of its config. Worlds in which a whole trainer cannot be put are left out. Raises `SettingsError` without TRL, and
    on an unknown trainer or option.
    """

    @cache
    def first_step(world: str, beta: float, reward_scale: float = 1.0, group_size: int | None = None) -> Step:
        return trl_trainers.first_step(name, _world(world), beta, options, reward_scale, group_size)

    rows: list[CheckRow] = []
    notes: dict[str, str] = {}
    for world in selected:
        if world in TRAINER_WORLDS:
            on_progress(world)
            row, flags = _row(world, first_step, beta)
        elif world in GROUPS:
            on_progress(world)
            row, flags = _group_row(world, first_step, beta)
        else:
            continue
        rows.append(row)
        notes |= {flag.name: flag.says for flag in flags}
    label = " ".join([f"trl:{name}", *(f"{key}={value}" for key, value in options.items())])
    return Report(label, "torch", beta, tuple(rows), tuple(_metrics(first_step, beta)), notes)


@cache
def _world(name: str) -> World:
    return worlds.bandit(arms=5, draws=6, seed=5) if name in GROUPS else worlds.WORLDS[name]()


def _row(name: str, first_step: FirstStep, beta: float) -> tuple[CheckRow, list[Flag]]:
    without, with_penalty = (first_step(name, coefficient).gradient for coefficient in (0.0, beta))
    matched = match(_world(name), without, with_penalty, beta)
    flags = list(direction_flags(matched))
    if name == "bandit":
        scaled = first_step(name, 0.0, SCALE).gradient
        if np.linalg.norm(scaled - SCALE * without) > SAME * np.linalg.norm(scaled):
            flags.append(Flag("scaled_by_std", probes.SCALED))
    return check_row(name, matched, math.nan, flags), flags


def _group_row(name: str, first_step: FirstStep, beta: float) -> tuple[CheckRow, list[Flag]]:
    world, matches = _world(name), []
    for size in (None, GROUPS[name]):
        rows = len(world.population) if size is None else size * len(world.population) ** size
        rounding = ROUNDING * max(1.0, rows / 64)  # of sums in float32
        without, with_penalty = (first_step(name, coefficient, 1.0, size).gradient for coefficient in (0.0, beta))
        matches.append(match(world, without, with_penalty, beta, rounding))
    population, of_groups = matches
    flags = [*direction_flags(of_groups), *group_flags(population, of_groups)]
    return check_row(name, of_groups, math.nan, flags), flags


def _metrics(first_step: FirstStep, beta: float) -> Iterator[Metric]:
    """What the KLs that the trainer logs estimate."""
    names = [name for name in TRAINER_WORLDS if name != "extreme"]
    logged = {name: first_step(name, beta).metrics for name in names}
    for metric in logged["bandit"]:
        if "kl" in metric.lower():
            values = {name: numbers[metric] for name, numbers in logged.items() if metric in numbers}
            yield identify(metric, values, {name: _world(name) for name in values}, beta)
