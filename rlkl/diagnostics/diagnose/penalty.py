"""What the user's penalty does on the tokens of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rlkl.diagnostics.diagnose.measures import groups, pull
from rlkl.diagnostics.diagnose.measures.estimates import Estimate
from rlkl.diagnostics.diagnose.measures.run import Further, Run
from rlkl.diagnostics.diagnose.measures.sequence_sums import TokenValues
from rlkl.diagnostics.diagnose.reading.chunk import Chunk
from rlkl.diagnostics.diagnose.setting import Setting, nearest_exact, resolve_setting


class Coefficient(NamedTuple):
    """A coefficient and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Penalty:
    """What the user's penalty does on these tokens.

    pulls: how hard it pulls towards the reference, beside the gradients of divergences (see `measures.pull`). scale: the
    factor of the reward's gradient in its step; None without rewards. coefficient: the coefficient of the named divergence that
    pulls as hard, beside rewards as they are. nearest: settings that descend what the name says.
    """

    setting: Setting
    pulls: pd.DataFrame
    scale: Estimate | None
    coefficient: Coefficient | None
    nearest: list[str]


def known_setting(overrides: Sequence[str], library: str | None) -> Setting:
    """The setting of overrides; raises `SettingsError` also for an estimator whose score weights are not known."""
    setting = resolve_setting(overrides, library)
    pull.check_estimator(setting.penalty)
    return setting


def pull_columns(setting: Setting) -> Further:
    """The function that returns the pulls of a chunk's sequences; nothing without log-ratios to the reference."""

    def columns(chunk: Chunk, tokens: TokenValues) -> dict[str, np.ndarray]:
        return {} if tokens.u is None else pull.pulls(setting.penalty, chunk, tokens)

    return columns


def pull_rows(run: Run, setting: Setting) -> list[pull.PullRow]:
    """The pulls on a run's tokens; an empty list where they are not the policy's or the sampler's."""
    if not run.has(pull.MINE) or run.sampled_from == "reference":
        return []
    return pull.pull_rows(run, setting.penalty, setting.aggregation)


def describe_penalty(run: Run, setting: Setting, pulls: list[pull.PullRow]) -> Penalty:
    """The penalty, with the coefficient that it is worth on the run's tokens, and the nearest settings that are exact."""
    scale = groups.advantage_scale(run, setting.algorithm)
    row = next((row for row in pulls if row.gradient == setting.wanted and row.kind == "exact"), None)
    coefficient = None if row is None else _coefficient(setting, row, scale)
    nearest = [] if setting.descends.kind == "exact" else nearest_exact(setting)
    return Penalty(setting, pd.DataFrame(pulls, columns=list(pull.PullRow._fields)), scale, coefficient, nearest)


def _coefficient(setting: Setting, row: pull.PullRow, scale: Estimate | None) -> Coefficient | None:
    """What beta is worth; None for infinite pulls, and where advantages do not follow rewards by 2 standard errors."""
    if not math.isfinite(row.ratio):
        return None
    factor = 1.0
    if scale is not None and setting.penalty.placement == "loss":
        if not scale.value > 2.0 * scale.stderr:
            return None
        factor = scale.value
    beta = float(setting.penalty.beta)
    return Coefficient(beta * row.ratio / factor, beta * row.ratio_stderr / factor)
