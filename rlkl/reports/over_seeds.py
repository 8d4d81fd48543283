"""Summarise runs over seeds by interquartile means with bootstrap intervals.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", arXiv 2108.13264.
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
    """An interquartile mean and the ends of its interval, which are NaN if no stratum has two runs."""

    mean: float
    low: float
    high: float


def interquartile_mean(values: Float[np.ndarray, "*B N"]) -> Float[np.ndarray, "*B"]:
    """Return the mean of the middle half along the last axis: a quarter of N, rounded down, is cut at either end."""
    return np.asarray(trim_mean(values, 0.25, axis=-1))


def spread(strata: Sequence[Float[np.ndarray, " N"]], seed: int = 0) -> Spread:
    """Return the interquartile mean over all strata with a percentile bootstrap interval, resampled within each stratum."""
    rng, mean = np.random.default_rng(seed), float(interquartile_mean(np.concatenate(strata)))
    if max(map(len, strata)) < 2:
        return Spread(mean, np.nan, np.nan)
    resamples = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))] for values in strata]
    means = interquartile_mean(np.concatenate(resamples, axis=1))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Spread(mean, float(low), float(high))


class Group(NamedTuple):
    """Runs that share overrides: their number, how many diverged, and the spread of each measure (None if undefined)."""

    overrides: dict[str, str]
    runs: int
    diverged: int
    spreads: dict[str, Spread | None]


def group_runs(summary: "pd.DataFrame", by: Sequence[str] = ()) -> list[Group]:
    """Group runs by overrides and summarise each group over its seeds.

    summary: as `rlkl.load(folder).summary`. by: keys of overrides; without any, all that differ between the runs, but the seed.
    Runs of a group that differ in another override than the seed are strata. A run that diverged counts with its last values.
    """
    columns = [column for column in summary if column.startswith("override.")]
    overrides = {column.removeprefix("override."): summary[column].fillna("").astype(str) for column in columns}
    for key in by:
        if key not in overrides:
            raise SettingsError("summary", key, "no such override in this folder; " + nearest(key, overrides))
    varied = [key for key in overrides if key != "seed" and overrides[key].nunique() > 1]
    by = list(by) or varied
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}
    for i in range(len(summary)):
        name, stratum = tuple(overrides[key].iloc[i] for key in by), tuple(overrides[key].iloc[i] for key in varied)
        groups.setdefault(name, {}).setdefault(stratum, []).append(i)
    return [_group(summary, dict(zip(by, name, strict=True)), list(strata.values())) for name, strata in groups.items()]


def _group(summary, overrides: dict[str, str], strata: list[list[int]]) -> Group:
    spreads: dict[str, Spread | None] = {}
    for measure in MEASURES:
        numbers = np.asarray(summary[measure], float)
        defined = [values for rows in strata if (values := numbers[rows][~np.isnan(numbers[rows])]).size]
        spreads[measure] = spread(defined) if defined else None
    members = [i for rows in strata for i in rows]
    return Group(overrides, len(members), int(summary["diverged_at"].iloc[members].notna().sum()), spreads)
