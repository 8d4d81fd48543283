"""The claims of the experiment, from the rows of its table."""

import math

import pandas as pd

from experiments.goodhart.numbers import DEPTHS, DRAWN
from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest, smallest

RAISED = {1e2: (3.77, 0.227, 5e-4), 1e4: (9.46, 0.0121, 5e-5), 1e6: (23.8, 0.0005, 5e-5)}  # t: E[X], KL, half its last digit


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    heavy, light = _of(drawn, "student_t"), _of(drawn, "normal")
    infinite = _of(drawn, "student_t, 1.5")
    return [
        *_raised(drawn), *_grid(heavy), *_under_kl_pi_ref(heavy, light), *_remedies(heavy, light),
        *_under_pearson(heavy, infinite),
        *_best_of_n(heavy, light), *_under_kl_ref_pi(heavy, light), *_trained(drawn[drawn["panel"] == "run"]),
    ]  # fmt: skip


def _raised(drawn: pd.DataFrame) -> list[Claim]:
    made = []
    for t, (error, kl, within) in RAISED.items():
        point = drawn[(drawn["panel"] == "raised tail") & (drawn["strength"] == t)]
        made += [
            near(
                f"t error, tail beyond {t:g} raised to x^-.8: E[error]",
                _one(point["error"]),
                error,
                0.05 if t == 1e6 else 0.005,
            ),
            near(f"t error, tail beyond {t:g} raised to x^-.8: KL(pi‖pi_ref)", _one(point["kl_pi_ref"]), kl, within),
        ]
    return made


def _grid(heavy: pd.DataFrame) -> list[Claim]:
    at = _at(heavy, "variance", "reference", DRAWN)
    means = heavy.loc[heavy["panel"] == "mean", ["gold", "error"]].abs()
    return [
        at_most("grid: largest |mean| of gold reward and error", largest(means.to_numpy().ravel()), 1e-12),
        near("grid, to 1e-12: variance of the t error", at["error"], 3.0, 0.003),
        near("grid, to 1e-12: variance of the gold reward", at["gold"], 1.0, 0.003),
    ]


def _under_kl_pi_ref(heavy: pd.DataFrame, light: pd.DataFrame) -> list[Claim]:
    normal = _at(light, "1 nat", "kl_pi_ref", DRAWN)
    made = [
        near("normal error, KL(pi‖pi_ref), 1 nat: E[gold]; sqrt(2)/2 by two normals", normal["gold"], math.sqrt(0.5), 0.002)
    ]
    for tail, bound in zip(DEPTHS, (0.1, 2e-3, 1e-6), strict=True):
        point = _at(heavy, "1 nat", "kl_pi_ref", tail)
        made.append(at_most(f"t error to {tail:g}, KL(pi‖pi_ref), 1 nat: E[gold]", point["gold"], bound))
    deepest = _at(heavy, "1 nat", "kl_pi_ref", DEPTHS[-1])
    made.append(at_least(f"t error to {DEPTHS[-1]:g}, KL(pi‖pi_ref), 1 nat: E[error]", deepest["error"], 1e6))
    for tail in DEPTHS[1:]:
        largest = _at(heavy, "beta 1", "kl_pi_ref", tail)["error"]  # at beta 1 the optimum is at the largest error
        ratio = series.ratio(_at(heavy, "threshold", "kl_pi_ref", tail)["strength"], largest / -math.log(tail))
        name = f"t error to {tail:g}: beta where KL(pi‖pi_ref) is half of log(1/tail), over largest error/log(1/tail)"
        made.append(near(name, ratio, 1.0, 0.01))
    ours, theirs = _at(heavy, "beta 1", "kl_pi_ref", DRAWN), _at(light, "beta 1", "kl_pi_ref", DRAWN)
    return [
        *made,
        at_most("beta 1, KL(pi‖pi_ref): E[gold] with a normal error less that with a t error to 1e-12",
                abs(theirs["gold"] - ours["gold"]), 1e-6),
        near("beta 1, KL(pi‖pi_ref): E[gold] with a t error to 1e-12", ours["gold"], 1.0, 0.005),
        near("beta 1, normal error: KL(pi‖pi_ref); (1 + 3)/2 by two normals", theirs["kl_pi_ref"], 2.0, 0.005),
        at_least("beta 1, t error to 1e-12: KL(pi‖pi_ref)", ours["kl_pi_ref"], -math.log(DRAWN)),
    ]  # fmt: skip


def _remedies(heavy: pd.DataFrame, light: pd.DataFrame) -> list[Claim]:
    """Clipping the reward at a quantile, against the best that a reward of the proxy can do."""
    made = []
    best = _at(heavy, "1 nat", "posterior", DRAWN)["gold"]
    made.append(at_least("t error, reward E[gold | proxy], 1 nat: E[gold]", best, 0.75))
    for quantile, least in ((0.9, 0.74), (0.99, 0.63), (0.999, 0.45)):
        golds = [_at(heavy, "1 nat", f"clipped {quantile:g}", tail)["gold"] for tail in DEPTHS]
        name = f"t error to any depth, reward clipped at its {quantile:g} quantile, KL(pi‖pi_ref) of 1 nat: least E[gold]"
        made.append(at_least(name, smallest(golds), least - 0.005))
    cost = series.ratio(_at(light, "1 nat", "clipped 0.9", DRAWN)["gold"], _at(light, "1 nat", "kl_pi_ref", DRAWN)["gold"])
    made.append(at_least("normal error, reward clipped at its 0.9 quantile, 1 nat: share of E[gold] that is left", cost, 0.9))
    curve = _curve(heavy, "clipped 0.9")
    return [
        *made,
        at_least("t error to 1e-12, reward clipped at its 0.9 quantile, KL(pi‖pi_ref): E[gold] at the smallest beta, .05",
                 _where_least(curve, "strength", "gold"), 0.9),
        at_most("t error to 1e-12, reward clipped at its 0.9 quantile: KL(pi‖pi_ref) at the smallest beta, below log 10",
                _where_least(curve, "strength", "kl_pi_ref"), math.log(10.0)),
    ]  # fmt: skip


def _under_pearson(heavy: pd.DataFrame, infinite: pd.DataFrame) -> list[Claim]:
    half = [_at(heavy, "half a nat", "pearson", tail)["gold"] for tail in DEPTHS]
    linear = [_at(heavy, "beta 10", "pearson", tail) for tail in DEPTHS]
    curve = _curve(heavy, "pearson").sort_values("kl_pi_ref")
    budget = [_at(infinite, "budget", "pearson", tail)["gold"] for tail in DEPTHS]
    free = [_at(infinite, "half a nat", "pearson", tail) for tail in DEPTHS]
    variances = [_at(heavy, "variance", "reference", tail)["gold"] for tail in DEPTHS]
    off = [abs(series.ratio(point["gold"] * 2.0 * point["strength"], gold) - 1.0)
           for point, gold in zip(linear, variances, strict=True)]  # fmt: skip
    return [
        at_most("t error, chi2(pi‖pi_ref), beta 10: largest |E[gold] 2 beta/Var(gold) - 1|, any depth",
                largest(off), 1e-3),
        at_least("t error, chi2(pi‖pi_ref), KL(pi‖pi_ref) of half a nat: least E[gold], any depth", smallest(half), 0.5),
        at_least("t error to 1e-12, chi2(pi‖pi_ref): E[gold] at its peak over beta", largest(curve["gold"]), 0.8),
        near("t error to 1e-12, chi2(pi‖pi_ref): KL(pi‖pi_ref) at that peak", _where_most(curve, "kl_pi_ref"), 2.0, 0.5),
        at_most("t error to 1e-12, chi2(pi‖pi_ref): E[gold] at the smallest beta", _last(curve["gold"]), 0.05),
        near("t error to 1e-12, chi2(pi‖pi_ref): KL(pi‖pi_ref) at the smallest beta", _last(curve["kl_pi_ref"]), 15.0, 0.1),
        at_least("t error, 1.5 degrees, chi2 of a half: E[gold] to 1e-6", budget[0], 0.03),
        at_most("t error, 1.5 degrees, chi2 of a half: E[gold] to 1e-24", budget[-1], 1e-4),
        at_least("t error, 1.5 degrees, chi2(pi‖pi_ref), KL(pi‖pi_ref) of half a nat: least E[gold], any depth",
                 smallest(point["gold"] for point in free), 0.25),
    ]  # fmt: skip


def _best_of_n(heavy: pd.DataFrame, light: pd.DataFrame) -> list[Claim]:
    curve, normal = _curve(heavy, "best of n"), _curve(light, "best of n")
    normal = normal[normal["strength"] > 1]
    shares = (normal["gold"] / normal["proxy"] - 0.25).abs()
    best, deep = _at(heavy, "best of 16", "best of n", DRAWN)["gold"], []
    for tail in DEPTHS:
        own = heavy[(heavy["panel"] == "curve") & (heavy["method"] == "best of n") & (heavy["tail"] == tail)]
        deep.append(_last(own.loc[own["strength"] == 1024, "gold"]))
    chi = _at(heavy, "same KL", "pearson", DRAWN)
    strong = _curve(heavy, "pearson")
    beyond = "chi2(pi‖pi_ref), t error to 1e-12, first beta drawn beyond 5.5 nats"
    strong = strong[strong["kl_pi_ref"] > 5.5]  # best of 1024 has 5.93 nats
    same_kl = {name: series.ratio(_at(heavy, "same KL", name, DRAWN)["gold"], best) for name in ("kl_pi_ref", "pearson")}
    same_proxy = {name: series.ratio(_at(heavy, "same proxy", name, DRAWN)["gold"], best) for name in ("kl_pi_ref", "pearson")}
    return [
        near(
            "t error to 1e-12, best of n: n with the largest E[gold], of powers of two", _where_most(curve, "strength"), 16, 0
        ),
        at_least("t error to 1e-12, best of 16: E[gold]", best, 0.85),
        at_least("chi2(pi‖pi_ref) at the KL(pi‖pi_ref) of best of 16, t error to 1e-12: E[gold]", chi["gold"], 0.8),
        near("chi2(pi‖pi_ref) at the KL(pi‖pi_ref) of best of 16, t error to 1e-12: beta", chi["strength"], 0.16, 0.01),
        at_most(f"{beyond}: E[gold]", _first(strong["gold"]), 0.4),
        near(f"{beyond}: KL(pi‖pi_ref)", _first(strong["kl_pi_ref"]), 5.93, 0.05),
        at_most("t error, best of 1024: largest E[gold], any depth", largest(deep), 0.4),
        at_most("t error to 1e-12, best of 2^20: E[gold]", _last(curve["gold"]), 0.05),
        at_most("normal error, best of n: largest |share of gold in the proxy - 1/4|, n to 2^20", largest(shares), 0.003),
        at_least("normal error, best of 2^20: E[gold]", _last(normal["gold"]), 2.4),
        at_most(
            "at the KL(pi‖pi_ref) of best of 16: E[gold] under KL(pi‖pi_ref) over best of 16's", same_kl["kl_pi_ref"], 0.01
        ),
        at_least(
            "at the KL(pi‖pi_ref) of best of 16: E[gold] under chi2(pi‖pi_ref) over best of 16's", same_kl["pearson"], 0.9
        ),
        at_most("at the proxy of best of 16: E[gold] under KL(pi‖pi_ref) over best of 16's", same_proxy["kl_pi_ref"], 0.01),
        at_least("at the proxy of best of 16: E[gold] under chi2(pi‖pi_ref) over best of 16's", same_proxy["pearson"], 0.9),
    ]


def _under_kl_ref_pi(heavy: pd.DataFrame, light: pd.DataFrame) -> list[Claim]:
    made = []
    for tail in DEPTHS[1:]:
        point, base = (_at(heavy, "tenth of a nat", "kl_ref_pi", each) for each in (tail, DEPTHS[0]))
        growth = series.ratio(point["error"], base["error"])
        name = f"KL(pi_ref‖pi) of a tenth of a nat, t error to {tail:g}: E[error] over that to 1e-6"
        made.append(at_least(name, growth, 0.9 * (DEPTHS[0] / tail) ** (1 / 3)))
    normal = _at(light, "tenth of a nat", "kl_ref_pi", DRAWN)
    drawn_heavy, drawn_light = (each[each["panel"] == "drawn arms"]["gold"] for each in (heavy, light))
    return [
        *made,
        at_least("KL(pi_ref‖pi) of a tenth of a nat, normal error to 1e-12: KL(pi‖pi_ref)", normal["kl_pi_ref"], 4.0),
        at_most("KL(pi_ref‖pi) of a tenth of a nat, 100,000 drawn arms, t error: |mean E[gold]|", abs(_mean(drawn_heavy)), 0.1),
        at_least("KL(pi_ref‖pi) of a tenth of a nat, 100,000 drawn arms, normal error: mean E[gold]", _mean(drawn_light), 0.2),
    ]


def _trained(ran: pd.DataFrame) -> list[Claim]:
    heavy = ran[(ran["distribution"] == "student_t") & (ran["strength"] <= 1.0)]
    exact, chi = (heavy[heavy["method"] == method] for method in ("exact, exact, kl_pi_ref", "rloo, full, pearson"))
    sampled = heavy[(heavy["method"] == "rloo, k1, kl_pi_ref") & (heavy["steps"] == 1000)]
    deep, shallow = (sampled[sampled["tail"] == tail] for tail in (1e-12, 1e-3))
    at_depth = heavy[(heavy["method"] == "rloo, k1, kl_pi_ref") & (heavy["tail"] == 1e-12)]
    early, late = (at_depth[at_depth["steps"] == steps] for steps in (250, 4000))
    everywhere = heavy[(heavy["method"] == "rloo, full, kl_pi_ref") & (heavy["tail"] == 1e-12)]
    high, normal = ran[ran["strength"] == 632.0], ran[ran["distribution"] == "normal"]
    depth = series.ratio(_mean(deep["proxy"]), _mean(sampled.loc[sampled["tail"] == 1e-6, "proxy"]))
    return [
        at_least("exact gradients, KL(pi‖pi_ref), beta 1: least share of the optimum's proxy",
                 smallest(_share(exact, "proxy")), 0.99),
        at_least("rloo, k1, t error to 1e-3, beta 1: least share of the optimum's proxy",
                 smallest(_share(shallow, "proxy")), 0.9),
        at_most("rloo, k1, t error to 1e-12, beta 1: largest share of the optimum's proxy",
                largest(_share(deep, "proxy")), 0.002),
        near("rloo, k1, beta 1: proxy reached with a t error to 1e-12, over that to 1e-6", depth, 1.0, 0.25),
        at_least("rloo, k1, t error to 1e-12, beta 1: least KL(pi‖pi_ref)", smallest(deep["kl_pi_ref"]), 5.0),
        at_least("rloo, k1, t error to 1e-12, beta 1: mean E[gold] after 250 steps", _mean(early["gold"]), 0.5),
        near("rloo, k1, t error to 1e-12, beta 1: mean KL(pi‖pi_ref) after 250 steps", _mean(early["kl_pi_ref"]), 2.3, 0.1),
        at_most("rloo, k1, t error to 1e-12, beta 1: largest E[gold] after 4,000 steps, two seeds", largest(late["gold"]), 0.5),
        at_most("rloo, k1, t error to 1e-12, beta 1: least E[gold] after 4,000 steps, two seeds", smallest(late["gold"]), 0.0),
        near("rloo, k1, t error to 1e-12, beta 1: mean KL(pi‖pi_ref) after 4,000 steps", _mean(late["kl_pi_ref"]), 11.3, 0.5),
        at_least("rloo, k1, t error to 1e-12, beta 1: proxy after 4,000 steps over that after 250",
                 series.ratio(_mean(late["proxy"]), _mean(early["proxy"])), 3.0),
        at_least("rloo, penalty over all arms in the loss, t error to 1e-12: proxy over that with k1 in the reward",
                 series.ratio(_mean(everywhere["proxy"]), _mean(deep["proxy"])), 20.0),
        near("the optimum at beta 632, t error to 1e-12: KL(pi‖pi_ref)", largest(high["optimum_kl_pi_ref"]), 1.0, 0.05),
        at_most("rloo, k1, t error to 1e-12, beta 632: largest KL(pi‖pi_ref)", largest(high["kl_pi_ref"]), 1e-3),
        at_most("rloo, k1, t error to 1e-12, beta 632: largest share of the optimum's proxy",
                largest(_share(high, "proxy")), 1e-3),
        at_least("rloo, chi2(pi‖pi_ref), beta .76, any depth: least share of the optimum's E[gold]",
                 smallest(_share(chi, "gold")), 0.9),
        at_most("rloo, chi2(pi‖pi_ref), beta .76, any depth: largest regret", largest(chi["regret"]), 0.15),
        at_least("rloo, k1, normal error, beta 1.41: least share of the optimum's E[gold]",
                 smallest(_share(normal, "gold")), 0.9),
    ]  # fmt: skip


def _share(ran: pd.DataFrame, column: str) -> pd.Series:
    """A column over the same of each run's optimum."""
    return ran[column] / ran[f"optimum_{column}"]


def _of(drawn: pd.DataFrame, distribution: str) -> pd.DataFrame:
    return drawn[(drawn["distribution"] == distribution) & (drawn["panel"] != "run")]


def _at(rows: pd.DataFrame, panel: str, method: str, tail: float) -> dict[str, float]:
    """The numbers of the one row of a panel, a method and a tail; NaN where there is none."""
    own = rows[(rows["panel"] == panel) & (rows["method"] == method) & (rows["tail"] == tail)]
    return {name: _one(own[name]) for name in ("strength", "gold", "error", "kl_pi_ref")}


def _curve(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    return rows[(rows["panel"] == "curve") & (rows["method"] == method) & (rows["tail"] == DRAWN)]


def _one(values: pd.Series) -> float:
    return float(values.iloc[0]) if len(values) == 1 else math.nan


def _mean(values: pd.Series) -> float:
    return float(values.mean(skipna=False)) if len(values) else math.nan


def _last(values: pd.Series) -> float:
    return float(values.iloc[-1]) if len(values) else math.nan


def _first(values: pd.Series) -> float:
    return float(values.iloc[0]) if len(values) else math.nan


def _where_least(rows: pd.DataFrame, least: str, column: str) -> float:
    """The value of a column at the smallest value of another."""
    return float(rows.loc[rows[least].idxmin(), column]) if len(rows) else math.nan


def _where_most(rows: pd.DataFrame, column: str) -> float:
    """The value of a column at the largest E[gold]."""
    return float(rows.loc[rows["gold"].idxmax(), column]) if len(rows) else math.nan
