"""Check a whole trainer: the gradients of its real first steps in small worlds."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from rlkl.diagnostics.check import preference_losses, probes, trl_trainers, worlds
from rlkl.diagnostics.check.matching import ROUNDING, SAME, Match, match
from rlkl.diagnostics.check.metrics import Metric, identify
from rlkl.diagnostics.check.probes import Flag
from rlkl.diagnostics.check.report import CheckRow, Report, check_row, direction_flags, group_flags
from rlkl.diagnostics.check.trl_trainers import Step
from rlkl.diagnostics.check.worlds import World
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.penalties.expected_gradient import NO_DIVERGENCE

TRAINER_WORLDS = ("bandit", "equal", "unequal", "extreme")
GROUPS = {"groups_2": 2, "groups_4": 4}
WORLDS_OF = {  # by what the beta of a trainer is
    "penalty": (*TRAINER_WORLDS, *GROUPS),
    "preference": ("bandit", "unequal"),
    "distillation": TRAINER_WORLDS,
}
PREFERENCE = 1e-5  # relative difference below which a step on all pairs counts as its definition's: sums in float32
SCALE = 3.0  # by which rewards are multiplied, to see whether the step grows with them
FirstStep = Callable[..., Step]  # of a world, beta, reward_scale and group_size


def check_trainer(
    name: str,
    beta: float,
    options: Mapping[str, Any],
    selected: Sequence[str],
    on_progress: Callable[[str], None] = lambda world: None,
) -> Report:
    """Check what the penalty of a TRL trainer descends, by its own `train()` with plain SGD on the population of each world.

    options: of its config. Worlds in which a whole trainer cannot be put are left out. A trainer on preferences is compared
    with the gradient of its loss's definition, one that distils the reference with those of divergences, without a reward.
    Raises `SettingsError` without TRL, and on an unknown trainer or option.
    """
    if beta == 0.0 and name in ("GRPOTrainer", "RLOOTrainer"):
        raise SettingsError("beta", beta, "must be positive: the step at beta is compared with the step at 0")
    known = trl_trainers.TRAINERS
    kind = known[name].beta if name in known else "penalty"  # the first step refuses an unknown trainer

    @cache
    def first_step(world: str, beta: float, reward_scale: float = 1.0, group_size: int | None = None) -> Step:
        return trl_trainers.first_step(name, _world(world, kind), beta, options, reward_scale, group_size)

    rows: list[CheckRow] = []
    notes: dict[str, str] = {}
    for world in selected:
        if world in WORLDS_OF[kind]:
            on_progress(world)
            if kind == "preference":
                row, flags = _preference_row(world, first_step(world, beta), name, beta, options)
            elif kind == "distillation":
                row, flags = _distillation_row(world, first_step(world, beta))
            elif world in GROUPS:
                row, flags = _group_row(world, first_step, beta)
            else:
                row, flags = _row(world, first_step, beta)
            rows.append(row)
            notes |= {flag.name: flag.says for flag in flags}
    metrics = tuple(_metrics(first_step, beta)) if kind == "penalty" else ()
    return Report(_label(name, options), "torch", beta, tuple(rows), metrics, notes)


def check_second_update(name: str, beta: float, options: Mapping[str, Any]) -> Report:
    """Check the second update of a trainer on the same batch, without rewards, whose sampler is the policy before the first."""
    world = worlds.WORLDS["bandit"]()
    step = trl_trainers.second_step(name, world, beta, options)
    moved = dataclasses.replace(world, policy=step.policy)
    matched = match(moved, np.zeros_like(step.gradient), step.gradient, beta)
    row = check_row("sampler", matched, math.nan, list(direction_flags(matched)))
    return Report(_label(name, {**options, "num_iterations": 2}), "torch", beta, (row,), (), {})


def _label(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([f"trl:{name}", *(f"{key}={value}" for key, value in options.items())])


@cache
def _world(name: str, kind: str = "penalty") -> World:
    """The world of a row; those of preferences and of groups are smaller, since all pairs or groups are in a batch."""
    if kind == "preference":
        return worlds.bandit(arms=4, draws=8) if name == "bandit" else worlds.random_world(worlds.tree(3, 2, ends=1), 4, 4)
    return worlds.bandit(arms=5, draws=6, seed=5) if name in GROUPS else worlds.WORLDS[name]()


def _preference_row(
    name: str, step: Step, trainer: str, beta: float, options: Mapping[str, Any]
) -> tuple[CheckRow, list[Flag]]:
    """How far a step on preferences is from the gradient of the definition of its loss."""
    world = _world(name, "preference")
    if trainer == "KTOTrainer":
        definition, says = preference_losses.kto(world, beta), "KTO's loss, whose KL has no gradient"
    else:
        definition = preference_losses.dpo(world, beta, **options)
        divergence, _ = preference_losses.F_DIVERGENCES[options.get("f_divergence_type", "reverse_kl")]
        says = f"the loss of DPO with {REGISTRY[divergence].formula}"
    size = float(np.linalg.norm(definition))
    residual = float(np.linalg.norm(step.gradient - definition)) / size
    is_exact = residual < PREFERENCE
    matched = Match(
        says if is_exact else f"{NO_DIVERGENCE}; the nearest is {says}", None, "other" if is_exact else "none",
        float(np.sum(step.gradient * definition)) / size**2, residual, math.nan, math.nan, 0.0, math.nan,
    )  # fmt: skip
    return check_row(name, matched, math.nan, []), []


def _distillation_row(name: str, step: Step) -> tuple[CheckRow, list[Flag]]:
    """What a step towards a teacher, the reference, descends; there is no coefficient."""
    matched = match(_world(name), np.zeros_like(step.gradient), step.gradient, 1.0)
    flags = list(direction_flags(matched))
    return check_row(name, matched, math.nan, flags), flags


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
