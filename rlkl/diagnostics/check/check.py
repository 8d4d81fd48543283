"""Check what a loss descends, in each of the small worlds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from rlkl.diagnostics.check import jax_call, probes, torch_call
from rlkl.diagnostics.check.arguments import Matched, batch_arrays, match_arguments
from rlkl.diagnostics.check.call import Call, layouts
from rlkl.diagnostics.check.load import load_loss
from rlkl.diagnostics.check.matching import Match, match, reward_fit
from rlkl.diagnostics.check.measure import Evaluate, batch_variance, measure, over_groups, without_coefficient
from rlkl.diagnostics.check.metrics import Metric, identify
from rlkl.diagnostics.check.probes import Flag
from rlkl.diagnostics.check.report import BIASED, CheckRow, Report, check_row, direction_flags, group_flags
from rlkl.diagnostics.check.worlds import GROUPS, WORLDS, World
from rlkl.errors import SettingsError, nearest, one_line

TRAINER = "trl:"
BETA = 0.25  # the coefficient at which a loss is checked
METRIC_WORLDS = ("bandit", "equal", "unequal", "sampler")
GROUP_WORLDS = {
    f"groups_{size}" + (f"_{name}" if name != "bandit" else ""): (name, size)
    for name, (_, sizes) in GROUPS.items()
    for size in sizes
}
ALL_WORLDS = (*WORLDS, "weighted", *GROUP_WORLDS)


def check_loss(
    loss: Callable[..., Any] | str,
    *,
    beta: float = BETA,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    worlds: Sequence[str] = ALL_WORLDS,
    on_progress: Callable[[str], None] = lambda world: None,
) -> Report:
    """Check which divergence the KL penalty of a loss descends, from its exact expected gradient in small worlds.

    loss: a function of arrays in PyTorch or JAX, `FILE.py:NAME`, or a trainer `trl:NAME` with `settings` of its config. The
    arguments of a function are matched by the field's names; `names` maps others (argument to name), `settings` gives
    the values of the rest. beta: the coefficient at which the loss is checked. worlds: of `ALL_WORLDS`.
    on_progress: called with the name of each world before it. Raises `SettingsError` on an argument that cannot be matched.
    """
    for name in worlds:
        if name not in ALL_WORLDS:
            raise SettingsError("worlds", name, nearest(name, ALL_WORLDS))
    if not (math.isfinite(beta) and beta >= 0.0):
        raise SettingsError("beta", beta, "must be a finite number, and not negative")
    if isinstance(loss, str) and loss.startswith(TRAINER):
        from rlkl.diagnostics.check.trainer import check_trainer

        return check_trainer(loss.removeprefix(TRAINER), beta, settings or {}, worlds, on_progress)
    if beta == 0.0:
        raise SettingsError("beta", beta, "must be positive: the loss at beta is compared with the loss at 0")
    label = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    function = load_loss(loss) if isinstance(loss, str) else loss
    matched = match_arguments(function, names or {}, settings or {})
    evaluate, framework = _prepare(function, matched, settings or {}, beta)
    if matched.coefficient is None and matched.bundle is None:
        evaluate, beta = without_coefficient(evaluate), 1.0
    return report(label, framework, evaluate, matched, beta, worlds, on_progress)


def report(
    label: str,
    framework: str,
    evaluate: Evaluate,
    matched: Matched,
    beta: float,
    worlds: Sequence[str],
    on_progress: Callable[[str], None],
) -> Report:
    """The report on a loss that can be evaluated."""
    rows: list[CheckRow] = []
    notes: dict[str, str] = {}
    for name in ALL_WORLDS:
        if name not in worlds or (name == "weighted" and not matched.reads("weights")):
            continue
        on_progress(name)
        row, flags = _group_row(evaluate, name, beta) if name in GROUP_WORLDS else _row(evaluate, name, beta)
        rows.append(row)
        notes |= {flag.name: flag.says for flag in flags}
    on_progress("metrics")
    curve = probes.slope_curve(evaluate, world_named("bandit"), beta)
    return Report(label, framework, beta, tuple(rows), tuple(_metrics(evaluate, beta)), notes, curve)


@cache
def world_named(name: str) -> World:
    """The world of a row; that of `weighted` is `unequal`."""
    return WORLDS["unequal" if name == "weighted" else name]()


def _prepare(loss: Callable[..., Any], matched: Matched, settings: Mapping[str, Any], beta: float) -> tuple[Evaluate, str]:
    """The evaluation of a loss in the form of arguments in which it runs and follows the reward's gradient; its framework."""
    errors: list[Exception] = []
    usable: list[tuple[float, int, Evaluate, str]] = []
    world, unequal = world_named("equal"), world_named("unequal")
    for layout in layouts(loss, matched):
        try:
            module = torch_call if layout.framework == "torch" else jax_call
            evaluate = module.evaluator(Call(loss, matched, settings, layout))
            evaluate(batch_arrays(unequal, unequal.population), beta)
            residual = reward_fit(world, measure(evaluate, world, 0.0).gradient)[1]
        except Exception as error:  # a user's code may raise anything
            errors.append(error)
            continue
        usable.append((0.0 if math.isnan(residual) else residual, len(usable), evaluate, layout.framework))
        if usable[-1][0] < BIASED:
            break
    if not usable:
        what, size = type(errors[0]).__name__, len(world.population)
        raise SettingsError("loss", what, f"is what it raised on a batch of {size}: {one_line(errors[0])}")
    _, _, evaluate, framework = min(usable)
    return evaluate, framework


def _row(evaluate: Evaluate, name: str, beta: float) -> tuple[CheckRow, list[Flag]]:
    world = world_named(name)
    options: dict[str, Any] = {}
    if name == "weighted":
        sequences = np.arange(len(world.reward))
        options = {"rows": sequences, "weight": len(sequences) * world.probability}
    elif name.startswith("padded"):
        options = {"noise_at_padding": True}
    without, with_penalty = (measure(evaluate, world, coefficient, **options) for coefficient in (0.0, beta))
    matched = match(world, without.gradient, with_penalty.gradient, beta)
    flags = list(probes.detached(without, with_penalty))
    if not math.isnan(matched.reward_residual) and not options:
        flags += probes.scaled_by_std(evaluate, world, without)
    if name.startswith("padded"):
        flags += probes.padding(measure(evaluate, world_named("unequal"), beta), with_penalty)
    if name == "extreme":
        bandit = world_named("bandit")
        flags += probes.clamped(evaluate, bandit, _population_match(evaluate, bandit, beta), beta)
    if name == "equal":
        flags += probes.shifted(evaluate, world, beta)
        flags += probes.tokens_and_temperature(evaluate, world, beta)
        flags += probes.at_reference(evaluate, world, beta, max(np.abs(with_penalty.rows).max(), np.abs(without.rows).max()))
    flags += direction_flags(matched)
    variance = batch_variance(with_penalty.rows - without.rows)
    return check_row(name, matched, variance, flags), flags


def _group_row(evaluate: Evaluate, name: str, beta: float) -> tuple[CheckRow, list[Flag]]:
    world_name, size = GROUP_WORLDS[name]
    world = _group_world(world_name)
    population = _population_match(evaluate, world, beta)
    of_groups = match(world, over_groups(evaluate, world, 0.0, size), over_groups(evaluate, world, beta, size), beta)
    flags = list(direction_flags(of_groups))
    flags += group_flags(population, of_groups)
    return check_row(name, of_groups, math.nan, flags), flags


def _population_match(evaluate: Evaluate, world: World, beta: float) -> Match:
    return match(world, measure(evaluate, world, 0.0).gradient, measure(evaluate, world, beta).gradient, beta)


@cache
def _group_world(name: str) -> World:
    return GROUPS[name][0]()


def _metrics(evaluate: Evaluate, beta: float) -> Iterator[Metric]:
    """What each number that the loss returns beside its value estimates."""
    worlds = {name: world_named(name) for name in METRIC_WORLDS}
    logged = {name: measure(evaluate, world, beta).evaluation.metrics for name, world in worlds.items()}
    for metric in logged["bandit"]:
        values = {name: numbers[metric] for name, numbers in logged.items() if metric in numbers}
        yield identify(metric, values, worlds, beta)
