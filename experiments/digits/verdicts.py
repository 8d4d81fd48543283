"""What the figure says, as claims that can turn false."""

import math

import numpy as np
import pandas as pd

from experiments.digits.optima import FACT, FAVOURITE, REFERENCE
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest
from rlkl import divergences

SEVEN = float(REFERENCE[FAVOURITE])
UNIFORM = {
    "- (a + beta) log pi_ref": ("kl_pi_ref",), "KL to uniform, - a log pi_ref": ("kl_pi_ref", "kl_ref_pi"),
    "MARA 1 at -1.6": ("kl_pi_ref",), "MARA 2 at -1.6": ("kl_pi_ref", "kl_ref_pi"),
    "- a log pi_ref, MARA 1": ("kl_pi_ref",), "- a log pi_ref, MARA 2": ("kl_pi_ref", "kl_ref_pi"),
}  # fmt: skip
NOT_UNIFORM = {
    "- (a + beta) log pi_ref": 0.4, "- a log pi_ref, MARA 1": 0.4, "KL to uniform": 0.3
}  # under KL(pi_ref‖pi), with a bound on the total variation  # fmt: skip


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What bias does, what each remedy restores and costs, what is trained, and what finitely many answers tell."""
    return [*_bias(drawn), *_temperature(drawn), *_remedies(drawn), *_trained(drawn), *_pairs(drawn)]


def _formula(direction: str) -> str:
    return divergences.REGISTRY[direction].formula


def _bias(drawn: pd.DataFrame) -> list[Claim]:
    curves = drawn[drawn["panel"] == "curve"]
    fair = curves[curves["weight"] == 0.0]

    def at(direction: str, beta: float, column: str) -> float:
        rows = curves[
            (curves["direction"] == direction) & np.isclose(curves["beta"], beta) & np.isclose(curves["weight"], 0.57)
        ]
        return float(rows[column].iloc[0]) if len(rows) else math.nan

    return [
        at_most("no bias, either direction, every beta: largest difference of the probability of 7 from the reference's, .284",
                largest((fair["favourite"] - SEVEN).abs()), 1e-9),
        at_least("a = .57, KL(pi‖pi_ref), beta .5: probability of 7, which the reference gives .284",
                 at("kl_pi_ref", 0.5, "favourite"), 0.5),
        at_least("a = .57, KL(pi_ref‖pi), beta .5: probability of 7", at("kl_ref_pi", 0.5, "favourite"), 0.5),
        at_least("a = .57, KL(pi‖pi_ref), beta .1: probability of 7", at("kl_pi_ref", 0.1, "favourite"), 0.95),
        at_most("a = .57, KL(pi_ref‖pi), beta .1: probability of 7", at("kl_ref_pi", 0.1, "favourite"), 0.93),
        at_least("a = .57, beta 1: probability of 7 under KL(pi_ref‖pi) less that under KL(pi‖pi_ref)",
                 at("kl_ref_pi", 1.0, "favourite") - at("kl_pi_ref", 1.0, "favourite"), 0.005),
        at_most("a = .57, KL(pi‖pi_ref), beta .5: entropy in nats, of the reference's 2.09",
                at("kl_pi_ref", 0.5, "entropy"), 1.6),
        near("reference: entropy in nats, of log 10 = 2.30",
             float(fair["entropy"].iloc[0]) if len(fair) else math.nan, 2.0907, 1e-3),
        at_most("a = .57, KL(pi‖pi_ref), beta .1: probability of the rarest digit", at("kl_pi_ref", 0.1, "rarest"), 1e-7),
        at_least("a = .57, KL(pi_ref‖pi), beta .1: probability of the rarest digit", at("kl_ref_pi", 0.1, "rarest"), 5e-4),
    ]  # fmt: skip


def _temperature(drawn: pd.DataFrame) -> list[Claim]:
    rows = drawn[drawn["panel"] == "temperature"].set_index("direction")
    apart = rows["apart"]
    return [
        at_most("KL(pi‖pi_ref): total variation from the reference, sampled at temperature 1 + a/beta",
                apart.get("kl_pi_ref", math.nan), 1e-9),
        at_least("KL(pi_ref‖pi): least total variation from the reference, at any temperature",
                 apart.get("kl_ref_pi", math.nan), 0.02),
        at_least("KL(pi‖pi_ref): probability of 7 at temperature 5", rows["favourite"].get("kl_pi_ref", math.nan), 0.12),
    ]  # fmt: skip


def _remedies(drawn: pd.DataFrame) -> list[Claim]:
    rows = drawn[drawn["panel"] == "remedy"].set_index(["remedy", "direction"])

    def value(remedy: str, direction: str, column: str) -> float:
        return float(rows[column].get((remedy, direction), math.nan))

    made = [
        at_most(f"{remedy}, {_formula(direction)}: total variation from uniform", value(remedy, direction, "from_uniform"),
                1e-9)
        for remedy, directions in UNIFORM.items() for direction in directions
    ]  # fmt: skip
    made += [
        at_least(f"{remedy}, KL(pi_ref‖pi): total variation from uniform", value(remedy, "kl_ref_pi", "from_uniform"), bound)
        for remedy, bound in NOT_UNIFORM.items()
    ]
    before = float(FACT.reference.max())
    return [
        *made,
        near("- a log pi_ref alone, KL(pi‖pi_ref): probability of 7",
             value("- a log pi_ref", "kl_pi_ref", "favourite"), SEVEN, 1e-9),
        at_least("- (a + beta) log pi_ref, KL(pi_ref‖pi): probability of the rarest digit, the new favourite",
                 value("- (a + beta) log pi_ref", "kl_ref_pi", "rarest"), 0.4),
        near("KL to uniform with the bias left in, KL(pi‖pi_ref): probability of 7, of pi_ref^(a/beta)",
             value("KL to uniform", "kl_pi_ref", "favourite"), _power(0.57 / 0.5), 1e-9),
        at_most("- (a + beta) log pi_ref, KL(pi‖pi_ref): probability of a fact's one right answer, of the reference's .7",
                value("- (a + beta) log pi_ref", "kl_pi_ref", "fact"), before - 0.2),
        at_most("KL to uniform, - a log pi_ref, KL(pi‖pi_ref): probability of the right answer",
                value("KL to uniform, - a log pi_ref", "kl_pi_ref", "fact"), before - 0.2),
        at_most("MARA 1 on the biased reward, at -10, which all answers reach, KL(pi‖pi_ref): probability of the right answer",
                value("MARA 1 at -10", "kl_pi_ref", "fact"), 0.11),
        at_least("MARA 1 on the biased reward, at -1.6, which right answers alone reach, KL(pi‖pi_ref): probability of the "
                 "right answer", value("MARA 1 at -1.6", "kl_pi_ref", "fact"), 0.99),
        at_least("MARA 2 on the biased reward, at -1.6, KL(pi_ref‖pi): probability of the right answer",
                 value("MARA 2 at -1.6", "kl_ref_pi", "fact"), 0.94),
        at_most("biased reward: a log(pi_ref of the likeliest wrong answer/pi_ref of the rarest right one), below the gold gap "
                "of 1", 0.57 * math.log(FACT.reference[FACT.gold == 0.0].max() / REFERENCE.min()) if len(rows) else math.nan,
                0.99),
        at_least("- a log pi_ref, MARA 1, KL(pi‖pi_ref): probability of the right answer",
                 value("- a log pi_ref, MARA 1", "kl_pi_ref", "fact"), 0.9),
        at_least("- a log pi_ref, MARA 2, KL(pi_ref‖pi): probability of the right answer",
                 value("- a log pi_ref, MARA 2", "kl_ref_pi", "fact"), 0.85),
        near("uniform digits: KL(pi‖pi_ref) that they cost", value("- a log pi_ref, MARA 1", "kl_pi_ref", "kl"), _cost(), 1e-9),
        at_most("verbalised distribution, if the flat one is typical, KL(pi‖pi_ref): probability of 7",
                value("verbalised distribution", "kl_pi_ref", "favourite"), SEVEN),
    ]  # fmt: skip


def _power(power: float) -> float:
    return float(SEVEN**power / (REFERENCE**power).sum())


def _cost() -> float:
    """KL of the uniform policy to the reference, -mean log pi_ref - log 10."""
    return float(-np.log(REFERENCE).mean() - math.log(10.0))


def _trained(drawn: pd.DataFrame) -> list[Claim]:
    runs = drawn[drawn["panel"] == "run"]
    exact, sampled = runs[runs["algorithm"] == "exact"], runs[runs["algorithm"] == "rloo"]
    plain = exact[exact["remedy"] == "none"]
    return [
        at_most("trained, exact, no remedy: largest regret", largest(plain["regret"]), 1e-5),
        at_most("trained, exact: largest total variation from the closed form", largest(exact["apart"]), 1e-4),
        at_most("trained, rloo, no remedy: largest regret", largest(sampled["regret"]), 1e-3),
        at_most("trained, rloo, no remedy: largest total variation from the closed form", largest(sampled["apart"]), 0.03),
    ]  # fmt: skip


def _pairs(drawn: pd.DataFrame) -> list[Claim]:
    rows = drawn[drawn["panel"] == "pairs"]
    z = (rows["recovered"] - rows["weight"]) / rows["stderr"]
    by_count = rows.groupby("pairs")
    error, seven = by_count["stderr"].mean(), by_count["favourite"].std()
    return [
        at_least("comparisons: share of recovered a within 2 standard errors",
                 (z.abs() <= 2.0).mean() if len(z) else math.nan, 0.92),
        at_most("1,000 comparisons: standard error of the recovered a", error.get(1000, math.nan), 0.1),
        at_most("1,000 comparisons: standard deviation of the probability of 7 once the recovered a is subtracted, beta .5",
                seven.get(1000, math.nan), 0.06),
        near("standard error at 100 comparisons over that at 10,000",
             error.get(100, math.nan) / error.get(10_000, math.nan), 10.0, 1.0),
    ]  # fmt: skip
