"""What the figure says, checked."""

import math

import pandas as pd

from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest, smallest
from experiments.pass_at_k.measured import K
from experiments.pass_at_k.optima import METHODS, STRENGTHS

OBJECTIVES = [name for name in METHODS if name != "unlikeliness"]
SPREADING = ("pass@k", "KL(pi_ref‖pi)")  # change only how success is spread over prompts


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Claims on exact optima at one pass@1, on trained policies, and on single numbers."""
    return [*_of_one_prompt(drawn), *_of_optima(drawn), *_of_runs(drawn), *_of_papers(drawn)]


def usual(drawn: pd.DataFrame) -> pd.DataFrame:
    """The optima of the usual strengths, indexed by method."""
    exact = drawn[drawn["panel"] == "optimum"]
    of_method = exact["method"].map(STRENGTHS).astype(float)
    return exact[of_method.isna() | (exact["strength"] == of_method)].set_index("method")


def _value(values: pd.Series, name: str) -> float:
    return float(values.get(name, math.nan))


def _check(drawn: pd.DataFrame, name: str) -> float:
    return _value(drawn[drawn["panel"] == "check"].set_index("method")["value"], name)


def _of_one_prompt(drawn: pd.DataFrame) -> list[Claim]:
    return [
        at_most(f"one prompt, pass@1 = .5: largest |probability of an answer at the optimum of {said} - of the plain one|",
                _check(drawn, f"one prompt, {name}"), 1e-12)
        for name, said in (("pass@k", "pass@8"), ("forward", "KL(pi_ref‖pi)"))
    ]  # fmt: skip


def _of_optima(drawn: pd.DataFrame) -> list[Claim]:
    table = usual(drawn)
    solved, reward, right, wrong, kl = (table[column] for column in ("solved", "reward", "among_correct", "among_wrong", "kl"))
    plain, at_one = _value(solved, "plain"), _value(reward, "plain")
    most = 1.0 - (1.0 - at_one) ** K  # every prompt equally likely to be solved
    matched = reward.reindex(list(METHODS))
    made = [at_most("exact optima: largest |mean pass@1 - that of the plain one|", largest((matched - at_one).abs()), 1e-8)]
    bounds = {"pass@k": 0.95, "KL(pi_ref‖pi)": 0.85, "entropy bonus": 0.3, "unlikeliness": 0.15, "smoothing": 0.1}
    made += [
        at_least(f"exact, at one pass@1: {name} closes this share of the plain pass@8's distance to the largest possible",
                 (_value(solved, name) - plain) / (most - plain), bound)
        for name, bound in bounds.items()
    ]  # fmt: skip
    made += [
        at_most(f"exact: {name}, |entropy among correct answers - the plain one's|, nats",
                abs(_value(right, name) - _value(right, "plain")), 1e-9)
        for name in SPREADING
    ]  # fmt: skip
    made += [
        at_least(f"exact: {name}, entropy among correct answers less the plain one's, nats",
                 _value(right, name) - _value(right, "plain"), 0.03)
        for name in ("unlikeliness", "smoothing", "entropy bonus")
    ]  # fmt: skip
    made += [
        at_least(f"exact, at one pass@1: {name} of weight {strength:g} closes this share of the same distance",
                 (_at(drawn, name, strength, "solved") - plain) / (most - plain), bound)
        for name, strength, bound in (("smoothing", 0.3, 0.3), ("unlikeliness", 1.0, 0.4), ("entropy bonus", 0.3, 0.8))
    ]  # fmt: skip
    made += [
        at_least(f"exact: KL(pi‖pi_ref) at one pass@1, {name}, less the plain one's, nats",
                 _value(kl, name) - _value(kl, "plain"), 0.0)
        for name in ("pass@k", "KL(pi_ref‖pi)", "smoothing")
    ]  # fmt: skip
    made += [
        at_least(f"exact: distinct correct answers in 64 draws, {name}", distinct, 3.9)
        for name, distinct in (("the optimum of pass@8", _value(table["distinct"], "pass@k")),
                               ("an entropy bonus of .3", _at(drawn, "entropy bonus", 0.3, "distinct")))
    ]  # fmt: skip
    exact = drawn[(drawn["panel"] == "optimum") & drawn["method"].isin(["unlikeliness", "smoothing"])]
    success = drawn[drawn["panel"] == "prompt"]
    passed = drawn[drawn["panel"] == "pass"].pivot_table(index="k", columns="method", values="solved")
    below = (passed["reference"] - passed.drop(columns="reference").min(axis=1)) if "reference" in passed else pd.Series()
    return [
        *made,
        at_least("exact: entropy bonus, entropy among wrong answers less the plain one's, nats",
                 _value(wrong, "entropy bonus") - _value(wrong, "plain"), 0.2),
        at_most("exact: smoothing, |entropy among wrong answers - the plain one's|, nats",
                abs(_value(wrong, "smoothing") - _value(wrong, "plain")), 1e-9),
        at_least("exact: pass@8 of pass@k's optimum less the best of smoothing (weights to .3) and unlikeliness (to 1)",
                 _value(solved, "pass@k") - largest(exact["solved"]), 0.05),
        at_least("exact: pass@k's optimum less smoothing of weight .1, distinct correct answers in 64 draws",
                 _value(table["distinct"], "pass@k") - _value(table["distinct"], "smoothing"), 0.1),
        at_least("exact: KL(pi‖pi_ref) at one pass@1, pass@k's optimum over the plain one's",
                 _value(kl, "pass@k") / _value(kl, "plain"), 1.3),
        at_least("exact: KL(pi‖pi_ref) at one pass@1, the least of the other methods less the plain one's, nats",
                 smallest(kl.reindex([name for name in METHODS if name != "plain"])) - _value(kl, "plain"), 0.0),
        at_most("exact: pass@8 advantage at the plain method's beta of .4: pass@1, where the plain one has .477",
                _check(drawn, "same beta"), 0.35),
        at_most("exact: |KL(pi‖pi_ref) of smoothing by .2 - of an entropy bonus of .05|, nats",
                abs(_at(drawn, "smoothing", 0.2, "kl") - _at(drawn, "entropy bonus", 0.05, "kl")), 1e-3),
        at_least("exact: pass@8 of smoothing by .2 less that of an entropy bonus of .05, at one pass@1 and KL(pi‖pi_ref)",
                 _at(drawn, "smoothing", 0.2, "solved") - _at(drawn, "entropy bonus", 0.05, "solved"), 0.005),
        at_least("exact: success on the hardest prompt, pass@k's optimum over the plain one's",
                 _edge(success, "pass@k", 0) / _edge(success, "plain", 0), 5.0),
        at_most("exact: success on the easiest prompt, pass@k's optimum less the plain one's",
                _edge(success, "pass@k", -1) - _edge(success, "plain", -1), -0.25),
        at_most("exact: largest pass@k of the reference less a method's, any method and k to 1,024", largest(below), 0.0),
        at_least("exact: least success of any prompt and method over the reference's",
                 smallest(success["success"] / success["v"]), 1.0),
    ]  # fmt: skip


def _at(drawn: pd.DataFrame, method: str, strength: float, column: str) -> float:
    """A number of the optimum of one strength."""
    rows = drawn[(drawn["panel"] == "optimum") & (drawn["method"] == method) & (drawn["strength"] == strength)]
    return float(rows[column].iloc[0]) if len(rows) else math.nan


def _edge(success: pd.DataFrame, method: str, place: int) -> float:
    """The success probability of the hardest (0) or the easiest (-1) prompt."""
    rates = success.loc[success["method"] == method].sort_values("v")["success"]
    return float(rates.iloc[place]) if len(rates) else math.nan


def _of_runs(drawn: pd.DataFrame) -> list[Claim]:
    runs, right = drawn[drawn["panel"] == "run"], usual(drawn)["among_correct"]
    by_own = runs[runs["method"] != "KL(pi_ref‖pi)"]
    lost = (runs["method"].map(right).astype(float) - runs["among_correct"]).groupby(runs["method"]).mean()
    return [
        near("trained: number of methods", runs["method"].nunique(), len(METHODS), 0),
        at_most("trained: largest |success probability of a prompt - at the method's own optimum|", largest(runs["off"]), 0.03),
        at_most("trained: largest regret in the method's own objective, as a share of what it can gain",
                largest(runs.loc[runs["method"].isin(OBJECTIVES), "regret"]), 0.03),
        at_most("trained, but for KL(pi_ref‖pi): largest KL(pi‖own optimum), nats", largest(by_own["to_optimum"]), 0.03),
        at_most("trained, KL(pi_ref‖pi) by samples of the reference: largest KL(pi‖own optimum), nats",
                largest(runs.loc[runs["method"] == "KL(pi_ref‖pi)", "to_optimum"]), 0.06),
        at_most("trained for pass@k: largest |rlkl's regret in the utility - this experiment's|",
                largest(runs.loc[runs["method"] == "pass@k", "core"].abs()), 1e-6),
        *(at_least(f"trained, {name}: entropy among correct answers lost by sampling, nats", _value(lost, name), 0.02)
          for name in SPREADING),
        at_most("trained, plain: entropy among correct answers lost by sampling, nats", _value(lost, "plain"), 0.01),
    ]  # fmt: skip


def _of_papers(drawn: pd.DataFrame) -> list[Claim]:
    return [
        near("unlikeliness, large groups: its gradient's work around a loop of three policies; an objective has 0",
             _check(drawn, "work, unlikeliness"), -0.5 * 0.5 * 0.09**2, 1e-9),
        at_most("smoothing: |its gradient's work around the same loop|", abs(_check(drawn, "work, smoothing")), 1e-6),
        at_least("unlikeliness, groups of 16: what the baseline adds to the reward of the least likely wrong answer",
                 _check(drawn, "least likely failure"), 0.02),
        at_most("released Pass@k advantage, not divided: largest |its gradient over (1 - k/n)/k that of pass@k - 1|",
                _check(drawn, "released, undivided"), 1e-10),
        at_most("released Pass@k advantage, k = n: largest |expected gradient|", _check(drawn, "released, k = n"), 1e-12),
        at_least("released Pass@k advantage, n = 16, k = 8: weight of p = .5 over p = .05, relative to that of pass@8",
                 _check(drawn, "released, divided") / _check(drawn, "pass@8"), 3.0),
    ]  # fmt: skip
