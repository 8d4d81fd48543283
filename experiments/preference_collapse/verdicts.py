"""What the figure says, checked."""

import numpy as np
import pandas as pd

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.preference_collapse import shares
from experiments.preference_collapse.settings import BETAS
from rlkl.divergences import REGISTRY

KL, DUAL = (REGISTRY[name].formula for name in ("kl_pi_ref", "kl_ref_pi"))


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Claims on exact optima, on finite pairs, on several answers and phrasings, and on trained policies."""
    return [*_of_uniform(drawn), *_of_references(drawn), *_of_pairs(drawn), *_of_answers(drawn), *_of_runs(drawn)]


def _at(drawn: pd.DataFrame, panel: str, beta: float, share: float) -> float:
    return series.value(drawn, panel, f"{beta:g}", share)


def _of_uniform(drawn: pd.DataFrame) -> list[Claim]:
    below = pd.concat([series.of(drawn, "kl_pi_ref", f"{beta:g}") for beta in BETAS if beta < 1.0])
    above, one = (series.of(drawn, "kl_pi_ref", beta) for beta in ("2", "1"))
    below, above = below[below["x"] < 0.5], above[above["x"] < 0.5]
    even = series.of(drawn, "break-even, uniform reference", "kl_ref_pi")
    return [
        at_most(f"{KL}, uniform reference, every beta below 1: largest share kept, in parts of the annotators'",
                series.largest(below["y"] / below["x"]), 0.995),
        at_most(f"{KL}, uniform reference, beta 1: largest |share - annotators' share|",
                series.largest((one["y"] - one["x"]).abs()), 1e-12),
        at_least(f"{KL}, uniform reference, beta 2: least share kept, in parts of the annotators'",
                 series.smallest(above["y"] / above["x"]), 1.005),
        near(f"{KL}, uniform reference, 10% of annotators: share at beta .5",
             _at(drawn, "kl_pi_ref", 0.5, 0.1), 1.0 / 82.0, 1e-9),
        near(f"{KL}, uniform reference, 10% of annotators: share at beta .1", _at(drawn, "kl_pi_ref", 0.1, 0.1),
             1.0 / (1.0 + 9.0**10), 1e-14),
        near(f"{DUAL}, uniform reference, 10% of annotators: the beta that keeps their share", _first(even, 0.1),
             2.0 * 0.09 * np.log(9.0) / 0.8, 1e-9),
        at_most(f"{DUAL}, uniform reference: largest beta that keeps a minority's share", series.largest(even["y"]), 0.9967),
        near(f"{DUAL}, uniform reference, 5% of annotators: the beta that keeps their share", _first(even, 0.05), 0.3108, 1e-4),
        at_least(f"{DUAL} over {KL}, uniform reference, 10% of annotators, beta .1: ratio of the shares kept",
                 series.ratio(_at(drawn, "kl_ref_pi", 0.1, 0.1), _at(drawn, "kl_pi_ref", 0.1, 0.1)), 1e7),
    ]  # fmt: skip


def _first(found: pd.DataFrame, x: float) -> float:
    found = found[np.isclose(found["x"], x)]
    return float(found["y"].iloc[0]) if len(found) else np.nan


def _of_references(drawn: pd.DataFrame) -> list[Claim]:
    just, one = series.value(drawn, "just above break-even", "0.7", 0.51), series.value(drawn, "reference", "0.7", 1.0)
    against = series.of(drawn, "reference", "0.2")
    even = series.of(drawn, "break-even", "kl_pi_ref")
    return [
        near(f"{KL}, a reference of 70% for the answer of 30%: the beta that keeps their share", _first(even, 0.7), 0.5, 1e-12),
        at_least(f"{KL}, a reference of 70% for the answer of 30%: share at beta .51", just, 0.301),
        near(f"{KL}, a reference of 70% for the answer of 30%: share at beta 1", one, 0.5, 1e-9),
        near(f"{KL}, a reference of 40% for the answer of 30%: the beta that keeps their share",
             _first(even, 0.4), np.log(7.0 / 3.0) / (np.log(7.0 / 3.0) - np.log(1.5)), 1e-9),
        at_most(f"{KL}, a reference of 20% for the answer of 30%, every beta up to 10: largest share",
                series.largest(against["y"]), 0.2),
    ]  # fmt: skip


def _of_pairs(drawn: pd.DataFrame) -> list[Claim]:
    one, half = (series.of(drawn, "pairs", beta) for beta in ("1", "0.5"))
    few = _first(half, 25.0)
    least = few / series.value(drawn, "pairs, limit", "0.5")
    spread = one[np.isclose(one["x"], 200.0)]["error"]
    apart, count = [], 0
    for beta in ("0.5", "1"):
        trained = series.of(drawn, "trained, pairs", beta)
        for _, row in trained.iterrows():
            exact = series.value(drawn, "exact, pairs", beta, row["x"])
            apart.append(abs(row["y"] - exact) / row["error"] if row["error"] > 0.0 else np.nan)
            count += 1
    return [
        at_most("beta 1, 10% of annotators, from 25 pairs on: largest bias of their share by finite pairs",
                series.largest((one["y"] - 0.1).abs()), 0.005),
        near("beta 1, 10% of annotators, 200 pairs: standard deviation of their share over data sets",
             series.largest(spread), np.sqrt(0.1 * 0.9 / 100.0), 0.002),
        near("beta .5, 10% of annotators, 25 pairs: their mean share, in parts of that with infinitely many pairs",
             least, 2.2, 0.3),
        near("beta .5, 10% of annotators, 25 pairs: their mean share over data sets", few, 0.027, 0.001),
        at_most("trained on data sets of 200 pairs, beta .5 and 1: mean share off its exact expectation, in standard errors",
                series.largest(apart) if count == 2 else np.nan, 3.0),
        at_most("trained on 200 pairs: largest regret on the fitted reward", series.largest(
            [*series.of(drawn, "regret, pairs", "0.5")["y"], *series.of(drawn, "regret, pairs", "1")["y"]]), 1e-6),
    ]  # fmt: skip


def _of_answers(drawn: pd.DataFrame) -> list[Claim]:
    whole, token, uniform = (
        series.value(drawn, "phrasings", kind) for kind in ("sequences' entropy", "tokens' entropy", "uniform policy")
    )
    return [
        near("favourites of 60, 30 and 10%, a coin between two others: the smallest share under matching",
             series.value(drawn, "favourites", "softmax(r)", 0.1), 0.18, 0.01),
        near("matching by the entropy of sequences, 10% with one phrasing against eight: their share", whole, 1.0 / 73.0, 1e-5),
        near("log(number of phrasings) subtracted from each reward, the same: their share under matching",
             series.value(drawn, "phrasings, softmax(r)", "log(phrasings) subtracted"), 0.1, 1e-9),
        at_most("trained by the entropy of sequences, the same: |share - that of softmax(r)|",
                abs(whole - series.value(drawn, "phrasings, softmax(r)", "as it is")), 1e-5),
        near("matching by KL to the uniform policy of tokens, the same: their share", uniform, 0.1, 1e-5),
        near("each token's entropy as a sampled bonus, the same: their share", token, 0.1, 0.02),
    ]  # fmt: skip


def _of_runs(drawn: pd.DataFrame) -> list[Claim]:
    exact: list[float] = []
    sampled: list[float] = []
    for name, share in (("kl_pi_ref", shares.under_kl_pi_ref), ("kl_ref_pi", shares.under_kl_ref_pi)):
        ran = drawn[drawn["panel"] == f"trained, {name}"]
        for _, row in ran.iterrows():
            kind, beta = row["series"].split()
            (exact if kind == "exact" else sampled).append(abs(row["y"] - share(row["x"], float(beta))))
    regrets = drawn[drawn["panel"].isin(["regret, kl_pi_ref", "regret, kl_ref_pi"])]
    by_sampling = regrets["series"].str.startswith("sampled")
    matching = drawn[drawn["panel"] == "trained, matching"]
    off = (matching["y"] - matching["x"]).abs()
    of_matching = drawn[drawn["panel"] == "regret, matching"]
    return [
        at_most("trained, exact gradients: largest |share - the optimum's|", series.largest(exact), 1e-4),
        at_most("trained, exact gradients: largest regret", series.largest(regrets[~by_sampling]["y"]), 1e-6),
        at_most("trained, rloo: largest |share - the optimum's|", series.largest(sampled), 0.02),
        at_most("trained, rloo: largest regret", series.largest(regrets[by_sampling]["y"]), 2e-3),
        at_most("trained, matching under references of 20 and 70%: largest |share - annotators' share|",
                series.largest(off), 0.02),
        at_most("trained, matching: largest regret in E[r] + H(pi)", series.largest(of_matching["y"]), 2e-3),
    ]  # fmt: skip
