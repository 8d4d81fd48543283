"""What the figure says, as claims that can turn false."""

import math

import pandas as pd

from experiments.harness.claims import Claim, at_least, at_most
from experiments.trust_regions import fixed_points, methods
from experiments.trust_regions.measured import RLKL

STALE = ("staleness 1", "staleness 4", "staleness 16")
MISMATCH = "temperature .8"
PENALISED, DROPPED = "kl_cov", "clip_cov"
MASKS = ("no weights, seq_mean_k3 at .01", "token weights, seq_mean_k1 at .01")
LOSERS = ("ppo", "gspo", *MASKS, "geometric weights, 0 outside .99 to 1.01")
UNMOVED = ("token weights", "sequence weights", "dppo_tv", "dppo_kl")
KEEPERS = (
    "cispo", "sapo", "dppo_tv", "dppo_kl", "token weights", "token weights at most 2 (TIS)",
    "token weights, 0 outside .5 to 5 (IcePop)", "sequence weights", "sequence weights at most 2", "geometric weights",
)  # fmt: skip


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What each sampler does to each kind of method."""
    own = drawn[drawn["kind"] != RLKL]
    return [
        at_least("methods, bandit", own.loc[own["task"] == "bandit", "method"].nunique(), 16),
        at_least("methods, ladder", own.loc[own["task"] == "ladder", "method"].nunique(), 22),
        at_most(
            "rlkl's own runs (ppo, staleness 16): largest difference of a log-probability from the path of the figure",
            _most(drawn.loc[drawn["kind"] == RLKL, "apart"]), 1e-6,
        ),
        *_at_the_optimum(own),
        *_at_ratio_one(own),
        *_stale(own),
        *_mismatched(own),
    ]  # fmt: skip


def _at_the_optimum(own: pd.DataFrame) -> list[Claim]:
    """Without noise: norms of expected gradients at the optimum, over that of the objective at the reference."""
    fresh, mismatched = (own[own["sampler"] == name] for name in fixed_points.TEMPERATURES)
    bandit, ladder = (mismatched[mismatched["task"] == task] for task in ("bandit", "ladder"))
    others = ladder[~ladder["method"].isin((PENALISED, *UNMOVED))]
    return [
        at_most("samples of the optimum, every method: largest pull at the optimum", _most(fresh["pull"]), 1e-12),
        at_most("the optimum at temperature .8, bandit, all but kl_cov: largest pull",
                _most(bandit.loc[bandit["method"] != PENALISED, "pull"]), 1e-12),
        at_most("the optimum at temperature .8, ladder, token and sequence weights, dppo: largest pull",
                _most(ladder.loc[ladder["method"].isin(UNMOVED), "pull"]), 1e-12),
        at_most("the optimum at temperature .8, ladder, all others but kl_cov: largest pull", _most(others["pull"]), 2e-3),
        at_least("the optimum at temperature .8, kl_cov: least pull",
                 _least(mismatched.loc[mismatched["method"] == PENALISED, "pull"]), 0.3),
    ]  # fmt: skip


def _at_ratio_one(own: pd.DataFrame) -> list[Claim]:
    fresh = own[own["sampler"] == "staleness 0"]
    inert = fresh[fresh["method"] == PENALISED]
    plain = fresh[fresh["method"] != DROPPED]
    return [
        at_most("at ratio 1, kl_cov: largest difference of a log-probability from the plain loss (inert)",
                _most(inert["apart"]), 0.0),
        at_most("at ratio 1, kl_cov: largest share of tokens touched", _most(inert["touched"]), 0.0),
        at_most("at ratio 1, all but clip_cov: largest difference from the plain loss", _most(plain["apart"]), 1e-10),
        at_least("at ratio 1, clip_cov: least difference from the plain loss",
                 _least(fresh.loc[fresh["method"] == DROPPED, "apart"]), 0.01),
    ]  # fmt: skip


def _stale(own: pd.DataFrame) -> list[Claim]:
    stale = own[own["sampler"].isin(STALE)]
    bandit, ladder = (stale[stale["task"] == task] for task in ("bandit", "ladder"))
    at_rest = bandit[~bandit["method"].isin((PENALISED, DROPPED))]
    return [
        at_most("stale, bandit, all but kl_cov and clip_cov: largest regret at the end", _most(at_rest["regret"]), 1e-6),
        at_most("stale, ladder, all but kl_cov: largest regret at the end",
                _most(ladder.loc[ladder["method"] != PENALISED, "regret"]), 1e-3),
        at_least("stale, ladder, kl_cov: least mean regret at the end, over the uncorrected loss's largest",
                 _ratio(_mean(ladder, PENALISED, "regret").min(), _mean(ladder, methods.PLAIN, "regret").max()), 50.0),
        at_least("stale, every method: least success at the end, over the optimum's", _least(stale["success"]), 0.95),
        at_least("bandit, ppo: steps to half at staleness 16, over those at 0", _slower(own, "ppo", "staleness 16"), 2.0),
        at_most("bandit, dppo_tv: the same", _slower(own, "dppo_tv", "staleness 16"), 1.5),
        at_most("bandit, cispo: the same", _slower(own, "cispo", "staleness 16"), 1.5),
        at_most("bandit, uncorrected: the same", _slower(own, methods.PLAIN, "staleness 16"), 1.5),
        at_least("bandit, gspo at the paper's limits: steps to half at staleness 1, over those at 0",
                 _slower(own, "gspo", "staleness 1"), 3.0),
        at_least("bandit, token weights masked by seq_mean_k1 above .01: the same",
                 _slower(own, MASKS[1], "staleness 1"), 2.0),
    ]  # fmt: skip


def _mismatched(own: pd.DataFrame) -> list[Claim]:
    """Where the sampler never becomes the policy."""
    bandit, ladder = (own[(own["sampler"] == MISMATCH) & (own["task"] == task)] for task in ("bandit", "ladder"))
    lost = [_mean(ladder, name, "success").max() for name in LOSERS]
    kept = ladder[ladder["method"].isin(KEEPERS)]
    return [
        at_most("temperature .8, ladder, ppo, gspo, KL masks, narrow geometric mask: largest mean success, over the optimum's",
                _most(pd.Series(lost)), 0.2),
        at_most("temperature .8, ladder, dual_clip: mean success, over the optimum's",
                _mean(ladder, "dual_clip", "success").max(), 0.9),
        at_least("temperature .8, ladder, cispo, sapo, dppo, weights with wide limits: least success, over the optimum's",
                 _least(kept["success"]), 0.98),
        at_most("temperature .8, ladder, sequence weights: largest regret",
                _most(ladder.loc[ladder["method"] == "sequence weights", "regret"]), 1e-4),
        at_most("temperature .8, bandit, uncorrected: largest regret (advantages are 0 at the optimum)",
                _most(bandit.loc[bandit["method"] == methods.PLAIN, "regret"]), 1e-6),
        at_least("temperature .8, bandit, kl_cov: least regret, over the uncorrected loss's largest",
                 _ratio(_least(bandit.loc[bandit["method"] == PENALISED, "regret"]),
                        _most(bandit.loc[bandit["method"] == methods.PLAIN, "regret"])), 1e3),
        at_most("temperature .8, bandit, gspo and KL masks: largest success, over the optimum's",
                _most(bandit.loc[bandit["method"].isin(("gspo", *MASKS)), "success"]), 0.1),
    ]  # fmt: skip


def _mean(drawn: pd.DataFrame, method: str, column: str) -> pd.Series:
    """The means over seeds of a method, a value a sampler."""
    return drawn[drawn["method"] == method].groupby("sampler")[column].mean()


def _slower(own: pd.DataFrame, method: str, sampler: str) -> float:
    """The mean number of steps to half of the optimum's success on the bandit, over that of fresh samples."""
    steps = _mean(own[own["task"] == "bandit"], method, "half")
    return _ratio(steps.get(sampler, math.nan), steps.get("staleness 0", math.nan))


def _ratio(first: float, second: float) -> float:
    return first / second if second else math.nan


def _most(values: pd.Series) -> float:
    """The largest; NaN where one is missing, or all are."""
    return float(values.max(skipna=False)) if len(values) else math.nan


def _least(values: pd.Series) -> float:
    return -_most(-values)
