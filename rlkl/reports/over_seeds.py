"""What several seeds say together: interquartile means with bootstrap intervals (Agarwal et al. 2021, "Deep reinforcement
learning at the edge of the statistical precipice", arXiv 2108.13264).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import trim_mean

from rlkl.errors import SettingsError, nearest

if TYPE_CHECKING:
    import pandas as pd


RESAMPLES, LEVEL = 2000, 0.95
MEASURES = ("regret", "reward", "kl_pi_ref", "entropy")


class Spread(NamedTuple):
    """An interquartile mean, and the ends of its interval: NaN where no group of runs has two."""

    mean: float
    low: float
    high: float


def interquartile_mean(values: Float[np.ndarray, "*B N"]) -> Float[np.ndarray, "*B"]:
    """The mean of the middle half along the last axis (a quarter of N, rounded down, is cut at either end)."""
    return np.asarray(trim_mean(values, 0.25, axis=-1))


def spread(strata: Sequence[Float[np.ndarray, " N"]], seed: int = 0) -> Spread:
    """The interquartile mean over all strata, with a percentile interval from `RESAMPLES` resamples within each stratum."""
    draw, mean = np.random.default_rng(seed), float(interquartile_mean(np.concatenate(strata)))
    if max(map(len, strata)) < 2:
        return Spread(mean, np.nan, np.nan)
    drawn = [values[draw.integers(len(values), size=(RESAMPLES, len(values)))] for values in strata]
    low, high = np.quantile(
        interquartile_mean(np.concatenate(drawn, axis=1)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest"
    )
    return Spread(mean, float(low), float(high))


class Group(NamedTuple):
    """Runs that share these overrides: how many, how many of them diverged, and each measure's spread (None: undefined)."""

    overrides: dict[str, str]
    runs: int
    diverged: int
    spreads: dict[str, Spread | None]


def grouped(summary: "pd.DataFrame", by: Sequence[str] = ()) -> list[Group]:
    """Runs (`rlkl.load(folder).summary`) by these overrides, or else by all but the seed that differ, in the runs' order.

    Runs that differ in another override than the seed are strata of their group. A run that diverged counts as it ended.
    """
    columns = [column for column in summary if column.startswith("override.")]
    given = {column.removeprefix("override."): summary[column].fillna("").astype(str) for column in columns}
    for key in by:
        if key not in given:
            raise SettingsError("summary", key, "no such override in this folder; " + nearest(key, given))
    apart = [key for key in given if key != "seed" and given[key].nunique() > 1]
    shown = list(by) or apart
    found: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}
    for i in range(len(summary)):
        name, stratum = tuple(given[key].iloc[i] for key in shown), tuple(given[key].iloc[i] for key in apart)
        found.setdefault(name, {}).setdefault(stratum, []).append(i)
    return [_group(summary, dict(zip(shown, name, strict=True)), list(strata.values())) for name, strata in found.items()]


def _group(summary, overrides: dict[str, str], strata: list[list[int]]) -> Group:
    spreads: dict[str, Spread | None] = {}
    for measure in MEASURES:
        numbers = np.asarray(summary[measure], float)
        kept = [values for rows in strata if (values := numbers[rows][~np.isnan(numbers[rows])]).size]
        spreads[measure] = spread(kept) if kept else None
    members = [i for rows in strata for i in rows]
    return Group(overrides, len(members), int(summary["diverged_at"].iloc[members].notna().sum()), spreads)
