"""Long tables: a row a point, so that every experiment's numbers have the same columns."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

COLUMNS = ["panel", "series", "x", "y", "error"]
Row = tuple[str, str, float, float, float]


def points(panel: str, series: str, x: Iterable, y: Iterable, error: Iterable | float = 0.0) -> list[Row]:
    """A series as rows; error: of each y, a standard error where it was sampled and 0 where it is exact."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    errors = np.broadcast_to(np.asarray(error, float), x.shape)
    return [(panel, series, *row) for row in zip(x.tolist(), y.tolist(), errors.tolist(), strict=True)]


def frame(rows: list[Row]) -> pd.DataFrame:
    """The table of these rows."""
    return pd.DataFrame(rows, columns=COLUMNS)


def of(drawn: pd.DataFrame, panel: str, series: str) -> pd.DataFrame:
    """One series, in the order of its rows."""
    return drawn[(drawn["panel"] == panel) & (drawn["series"] == series)]


def names(drawn: pd.DataFrame, panel: str) -> list[str]:
    """The series of a panel, in the order of their rows."""
    return list(dict.fromkeys(drawn.loc[drawn["panel"] == panel, "series"]))


def value(drawn: pd.DataFrame, panel: str, series: str, x: float | None = None) -> float:
    """The first y of a series (at x, where that is given); NaN where there is none."""
    found = of(drawn, panel, series)
    if x is not None:
        found = found[np.isclose(found["x"], x)]
    return float(found["y"].iloc[0]) if len(found) else math.nan


def largest(values: Iterable[float]) -> float:
    """The largest value; NaN, which no bound holds of, where one is NaN or there is none."""
    found = np.asarray(list(values), float)
    return float(found.max()) if found.size else math.nan


def smallest(values: Iterable[float]) -> float:
    """The smallest value; NaN where one is NaN or there is none."""
    return -largest(-value for value in values)


def ratio(first: float, second: float) -> float:
    """first/second; NaN where that is not defined."""
    return first / second if second else math.nan


def slope(found: pd.DataFrame) -> float:
    """The least-squares slope of log y over log x; NaN of fewer than two different x or where a logarithm is not finite."""
    x, y = found["x"].to_numpy(float), found["y"].to_numpy(float)
    if len(np.unique(x)) < 2 or not (np.isfinite(x * y) & (x > 0.0) & (y > 0.0)).all():
        return math.nan
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
