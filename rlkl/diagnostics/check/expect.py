"""Compare a check's report with what its user expects, and the assertion for a user's own tests."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlkl.diagnostics.check.check import check_loss
from rlkl.diagnostics.check.report import CheckRow, Report
from rlkl.diagnostics.check.worlds import WORLDS
from rlkl.divergences import f_divergences
from rlkl.errors import SettingsError, nearest

ON_POLICY = tuple(
    name for name in WORLDS if name != "sampler"
)  # the worlds that an expectation is about, unless others are named
FAULTS = (
    "not_finite",
    "detached",
    "absent",
    "wrong_sign",
    "swapped",
    "padding",
    "clamped",
    "shifted",
    "wrong_token",
    "temperature",
)
SEMI, NOTHING = "semi_", "nothing"
BANDITS = ("bandit", "extreme", "sampler")


def assert_descends(
    loss: Callable[..., Any] | str,
    expected: str,
    *,
    coefficient: float | None = None,
    worlds: Sequence[str] = ON_POLICY,
    **options: Any,
) -> None:
    """Raise `AssertionError` unless the penalty of a loss descends what is expected, in every world.

    expected: a divergence's name (its gradient), `semi_` and a name (its gradient on bandits, its semi-gradient on sequences)
    or `nothing`. coefficient: what beta must be worth, over beta; by default any positive number. options: of `check_loss`.
    """
    checked = check_loss(loss, worlds=worlds, **options)
    misses = list(differences(checked, expected, worlds, coefficient))
    if misses:
        raise AssertionError(f"{checked.loss} does not descend {expected}: {'; '.join(misses)}")


def differences(
    report: Report, expected: str, worlds: Sequence[str] = ON_POLICY, coefficient: float | None = None
) -> Iterator[str]:
    """A sentence for each world in which a loss does not descend what is expected."""
    name = expected.removeprefix(SEMI)
    allowed = [*f_divergences(), *(SEMI + each for each in f_divergences()), NOTHING]
    if expected not in allowed:
        raise SettingsError("expect", expected, nearest(expected, allowed))
    for row in report.rows:
        if row.world not in worlds:
            continue
        if expected == NOTHING:
            if row.kind != "inert":
                yield f"{row.world}: {row.descends}"
            continue
        faults = [flag for flag in row.flags if flag in FAULTS]
        if row.divergence != name or row.kind != _kind(row, expected.startswith(SEMI)):
            yield f"{row.world}: {row.descends}"
        elif row.coefficient <= 0.0 or (
            coefficient is not None and not math.isclose(row.coefficient, coefficient, rel_tol=1e-5)
        ):
            yield f"{row.world}: beta is worth {row.coefficient:.4g} times beta"
        elif faults:
            yield f"{row.world}: {', '.join(faults)}"


def _kind(row: CheckRow, semi: bool) -> str:
    is_bandit = row.world in BANDITS or (row.world.startswith("groups") and not row.world.endswith("unequal"))
    return "semi" if semi and not is_bandit else "exact"
