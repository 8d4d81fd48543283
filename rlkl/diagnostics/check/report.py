"""The report of a check: its rows, and those flags that a row's match decides."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rlkl.diagnostics.check import probes
from rlkl.diagnostics.check.matching import NOT_FINITE, Match
from rlkl.diagnostics.check.metrics import Metric
from rlkl.diagnostics.check.probes import Curve, Flag

BIASED = 1e-3  # relative residual above which a step without a penalty is not the reward's gradient
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


def direction_flags(matched: Match) -> Iterator[Flag]:
    """Flags that the match alone decides: the sign, exchanged arguments, numbers that are not finite."""
    if matched.says == NOT_FINITE:
        yield Flag("not_finite", "its gradient is not finite on some batches, for instance where all samples are the same")
    if matched.divergence is not None and matched.coefficient < 0.0:
        yield Flag("wrong_sign", "its sign is wrong: it climbs the divergence that it should descend")
    if matched.reward_residual > BIASED:
        yield Flag(
            "biased_reward", "without the penalty the step is not the gradient of the expected reward: see reward_residual"
        )
    yield from probes.swapped(matched)


def group_flags(population: Match, of_groups: Match) -> Iterator[Flag]:
    """Whether groups of a size have another gradient than the population."""
    same = (population.divergence, population.kind, population.says) == (of_groups.divergence, of_groups.kind, of_groups.says)
    if of_groups.says == NOT_FINITE or (
        same and math.isclose(population.coefficient, of_groups.coefficient, rel_tol=UNIFORM, abs_tol=UNIFORM)
    ):
        return
    yield Flag("group_dependent", "what it descends, or its coefficient, depends on the number of samples in a group")


def check_row(name: str, matched: Match, variance: float, flags: Sequence[Flag]) -> CheckRow:
    """The row of a match."""
    return CheckRow(
        name, matched.says, matched.divergence, matched.kind, matched.coefficient, matched.residual, matched.cosine_kl_pi_ref,
        matched.cosine_kl_ref_pi, variance, matched.step_scale, matched.reward_residual,
        tuple(dict.fromkeys(flag.name for flag in flags)),
    )  # fmt: skip
