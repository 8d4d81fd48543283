"""What the figure says, as claims that can turn false."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from experiments.collapse.measured import DIRECTIONS, PORTRAYED, SETTING, TASKS
from experiments.harness.claims import Claim, at_least, at_most
from rlkl import divergences


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked; of each, the worst over tasks, directions and betas that it names."""
    best, exact = _mean(drawn, "optimum"), _mean(drawn, "exact")
    reference = drawn[drawn["series"] == "reference"].set_index("task").reindex(TASKS)
    more = best.sub(reference[list(best)], axis=0, level="task")  # than the reference has
    topic, ending = (more[more.index.get_level_values("task") == task] for task in TASKS)
    rises = more["typicality"].groupby(level=["task", "direction"]).diff()
    regret = drawn.loc[drawn["series"] == "exact", "regret"]
    return [
        at_most("exact training: largest regret", regret.max(skipna=False), 1e-4),
        at_most("exact training: distance of its entropy from the optimum's", _worst(exact - best, "entropy"), 1e-2),
        at_most("optimum, beta 3: distance of its entropy from the reference's", _worst(_at(more, 3.0), "entropy"), 0.06),
        at_least(
            "optimum: its entropy exceeds the reference's at some beta, for each reward and direction, by",
            more["entropy"].groupby(level=["task", "direction"]).max().min(), 0.2,
        ),
        at_most("optimum, topic, beta .03: most entropy below the reference's", -_at(topic, 0.03)["entropy"].min(), 0.6),
        at_least("optimum, topic, beta .03: entropy below the reference's, at least", -_at(topic, 0.03)["entropy"].max(), 0.3),
        at_most("optimum, topic, beta .03: distinct-2 less the reference's", _at(topic, 0.03)["distinct_2"].max(), -0.005),
        at_least("optimum, ending, beta .1: distinct-3 less the reference's", _at(ending, 0.1)["distinct_3"].min(), 0.005),
        at_most("optimum: largest typicality less the reference's (never more typical)", more["typicality"].max(), -0.001),
        at_least("optimum: least step of typicality from a beta to the next (rises with beta)", rises.min(), 0.0),
        at_most("optimum: largest change of the entropy over equally good endings", _worst(more, "mode_entropy"), 1e-6),
        *(claim for task in TASKS for direction in DIRECTIONS for claim in _sampled(drawn, task, direction)),
        *_read_from_numbers(drawn),
    ]  # fmt: skip


def _sampled(drawn: pd.DataFrame, task: str, direction: str) -> list[Claim]:
    """What the sampled optimiser takes beyond its objective, at the smallest beta and at the largest."""
    name = f"rloo, {task}, {divergences.REGISTRY[direction].formula}"
    lost, earned = (_behind(drawn, "rloo", (task, direction, 0.03), column) for column in ("entropy", "reward"))
    late = _behind(drawn, "rloo", (task, direction, 3.0), "entropy")
    return [
        at_least(f"{name}, beta .03: entropy below the optimum's, lower end of its 95% interval", _lower(lost), 1.5),
        at_most(f"{name}, beta .03: reward below the optimum's", earned.max(), 1e-3),
        at_most(f"{name}, beta 3: largest entropy below the optimum's", late.max(), 0.25),
    ]


def _read_from_numbers(drawn: pd.DataFrame) -> list[Claim]:
    """How the sampled loss shows in each number, and that a smaller step returns a part of it."""
    at, columns = ("topic", "kl_pi_ref", 0.03), ("entropy", "distinct_1", "distinct_2")
    seen, best = (pd.Series({key: _of(drawn, series, at, key).mean() for key in columns}) for series in ("rloo", "optimum"))
    reference = drawn[drawn["series"] == "reference"].set_index("task").reindex(TASKS)
    start = reference.loc["topic", "entropy"]
    share, over = (start - best) / (start - seen), seen / best
    beside = _of(drawn, "rloo", ("ending", "kl_pi_ref", 0.1), "distinct_2").mean() / reference["distinct_2"]
    gained = _behind(drawn, "rloo", at, "entropy") - _behind(drawn, "rloo, slow", at, "entropy")
    name = "rloo, topic, KL(pi‖pi_ref), beta .03"
    return [
        at_most(f"{name}: the objective's share of the entropy lost", share["entropy"], 0.2),
        at_least(f"{name}: distinct-2 over the optimum's (hardly sees it)", over["distinct_2"], 0.9),
        at_least(f"{name}: distinct-1 over the optimum's (rises: shorter)", over["distinct_1"], 1.1),
        at_least(
            "rloo, ending, KL(pi‖pi_ref), beta .1: distinct-2 over the reference's (rises, while entropy falls)",
            beside["ending"], 1.05,
        ),
        at_least(f"{name}: entropy that a tenth of the step returns, lower end of its 95% interval", _lower(gained), 0.5),
    ]  # fmt: skip


def _mean(drawn: pd.DataFrame, series: str) -> pd.DataFrame:
    """The numbers of a series by task, direction and beta."""
    return drawn[drawn["series"] == series].groupby(SETTING)[["reward", *PORTRAYED]].mean()


def _at(numbers: pd.DataFrame, beta: float) -> pd.DataFrame:
    return numbers[np.isclose(numbers.index.get_level_values("beta").astype(float), beta)]


def _worst(numbers: pd.DataFrame, column: str) -> float:
    return numbers[column].abs().max(skipna=False)


def _of(drawn: pd.DataFrame, series: str, at: tuple[str, str, float], column: str) -> pd.Series:
    """A column of a series at a setting, a value a seed."""
    task, direction, beta = at
    found = drawn[(drawn["series"] == series) & (drawn["task"] == task) & (drawn["direction"] == direction)]
    return found.loc[np.isclose(found["beta"].astype(float), beta), column].reset_index(drop=True)


def _behind(drawn: pd.DataFrame, series: str, at: tuple[str, str, float], column: str) -> pd.Series:
    """How far each seed lies below the optimum."""
    return _of(drawn, "optimum", at, column).mean() - _of(drawn, series, at, column)


def _lower(values: pd.Series) -> float:
    """The lower end of the 95% interval of a mean over seeds (Student's t)."""
    n = values.count()
    return float(values.mean() - stats.t.ppf(0.975, n - 1) * values.sem()) if n > 1 else math.nan
