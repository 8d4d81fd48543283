"""The rows of the experiment: paths of optima for the curves, single policies for the claims, and sampled arms."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy

from experiments.goodhart import optima
from experiments.goodhart.optima import Arms, Point

DEPTHS = (1e-6, 1e-12, 1e-24)
DRAWN = 1e-12  # of these, the one whose methods are compared
NORMAL: dict[str, Any] = {"error": "normal", "error_scale": 3**0.5}  # the variance of a Student t with 3 degrees
DRAWS, SEEDS = 100_000, 10
BEST_OF = tuple(2**k for k in range(21))
CLIPS = (0.9, 0.99, 0.999)
COLUMNS = [
    "panel",
    "method",
    "distribution",
    "tail",
    *Point._fields,
    "seed",
    "steps",
    "proxy",
    "optimum_proxy",
    "optimum_gold",
    "optimum_kl_pi_ref",
    "regret",
]


def row(panel: str, method: str, distribution: str, tail: float, point: Point, **more: Any) -> dict[str, Any]:
    """A row of the table. distribution: of the error; `error` is its mean under the policy."""
    about = {"panel": panel, "method": method, "distribution": distribution, "tail": tail}
    return about | point._asdict() | {"proxy": point.proxy} | more


def exact(quick: bool) -> pd.DataFrame:
    """Curves and single policies; reduced: on few arms."""
    size = {"gold_size": 16, "error_size": 100} if quick else {}
    rows = [row("raised tail", "raised", "student_t", 0.0, optima.raised_tail(t, 0.8, 3.0)) for t in (1e2, 1e4, 1e6)]
    rows += _of(optima.arms(**NORMAL, **size), "normal", 1e-12)
    for tail in DEPTHS:
        over = optima.arms(tail=tail, **size)
        rows += _of(over, "student_t", tail) + _under_pearson(over, "student_t", tail)
        rows += _under_pearson(optima.arms(degrees=1.5, tail=tail, **size), "student_t, 1.5", tail)
        if tail == DRAWN:
            rows += _matched(over)
    return pd.DataFrame([*rows, *(_sampled(1, 1_000) if quick else _sampled(SEEDS, DRAWS))])


def _of(over: Arms, distribution: str, tail: float) -> list[dict[str, Any]]:
    """All rows of KL(pi‖pi_ref), KL(pi_ref‖pi) and best of n on these arms, and the moments of the arms."""
    rewards = {"kl_pi_ref": None, "posterior": posterior_mean(over.proxy, distribution)}
    rewards |= {f"clipped {quantile:g}": _clipped(over, quantile) for quantile in CLIPS}
    at_a_nat = {name: optima.kl_pi_ref_at(over, "kl_pi_ref", 1.0, reward) for name, reward in rewards.items()}
    rows = [row("1 nat", name, distribution, tail, point) for name, point in at_a_nat.items()]
    half_way = optima.kl_pi_ref_at(over, "kl_pi_ref", -0.5 * float(np.log(tail)))
    singles = {("threshold", "kl_pi_ref"): half_way, ("beta 1", "kl_pi_ref"): optima.under_kl_pi_ref(over, 1.0),
               ("tenth of a nat", "kl_ref_pi"): optima.kl_ref_pi_at(over, 0.1)}  # fmt: skip
    rows += [row(panel, method, distribution, tail, point) for (panel, method), point in singles.items()]
    for panel, power in (("mean", 1), ("variance", 2)):
        moments = [optima.mean(over.reference, values**power) for values in (over.gold, over.error)]
        rows.append(row(panel, "reference", distribution, tail, Point(0.0, moments[0], moments[1], 0.0, 0.0, 0.0)))
    return rows + _curves(over, distribution, tail)


def _curves(over: Arms, distribution: str, tail: float) -> list[dict[str, Any]]:
    """Optima over the strength of each method; of chi-square and of a clipped proxy at one tail."""
    # At this beta the largest error is worth its reference probability, and the optimum goes over to it.
    threshold = float(over.error.max() / -np.log(tail))
    betas = np.geomspace(0.15, 60.0, 30)
    if distribution != "normal":
        betas = np.concatenate(
            [betas[betas < 0.6 * threshold], threshold * np.linspace(0.7, 1.6, 37), threshold * np.geomspace(1.7, 20.0, 10)]
        )
    points = [("kl_pi_ref", optima.under_kl_pi_ref(over, beta)) for beta in betas]
    points += [("best of n", optima.best_of(over, n)) for n in BEST_OF]
    if tail == DRAWN:
        points += [("pearson", optima.under_pearson(over, lowest)) for lowest in np.sinh(np.linspace(-4.5, 5.5, 41))
                   if lowest < over.proxy.max()]  # fmt: skip
        clipped = _clipped(over, CLIPS[0])
        points += [("clipped 0.9", optima.under_kl_pi_ref(over, beta, clipped)) for beta in np.geomspace(0.05, 40.0, 30)]
    return [row("curve", method, distribution, tail, point) for method, point in points]


def _under_pearson(over: Arms, distribution: str, tail: float) -> list[dict[str, Any]]:
    """Optima under chi-square at KL(pi‖pi_ref) of half a nat, at beta 10, and at a chi-square of a half."""
    at = {"half a nat": ("kl_pi_ref", 0.5), "beta 10": ("strength", 10.0), "budget": ("pearson", 0.5)}
    return [row(panel, "pearson", distribution, tail, optima.pearson_at(over, *value)) for panel, value in at.items()]


def _matched(over: Arms) -> list[dict[str, Any]]:
    """Best of 16, and the optima under both penalties at its KL(pi‖pi_ref) and at its proxy."""
    best = optima.best_of(over, 16)
    rows = [row("best of 16", "best of n", "student_t", DRAWN, best)]
    for panel, column in (("same KL", "kl_pi_ref"), ("same proxy", "proxy")):
        for method, solve in (("kl_pi_ref", optima.kl_pi_ref_at), ("pearson", optima.pearson_at)):
            rows.append(row(panel, method, "student_t", DRAWN, solve(over, column, getattr(best, column))))
    return rows


def _clipped(over: Arms, quantile: float) -> np.ndarray:
    """The proxy, clipped at a quantile of the reference's."""
    order = np.argsort(over.proxy, kind="stable")
    place = np.searchsorted(np.cumsum(over.reference[order]), quantile)
    return np.minimum(over.proxy, over.proxy[order][place])


def posterior_mean(proxy: np.ndarray, distribution: str) -> np.ndarray:
    """E[gold | proxy] of a standard normal gold reward and an error of the continuous distribution, by quadrature."""
    gold = np.linspace(-9.0, 9.0, 361)
    error = scipy.stats.norm(scale=NORMAL["error_scale"]) if distribution == "normal" else scipy.stats.t(df=3.0)
    knots = np.sinh(np.linspace(-40.0, 40.0, 2001))
    log_weight = error.logpdf(knots[:, None] - gold) - 0.5 * gold**2
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return np.interp(proxy, knots, (weight @ gold) / weight.sum(axis=1))


def _sampled(seeds: int, draws: int) -> Iterable[dict[str, Any]]:
    """The optimum under KL(pi_ref‖pi) of a tenth of a nat on arms that were drawn, all of one reference probability."""
    for name, error in (("student_t", scipy.stats.t(df=3.0)), ("normal", scipy.stats.norm(scale=NORMAL["error_scale"]))):
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            drawn = Arms(random.normal(size=draws), error.rvs(size=draws, random_state=random), np.full(draws, 1.0 / draws))
            yield row("drawn arms", "kl_ref_pi", name, 1.0 / draws, optima.kl_ref_pi_at(drawn, 0.1), seed=seed)
