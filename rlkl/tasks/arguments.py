"""Checks of what a task is built from; each failure names its key, its value and what is allowed."""

import math
from typing import Any

import numpy as np

from rlkl.settings import SettingsError


def number(key: str, value: Any, above: int | float | None = None, at_least: int | float | None = None) -> float:
    """`value` as a finite float within its limits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SettingsError(key, value, "must be a finite number")
    if above is not None and not value > above:
        raise SettingsError(key, value, f"must be above {above:g}")
    if at_least is not None and not value >= at_least:
        raise SettingsError(key, value, f"must be at least {at_least:g}")
    return float(value)


def whole(key: str, value: Any, at_least: int) -> int:
    """`value` as an int of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < at_least:
        raise SettingsError(key, value, f"must be a whole number of at least {at_least}")
    return int(value)


MOST_BYTES = 2**30  # of one table; training holds about ten, in blocks of up to sixteen small ones


def fits(key: str, value: Any, cells: int) -> None:
    """Refuse a table of so many numbers that training on it would not fit a usual machine's memory."""
    if 8 * cells > MOST_BYTES:
        rule = f"a table of it would need {8 * cells / 2**30:.3g} GiB; at most {MOST_BYTES / 2**30:g} GiB are allowed"
        raise SettingsError(key, value, rule)


def choice(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """`value`, one of `allowed`."""
    if value not in allowed:
        raise SettingsError(key, value, "allowed: " + ", ".join(allowed))
    return value


def numbers(key: str, values: Any) -> np.ndarray:
    """A list of finite numbers as Float["n"]."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise SettingsError(key, values, "must be a list of numbers, as in [0.2,0.8]") from None
    if array.ndim != 1 or array.size == 0:
        raise SettingsError(key, values, "must be a list of numbers, as in [0.2,0.8]")
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise SettingsError(key, values, f"entry {at} is {array[at]}; every number must be finite")
    return array


def probabilities(key: str, values: Any) -> np.ndarray:
    """A list of probabilities that sums to 1 (to 1e-6; made exact) as Float["n"]."""
    array = numbers(key, values)
    if (array < 0).any():
        at = int(np.flatnonzero(array < 0)[0])
        raise SettingsError(key, values, f"entry {at} is {array[at]:g}; a probability must be at least 0")
    total = float(array.sum())
    if total == 0.0:
        raise SettingsError(key, values, "all are zero; they must sum to 1")
    if abs(total - 1.0) > 1e-6:
        raise SettingsError(key, values, f"sums to {total:.6g}; must sum to 1")
    return array / total
