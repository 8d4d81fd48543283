"""What the figure says, checked."""

import math

import pandas as pd

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near

BAD, BEST = "bad arms covered", "best arm covered"


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Claims on poorly covered bad arms, on a poorly covered best arm, on beta, on a ridge, and on trained policies."""
    return [*_of_bad_arms(drawn), *_of_best_arm(drawn), *_of_beta(drawn), *_of_ridge(drawn), *_of_runs(drawn)]


def _lost(drawn: pd.DataFrame, panel: str, method: str, coverage: float) -> float:
    return series.value(drawn, f"{panel}, lost at the best beta", method, coverage)


def _most(drawn: pd.DataFrame, panel: str, method: str) -> float:
    return series.largest(series.of(drawn, f"{panel}, lost at the best beta", method)["y"])


def _of_bad_arms(drawn: pd.DataFrame) -> list[Claim]:
    reference, dpo, chi = (
        series.value(drawn, "bad, reference", "lost", 0.01),
        _lost(drawn, "bad", "DPO", 0.01),
        _lost(drawn, "bad", "χPO", 0.01),
    )
    even = [_lost(drawn, "bad", method, 0.5) for method in ("DPO", "χPO")]
    return [
        at_least(f"{BAD} by 1%: gold reward lost by DPO at its best beta", dpo, 0.3),
        at_most(f"{BAD} by 1%: gold reward lost by χPO at its best beta", chi, 0.1),
        at_least(f"{BAD} by 1%: DPO's loss over χPO's, each at its best beta", series.ratio(dpo, chi), 3.0),
        at_most(f"{BAD} by 1%: what the best DPO recovers of the reference's loss", 1.0 - series.ratio(dpo, reference), 0.15),
        at_least(f"{BAD} by 1%: what the best χPO recovers of the reference's loss", 1.0 - series.ratio(chi, reference), 0.7),
        at_most(f"{BAD} by 50 to .1%: largest loss of χPO at its best beta", _most(drawn, "bad", "χPO"), 0.1),
        at_most(f"{BAD} by 50%: larger loss of the two at their best beta", series.largest(even), 1e-9),
        at_least(f"{BAD} by .1%: DPO's loss over χPO's, each at its best beta",
                 series.ratio(_lost(drawn, "bad", "DPO", 0.001), _lost(drawn, "bad", "χPO", 0.001)), 10.0),
        at_least(f"{BAD} by 1%: share of data sets on which the pairs' likelihood has no maximum",
                 series.value(drawn, "bad, separated", "share", 0.01), 0.95),
        near(f"{BAD} by 1%: share of data sets in which a bad arm was compared and never lost",
             series.value(drawn, "bad, a bad arm never lost", "share", 0.01), 0.57, 0.1),
    ]  # fmt: skip


def _of_best_arm(drawn: pd.DataFrame) -> list[Claim]:
    found = series.of(drawn, "best, lost at the best beta", "χPO")
    other = series.of(drawn, "best, lost at the best beta", "DPO")
    apart = [abs(_lost(drawn, "best", "DPO", x) - _lost(drawn, "best", "χPO", x)) for x in found["x"]]
    rare = found[found["x"] <= 0.03]
    return [
        at_most(f"{BEST} by 50 to .1%: largest difference of both losses at their best betas", series.largest(apart), 0.005),
        at_least(f"{BEST} by .1%: gold reward lost by χPO at its best beta", _lost(drawn, "best", "χPO", 0.001), 0.2),
        at_most(f"{BEST} by 10%: gold reward lost by χPO at its best beta", _lost(drawn, "best", "χPO", 0.1), 0.001),
        near(f"{BEST} by 3 to .1%: slope of log χPO's loss over log 1/coverage", -series.slope(rare), 0.6, 0.15),
        near(f"{BEST} by 3 to .1%: slope of log DPO's loss over log 1/coverage",
             -series.slope(other[other["x"] <= 0.03]), 0.6, 0.15),
    ]  # fmt: skip


def _of_beta(drawn: pd.DataFrame) -> list[Claim]:
    chi, dpo = (series.of(drawn, "over beta", method) for method in ("χPO", "DPO"))
    reference = series.value(drawn, "bad, reference", "lost", 0.01)
    good = chi[chi["y"] < 0.5 * reference]["x"]
    return [
        at_least(f"{BAD} by 1%: gold reward lost by χPO at beta .001", series.value(drawn, "over beta", "χPO", 1e-3), 0.6),
        at_least(f"{BAD} by 1%: χPO's loss at beta .001 over the reference's",
                 series.ratio(series.value(drawn, "over beta", "χPO", 1e-3), reference), 1.5),
        at_least(f"{BAD} by 1%: least beta at which χPO halves the reference's loss", series.smallest(good), 0.015),
        at_most(f"{BAD} by 1%: largest beta at which χPO halves the reference's loss", series.largest(good), 0.15),
        at_least(f"{BAD} by 1%: gold reward lost by DPO at any beta, in parts of the reference's",
                 series.ratio(series.smallest(dpo["y"]), reference), 0.85),
    ]  # fmt: skip


def _of_ridge(drawn: pd.DataFrame) -> list[Claim]:
    low = series.of(drawn, "over beta", "ridge 10")
    return [
        at_most(f"{BAD} by 1%: gold reward lost by KL(pi‖pi_ref) on a reward fitted with ridge 10, at its best beta",
                _lost(drawn, "bad", "ridge 10", 0.01), 0.005),
        at_most(f"{BAD} by 1%: largest loss of KL(pi‖pi_ref) on a reward fitted with ridge 10, betas up to .05",
                series.largest(low[low["x"] <= 0.05]["y"]), 0.02),
        at_most(f"{BAD} by 50 to .1%: largest loss of KL(pi‖pi_ref) on a reward fitted with ridge 10",
                _most(drawn, "bad", "ridge 10"), 0.005),
        at_least(f"{BEST} by .3%: loss of KL(pi‖pi_ref) on a reward fitted with ridge 10 over χPO's",
                 series.ratio(_lost(drawn, "best", "ridge 10", 0.003), _lost(drawn, "best", "χPO", 0.003)), 2.0),
    ]  # fmt: skip


def _of_runs(drawn: pd.DataFrame) -> list[Claim]:
    apart = []
    for method in ("DPO", "χPO"):
        for beta in (0.1, 1.0):
            ran = series.of(drawn, "trained", method)
            ran = ran[ran["x"] == beta]
            curve = series.of(drawn, "over beta", method)
            curve = curve[(curve["x"] / beta - 1.0).abs() < 1e-6]
            if len(ran) and len(curve):
                both = math.hypot(ran["error"].iloc[0], curve["error"].iloc[0])
                apart.append(series.ratio(abs(ran["y"].iloc[0] - curve["y"].iloc[0]), both))
            else:
                apart.append(math.nan)
    regrets = drawn[drawn["panel"] == "trained, regret"]["y"]
    clipped = pd.concat([series.of(drawn, "clipped", method).assign(method=method) for method in ("DPO", "χPO")])
    at_one = clipped[clipped["x"] == 1.0]["y"] - series.value(drawn, "bad, reference", "lost", 0.01)
    dpo, chi = (clipped[(clipped["method"] == method) & (clipped["x"] == 0.1)]["y"] for method in ("DPO", "χPO"))
    every = drawn[drawn["panel"] == "infinitely many pairs, regret"]["y"]
    sampled = drawn[drawn["panel"] == "sampled, regret"]["y"]
    return [
        at_most("trained on three other data sets, both links, beta .1 and 1: mean loss off the curve's, in standard errors",
                series.largest(apart), 3.0),
        at_most("trained on fitted rewards: largest regret", series.largest(regrets), 1e-3),
        at_least("trained by DPO's loss without a clip, beta 1, one data set: least gold reward lost",
                 series.smallest(series.of(drawn, "no clip", "DPO")["y"]), 0.9),
        at_least("trained by χPO's loss without a clip, beta 1, three data sets: least gold reward lost",
                 series.smallest(series.of(drawn, "no clip", "χPO")["y"]), 0.7),
        at_most("trained by χPO's loss, clipped at 2, beta .1: largest gold reward lost", series.largest(chi), 0.2),
        at_most("trained by either loss, clipped at 2, beta 1: largest |gold reward lost - the reference's|",
                series.largest(at_one.abs()), 0.1),
        at_least("trained by DPO's loss, clipped at 2, beta .1: least gold reward lost", series.smallest(dpo), 0.8),
        at_most("trained by χPO's loss, infinitely many pairs: largest regret", series.largest(every), 1e-6),
        at_most("trained by rloo under KL(pi‖pi_ref) + ½χ²(pi‖pi_ref): largest regret", series.largest(sampled), 0.02),
    ]  # fmt: skip
