"""Each cause's share: differences between the policies of the table, at one beta, at one KL and at one gold reward."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.interpolate import PchipInterpolator

from experiments.where_diversity_goes.measured import CAUSES, DIRECTIONS
from experiments.where_diversity_goes.numbers import NUMBERS
from experiments.where_diversity_goes.places import PAIRS, SEEDS, TASKS

STEPS = ("reward", *CAUSES, "optimiser")  # in the order of the waterfall
SHOWN = (0.1, 0.3, 1.0)  # betas at which runs are trained
YARDSTICK = 0.3  # the gold optimum of KL(pi‖pi_ref) at this beta has the KL, and the reward, at which others are matched
VIEWS = (*(f"beta {beta:g}" for beta in SHOWN), "equal KL", "equal reward")
ROUNDING = 1e-9  # by which two logarithms of one beta may differ
FINE = 501  # points on which a curve over beta is searched for the matched value
KEYS = ["task", "direction", "view", "step", "seed"]


class Curve(NamedTuple):
    """A policy's numbers over log beta; seed by seed."""

    log_beta: np.ndarray
    numbers: np.ndarray

    def at(self, log_beta: float | np.ndarray) -> np.ndarray:
        """A monotone cubic between the betas that were computed; NaN outside of them."""
        ends = self.log_beta[[0, -1]]
        kept = np.clip(log_beta, *ends)
        inside = np.abs(kept - log_beta) < ROUNDING
        return np.where(inside[..., None], PchipInterpolator(self.log_beta, self.numbers, axis=0)(kept), math.nan)

    def where(self, name: str, wanted: float) -> float:
        """The largest log beta at which a number takes this value, NaN where it never does."""
        fine = np.linspace(self.log_beta[0], self.log_beta[-1], FINE)
        over = self.at(fine)[:, NUMBERS.index(name)] - wanted
        crossed = np.flatnonzero((over[:-1] >= 0.0) != (over[1:] >= 0.0))
        if not crossed.size:
            return math.nan
        i = crossed[-1]
        return float(fine[i] + (fine[i + 1] - fine[i]) * over[i] / (over[i] - over[i + 1]))


Curves = dict[tuple, Curve]


def curves(drawn: pd.DataFrame) -> Curves:
    """By task, direction, series, causes, and the seed where one decides."""
    main = drawn[~((drawn["data"] == 1) & (drawn["pairs"] != PAIRS)) & drawn["series"].isin(["exact", "trained"])]
    by = ["task", "direction", "series", *CAUSES, "seed"]
    found = {}
    for (task, direction, series, *causes, seed), rows in main.groupby(by, dropna=False):
        rows = rows.sort_values("beta")
        key = task, direction, series, tuple(map(int, causes)), None if math.isnan(seed) else int(seed)
        if len(rows) > 1:
            found[key] = Curve(np.log(rows["beta"].to_numpy()), rows[list(NUMBERS)].to_numpy())
    return found


def table(drawn: pd.DataFrame) -> pd.DataFrame:
    """A row a task, direction, view, step and seed. Of each number: NUMBER, the step's share in the waterfall's order; NUMBER
    first, its share where it comes first after the reward; NUMBER last, where it comes last of all.

    In a view of equal KL or reward each policy stands at the beta that gives it the KL(pi‖pi_ref), or E[gold], of the
    yardstick, read off its curve over beta; the optimiser's share is the one at that beta, between the trained ones.
    """
    laid = curves(drawn)
    of = drawn[drawn["series"] == "reference"].set_index("task")[list(NUMBERS)]
    rows = [
        row
        for task in TASKS
        for direction in DIRECTIONS
        for seed in SEEDS
        for view in VIEWS
        for row in (_steps(laid, of.loc[task].to_numpy(), task, direction, view, seed) if task in of.index else ())
    ]
    orders = [f"{name}{order}" for name in NUMBERS for order in ("", " first", " last")]
    return pd.DataFrame(rows, columns=[*KEYS, *orders])


def _steps(laid: Curves, start: np.ndarray, task: str, direction: str, view: str, seed: int) -> list[dict]:
    lost = np.full(len(NUMBERS), math.nan)

    @cache
    def level(*causes: int) -> np.ndarray:
        """The numbers of the optimum under these causes (data, bias, estimator), in this view."""
        curve = exact(laid, task, direction, causes, seed)
        return lost if curve is None else curve.at(stand(laid, task, view, curve))

    def trained(*causes: int) -> np.ndarray:
        """What training adds to those numbers."""
        curve, run = exact(laid, task, direction, causes, seed), laid.get((task, direction, "trained", causes, seed))
        if curve is None or run is None:
            return lost
        return Curve(run.log_beta, run.numbers - curve.at(run.log_beta)).at(stand(laid, task, view, curve))

    none, every = (0, 0, 0), (1, 1, 1)
    shares = {"reward": (level(*none) - start,) * 3, "optimiser": (trained(*every), trained(*none), trained(*every))}
    for i, cause in enumerate(CAUSES):
        before, alone, rest = ((*every[:i], *none[i:]), _flip(none, i), _flip(every, i))
        in_turn = level(*_flip(before, i)) - level(*before)
        shares[cause] = (in_turn, level(*alone) - level(*none), level(*every) - level(*rest))
    known = {"task": task, "direction": direction, "view": view, "seed": seed}
    return [known | {"step": step} | _named(shares[step]) for step in STEPS]


def _flip(causes: tuple[int, ...], i: int) -> tuple[int, ...]:
    return (*causes[:i], 1 - causes[i], *causes[i + 1 :])


def _named(shares: tuple[np.ndarray, ...]) -> dict[str, float]:
    orders = zip(("", " first", " last"), shares, strict=True)
    return {f"{name}{order}": float(value) for order, of in orders for name, value in zip(NUMBERS, of, strict=True)}


def stand(laid: Curves, task: str, view: str, curve: Curve) -> float:
    """The log beta at which a policy stands in a view."""
    if view.startswith("beta"):
        return math.log(float(view.removeprefix("beta ")))
    name = {"equal KL": "kl_pi_ref", "equal reward": "reward"}[view]
    yardstick = exact(laid, task, "kl_pi_ref", (0, 0, 0), SEEDS[0])
    return math.nan if yardstick is None else curve.where(name, yardstick.at(math.log(YARDSTICK))[NUMBERS.index(name)])


def exact(laid: Curves, task: str, direction: str, causes: tuple[int, ...], seed: int) -> Curve | None:
    """The optimum under these causes (data, bias, estimator)."""
    return laid.get((task, direction, "exact", causes, seed if causes[0] else None))


def mean(shares: pd.DataFrame, column: str) -> Callable[..., float]:
    """Looks a mean over seeds up by task, direction, view and step; NaN where there is none, or a seed has none."""
    found = shares.groupby(KEYS[:-1])[column].agg(lambda values: values.mean(skipna=False))
    return lambda *at: float(found.get(at, math.nan))


def interval(shares: pd.DataFrame, column: str, at: tuple[str, str, str, str]) -> tuple[float, float]:
    """The 95% interval of a mean over seeds (Student's t); NaN where a seed is missing or has none."""
    found = shares.loc[(shares[KEYS[:-1]] == list(at)).all(axis=1), column]
    if len(found) < len(SEEDS):
        return math.nan, math.nan
    middle, reach = found.mean(skipna=False), stats.t.ppf(0.975, len(found) - 1) * found.sem(skipna=False)
    return float(middle - reach), float(middle + reach)
