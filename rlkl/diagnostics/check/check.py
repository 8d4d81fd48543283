"""Check what a loss descends, in each of the small worlds."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from rlkl.diagnostics.check import probes
from rlkl.diagnostics.check.arguments import Matched, batch_arrays, match_arguments
from rlkl.diagnostics.check.call import Call, evaluator, layouts
from rlkl.diagnostics.check.load import load_loss
from rlkl.diagnostics.check.matching import NOT_FINITE, Match, match, reward_fit
from rlkl.diagnostics.check.measure import Evaluate, batch_variance, measure, over_groups, without_coefficient
from rlkl.diagnostics.check.metrics import Metric, identify
from rlkl.diagnostics.check.probes import Curve, Flag
from rlkl.diagnostics.check.worlds import GROUPS, WORLDS, World
from rlkl.errors import SettingsError, nearest, one_line

BETA = 0.25  # the coefficient at which a loss is checked
METRIC_WORLDS = ("bandit", "equal", "unequal", "sampler")
GROUP_WORLDS = {
    f"groups_{size}" + (f"_{name}" if name != "bandit" else ""): (name, size)
    for name, (_, sizes) in GROUPS.items()
    for size in sizes
}
ALL_WORLDS = (*WORLDS, "weighted", *GROUP_WORLDS)
UNIFORM = 1e-5  # relative difference below which coefficients count as equal


class CheckRow(NamedTuple):
    """What the penalty's part of a loss descends in one world.

    descends: in words; divergence: the registered name, or None. kind: exact (the gradient of a divergence), semi (its
    semi-gradient), other (known, and no single divergence's), none, inert (zero). coefficient: over the beta asked for, beside
    a reward's gradient of 1; without rewards, as the loss has it. residual: the rest, over the penalty's part. variance: of
    the penalty's gradient on a batch of 64; NaN for groups. step_scale, reward_residual: the factor of the reward's gradient in
    a step without penalty, and the rest. flags: names of properties that `Report.notes` explains.
    """

    world: str
    descends: str
    divergence: str | None
    kind: str
    coefficient: float
    residual: float
    cosine_kl_pi_ref: float
    cosine_kl_ref_pi: float
    variance: float
    step_scale: float
    reward_residual: float
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """The answer of a check: a row for each world, what the loss logs, a sentence for each flag, the penalty's slope."""

    loss: str
    framework: str
    beta: float
    rows: tuple[CheckRow, ...]
    metrics: tuple[Metric, ...]
    notes: Mapping[str, str]
    curve: Curve | None = None

    def row(self, world: str) -> CheckRow:
        """The row of a world."""
        return next(row for row in self.rows if row.world == world)


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

    loss: a function of arrays in PyTorch or JAX, or `FILE.py:NAME`. Its arguments are matched by the field's names; `names`
    maps others (argument to name), `settings` gives the values of the rest. beta: the coefficient at which the loss is checked.
    on_progress: called with the name of each world before it. Raises `SettingsError` on an argument that cannot be matched.
    """
    label = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    function = load_loss(loss) if isinstance(loss, str) else loss
    for name in worlds:
        if name not in ALL_WORLDS:
            raise SettingsError("worlds", name, nearest(name, ALL_WORLDS))
    if not (math.isfinite(beta) and beta > 0.0):
        raise SettingsError("beta", beta, "must be a positive number")
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
            evaluate = evaluator(Call(loss, matched, settings, layout))
            evaluate(batch_arrays(unequal, unequal.population), beta)
            residual = reward_fit(world, measure(evaluate, world, 0.0).gradient)[1]
        except Exception as error:  # a user's code may raise anything
            errors.append(error)
            continue
        usable.append((0.0 if math.isnan(residual) else residual, len(usable), evaluate, layout.framework))
        if usable[-1][0] < 1e-3:
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
    flags += _direction(matched)
    variance = batch_variance(with_penalty.rows - without.rows)
    return _check_row(name, matched, variance, flags), flags


def _group_row(evaluate: Evaluate, name: str, beta: float) -> tuple[CheckRow, list[Flag]]:
    world_name, size = GROUP_WORLDS[name]
    world = _group_world(world_name)
    population = _population_match(evaluate, world, beta)
    of_groups = match(world, over_groups(evaluate, world, 0.0, size), over_groups(evaluate, world, beta, size), beta)
    flags = list(_direction(of_groups))
    if of_groups.says == NOT_FINITE:
        return _check_row(name, of_groups, math.nan, flags), flags
    same = (population.divergence, population.kind, population.says) == (of_groups.divergence, of_groups.kind, of_groups.says)
    if not same or not math.isclose(population.coefficient, of_groups.coefficient, rel_tol=UNIFORM, abs_tol=UNIFORM):
        flags.append(
            Flag("group_dependent", "what it descends, or its coefficient, depends on the number of samples in a group")
        )
    return _check_row(name, of_groups, math.nan, flags), flags


def _population_match(evaluate: Evaluate, world: World, beta: float) -> Match:
    return match(world, measure(evaluate, world, 0.0).gradient, measure(evaluate, world, beta).gradient, beta)


@cache
def _group_world(name: str) -> World:
    return GROUPS[name][0]()


def _direction(matched: Match) -> Iterator[Flag]:
    if matched.says == NOT_FINITE:
        yield Flag("not_finite", "its gradient is not finite on some batches, for instance where all samples are the same")
    if matched.divergence is not None and matched.coefficient < 0.0:
        yield Flag("wrong_sign", "its sign is wrong: it climbs the divergence that it should descend")
    yield from probes.swapped(matched)


def _check_row(name: str, matched: Match, variance: float, flags: Sequence[Flag]) -> CheckRow:
    return CheckRow(
        name, matched.says, matched.divergence, matched.kind, matched.coefficient, matched.residual, matched.cosine_kl_pi_ref,
        matched.cosine_kl_ref_pi, variance, matched.step_scale, matched.reward_residual,
        tuple(dict.fromkeys(flag.name for flag in flags)),
    )  # fmt: skip


def _metrics(evaluate: Evaluate, beta: float) -> Iterator[Metric]:
    """What each number that the loss returns beside its value estimates."""
    worlds = {name: world_named(name) for name in METRIC_WORLDS}
    logged = {name: measure(evaluate, world, beta).evaluation.metrics for name, world in worlds.items()}
    for metric in logged["bandit"]:
        values = {name: numbers[metric] for name, numbers in logged.items() if metric in numbers}
        yield identify(metric, values, worlds, beta)
