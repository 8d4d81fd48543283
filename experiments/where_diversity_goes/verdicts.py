"""What the figure says, as claims that can turn false. Losses are of entropy, in nats; bounds hold for an end of the mean's 95%
interval over seeds where they say so."""

import itertools
import math

import pandas as pd

from experiments.harness.claims import Claim, at_least, at_most
from experiments.where_diversity_goes import shares
from experiments.where_diversity_goes.measured import BETAS, CAUSES, DIRECTIONS
from experiments.where_diversity_goes.numbers import NUMBERS
from experiments.where_diversity_goes.places import SEEDS, TASKS
from experiments.where_diversity_goes.shares import SHOWN, STEPS, VIEWS

PI_REF, REF_PI = DIRECTIONS
SETTINGS = tuple(itertools.product(TASKS, DIRECTIONS))
SURE = "lower end of its 95% interval"


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked; none raises where rows are missing."""
    found = shares.table(drawn)
    return [*_sound(drawn, found), *_data(drawn, found), *_bias(drawn, found), *_estimator(found), *_optimiser(found)]


def _sound(drawn: pd.DataFrame, found: pd.DataFrame) -> list[Claim]:
    """That the penalty alone takes nothing, that what is said to be matched is, that a large beta leaves little to lose."""
    flat = drawn[drawn["series"] == "flat"]
    in_turn = shares.mean(found, "entropy")
    late = [in_turn(*at, "beta 1", step) for at in SETTINGS for step in STEPS]
    kl, reward = (_between(found, name, view) for name, view in (("kl_pi_ref", "equal KL"), ("reward", "equal reward")))
    return [
        at_most(
            "a flat reward: largest KL(pi‖pi_ref) of the optimum, both directions, every beta",
            _largest(flat["kl_pi_ref"], 2 * len(TASKS) * len(BETAS)), 1e-6,
        ),
        at_most("equal KL: largest difference in KL between optima", kl, 0.01),
        at_most("equal E[gold]: largest difference in E[gold] between optima", reward, 0.005),
        at_most("beta 1: largest step, any task, direction, cause", _worst(late), 0.6),
    ]  # fmt: skip


def _data(drawn: pd.DataFrame, found: pd.DataFrame) -> list[Claim]:
    matched = [shares.mean(found, "entropy")(*at, "equal KL", "data") for at in SETTINGS]
    few, many = (_earned(drawn, pairs) for pairs in (100, 10000))
    best = _earned(drawn, math.inf)
    return [
        at_least(
            f"words, KL(pi‖pi_ref), beta .1: lost to finite data, {SURE}",
            _lost(found, ("words", PI_REF, "beta 0.1", "data")), 0.8,
        ),
        at_least(
            f"sentences, KL(pi_ref‖pi), beta .1: lost to finite data, {SURE}",
            _lost(found, ("grammar", REF_PI, "beta 0.1", "data")), 3.0,
        ),
        at_most("equal KL: largest mean step of finite data", _worst(matched), 0.3),
        at_least("words, KL(pi‖pi_ref), beta .1: E[gold] that 100 pairs cost", best - few, 0.25),
        at_most("words, KL(pi‖pi_ref), beta .1: E[gold] that 10,000 pairs cost", best - many, 0.02),
    ]  # fmt: skip


def _bias(drawn: pd.DataFrame, found: pd.DataFrame) -> list[Claim]:
    laid = shares.curves(drawn)
    typical = [_typical(laid, at, (0, 1, 0), beta) - _typical(laid, at, (0, 0, 0), beta) for at in SETTINGS for beta in BETAS]
    at, other = ("grammar", PI_REF), ("grammar", REF_PI)
    alone, in_turn = (shares.mean(found, f"entropy{order}")(*other, "beta 0.1", "bias") for order in (" first", ""))
    early, matched = (_lost(found, (*at, view, "bias")) for view in ("beta 0.1", "equal KL"))
    forward = _lost(found, (*other, "equal KL", "bias"))
    in_equal = [{step: shares.mean(found, "entropy")(*of, "equal KL", step) for step in STEPS} for of in SETTINGS]
    beyond = [_least([steps[step] for step in STEPS if step != "bias"]) - steps["bias"] for steps in in_equal]
    return [
        at_least("equal KL: the bias loses more than any other step, in both tasks and directions, by", _least(beyond), 0.0),
        at_least("bias alone: least gain of E[log pi_ref], every task, direction, beta", _least(typical), 0.0),
        at_least(f"sentences, KL(pi‖pi_ref), beta .1: lost to the bias, {SURE}", early, 1.5),
        at_most(
            "sentences, KL(pi‖pi_ref), beta 1: lost to the bias, upper end of its 95% interval",
            -shares.interval(found, "entropy", (*at, "beta 1", "bias"))[0], 0.5,
        ),
        at_least(f"sentences, KL(pi‖pi_ref), equal KL: lost to the bias, {SURE}", matched, 0.8),
        at_least(f"sentences, KL(pi_ref‖pi), equal KL: lost to the bias, {SURE}", forward, 0.5),
        at_least("sentences, KL(pi_ref‖pi), beta .1: the bias alone loses more than in turn (order), by", in_turn - alone, 4.0),
    ]  # fmt: skip


def _estimator(found: pd.DataFrame) -> list[Claim]:
    none = [shares.mean(found, "entropy")("words", REF_PI, view, "estimator") for view in VIEWS]
    gained = shares.interval(found, "entropy", ("grammar", REF_PI, "beta 0.1", "estimator"))[0]
    lost = _lost(found, ("words", PI_REF, "beta 0.3", "estimator"))
    return [
        at_most("words, KL(pi_ref‖pi): largest step of k3 in the loss (there it is exact)", _worst(none), 1e-6),
        at_least(f"words, KL(pi‖pi_ref), beta .3: lost to k3 in the loss, {SURE}", lost, 1.0),
        at_least(f"sentences, KL(pi_ref‖pi), beta .1: won by k3 in the loss, {SURE}", gained, 3.0),
    ]


def _optimiser(found: pd.DataFrame) -> list[Claim]:
    last, first = (shares.mean(found, f"entropy{order}") for order in ("", " first"))
    at = ("grammar", REF_PI, "beta 0.1", "optimiser")
    late = [last(*of, view, "optimiser") for of in SETTINGS for view in VIEWS]
    others = [first(*of, view, "optimiser") for of in SETTINGS for view in VIEWS if (*of, view) != at[:3]]
    return [
        at_most("optimiser, last: largest step, every task, direction, view", _worst(late), 0.1),
        at_least(
            f"sentences, KL(pi_ref‖pi), beta .1: lost by the optimiser on the gold reward, {SURE}",
            _lost(found, at, " first"), 0.3,
        ),
        at_most("optimiser, on the gold reward: largest step elsewhere", _worst(others), 0.1),
    ]  # fmt: skip


def _lost(found: pd.DataFrame, at: tuple[str, str, str, str], order: str = "") -> float:
    """The lower end of the 95% interval of what a step loses."""
    return -shares.interval(found, f"entropy{order}", at)[1]


def _largest(values: pd.Series, count: int) -> float:
    return float(values.abs().max(skipna=False)) if len(values) == count else math.nan


def _worst(values: list[float]) -> float:
    return float(pd.Series(values, dtype=float).abs().max(skipna=False))


def _least(values: list[float]) -> float:
    return float(pd.Series(values, dtype=float).min(skipna=False))


def _between(found: pd.DataFrame, name: str, view: str) -> float:
    """The largest step of a number between optima that should have it in common."""
    steps = found.loc[(found["view"] == view) & found["step"].isin(CAUSES), name]
    return _largest(steps, len(SETTINGS) * len(CAUSES) * len(SEEDS))


def _typical(laid: shares.Curves, at: tuple[str, str], causes: tuple[int, int, int], beta: float) -> float:
    """E[log pi_ref] of the optimum under causes that no seed decides."""
    curve = shares.exact(laid, *at, causes, SEEDS[0])
    return math.nan if curve is None else float(curve.at(math.log(beta))[NUMBERS.index("typicality")])


def _earned(drawn: pd.DataFrame, pairs: float) -> float:
    """Mean E[gold] of the words' optimum of KL(pi‖pi_ref) at beta .1 with so many pairs, no other cause beside."""
    is_in = (
        (drawn["task"] == "words") & (drawn["direction"] == PI_REF) & (drawn["series"] == "exact") & (drawn["beta"] == SHOWN[0])
    )
    return float(
        drawn.loc[is_in & (drawn["pairs"] == pairs) & (drawn["bias"] == 0) & (drawn["estimator"] == 0), "reward"].mean()
    )
