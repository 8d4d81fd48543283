"""What the figure says, as claims that can turn false."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest, smallest
from experiments.razor.forgetting import BETAS, KL, NO_PENALTY, PROJECTION, REPLAY
from experiments.razor.one_prompt import CORRECT, START

PROJECTED = -math.log(START[CORRECT].sum())  # KL(pi‖pi_0) of the I-projection
LIKELIEST = -math.log(START[CORRECT].max())  # of the likeliest correct answer alone
SETTLED = 0.01  # excess of KL(pi‖pi_0) over the least at that success, in nats, below which a path has come back


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Claims about one prompt, then about the network."""
    return [*_without_penalty(drawn), *_with_penalty(drawn), *_given_answers(drawn), *_network(drawn)]


def _without_penalty(drawn: pd.DataFrame) -> list[Claim]:
    path = _of(drawn, "path", method="no penalty").sort_values("success")
    exact, natural = (_of(drawn, "logged", method=name) for name in ("exact", "natural"))
    starts, ends = _of(drawn, "start", at="success 0.99"), _of(drawn, "start", at="end")
    free = _of(drawn, "run", direction="none")
    default = free[(free["method"] == "exact") & (free["optimizer"] == "adam")]
    sampled = free[free["method"].isin(["rloo", "grpo"])]
    sampled, plain = (sampled[sampled["optimizer"] == name] for name in ("adam", "sgd"))
    adam = _of(drawn, "adam")
    final = adam[adam["at"] == "end"].set_index("method")["kl_over_least"]
    on_the_way = adam.loc[adam["at"] == "success 0.99", "kl_over_least"]
    excess = ends["kl_pi_start"] - ends["least"]
    return [
        near("no penalty, exact policy gradient: end of KL(pi‖pi_0), -log of the likeliest correct answer's probability",
             path["kl_pi_start"].iloc[-1] if len(path) else math.nan, LIKELIEST, 1e-3),
        at_most("no penalty, exact policy gradient: rlkl's steps from the closed form, largest difference in KL",
                largest(exact["apart"].abs()), 0.02),
        at_most("no penalty, natural policy gradient: KL(pi‖pi_0) over the least at its success, largest difference",
                largest(natural["apart"].abs()), 1e-6),
        at_least(f"no penalty, {len(ends)} random starts: mean ratio of KL(pi‖pi_0) to the least at success .99",
                 (starts["kl_pi_start"] / starts["least"]).mean(), 1.3),
        at_least("no penalty, random starts: mean ratio of KL(pi‖pi_0) to -log v at the end",
                 (ends["kl_pi_start"] / ends["least"]).mean(), 1.3),
        at_most("no penalty, random starts: largest excess at the end, at most log 4", largest(excess), math.log(4.0)),
        near("no penalty, exact, Adam with rlkl's defaults: KL(pi‖pi_0) at the end over -log v",
             largest(default["kl_pi_start"]) / PROJECTED, 1.0, 1e-3),
        at_most(f"no penalty, exact, Adam at .01 to .3, {len(ends)} random starts: mean ratio of KL(pi‖pi_0) to the least "
                "where success first reaches .99, largest less 1", largest(on_the_way) - 1.0, 1e-6),
        *[
            near(f"no penalty, exact, {name}: mean ratio of KL(pi‖pi_0) to -log v at the end",
                 final.get(name, math.nan), 1.0, 1e-3)
            for name in ("Adam at 0.3, 2,000 steps, eps 1e-08", "Adam at 0.1, 2,000 steps, eps 1e-08",
                         "Adam at 0.01, 2,000 steps, eps 1e-08", "Adam at 0.01, 5,000 steps, eps 0")
        ],
        at_least("no penalty, exact, Adam at 0.01, 5,000 steps, eps 1e-08: mean ratio of KL(pi‖pi_0) to -log v at the end",
                 final.get("Adam at 0.01, 5,000 steps, eps 1e-08", math.nan), 1.1),
        near("no penalty, rloo and grpo, SGD: KL(pi‖pi_0) of 10 runs over -log v, mean",
             plain["kl_pi_start"].mean() / PROJECTED, LIKELIEST / PROJECTED, 0.01),
        at_most("no penalty, rloo and grpo, SGD: KL(pi‖pi_0) of 10 runs over -log v, largest less least",
                np.ptp(plain["kl_pi_start"]) / PROJECTED if len(plain) else math.nan, 0.01),
        at_most("no penalty, rloo and grpo, SGD: runs of 10 that end on another than the start's likeliest correct answer",
                (plain["favourite"] > 0).sum() if len(plain) else math.nan, 0),
        at_least("no penalty, rloo and grpo: least KL(pi‖pi_0) of 20 runs over -log v",
                 smallest(sampled["kl_pi_start"]) / PROJECTED, 1.05),
        at_least("no penalty, rloo and grpo: largest KL(pi‖pi_0) of 20 runs over -log v",
                 largest(sampled["kl_pi_start"]) / PROJECTED, 2.0),
        at_least("no penalty, rloo and grpo: runs of 20 that end on another than the start's likeliest correct answer",
                 (sampled["favourite"] > 0).sum(), 3),
    ]  # fmt: skip


def _with_penalty(drawn: pd.DataFrame) -> list[Claim]:
    runs = _of(drawn, "run")
    backward, forward = (runs[runs["direction"] == name] for name in ("kl_pi_ref", "kl_ref_pi"))
    low = forward[(forward["beta"] == 0.02) & (forward["method"] == "exact")]
    return [
        at_most("KL(pi‖pi_0), beta .02 to .1, exact, rloo, grpo: KL(pi‖pi_0) from -log v, largest",
                largest((backward["kl_pi_start"] - PROJECTED).abs()), 0.005),
        at_most("KL(pi‖pi_0), beta .02 to .1: largest regret", largest(backward["regret"]), 1e-4),
        at_most("KL(pi‖pi_0), beta .02 to .1: largest difference of a share from the I-projection's",
                largest(backward["apart"]), 0.005),
        at_most("KL(pi_0‖pi), beta .02 to .1: largest regret", largest(forward["regret"]), 2e-4),
        at_most("KL(pi_0‖pi), beta .02 to .1: largest difference of a share from the I-projection's",
                largest(forward["apart"]), 0.03),
        near("KL(pi_0‖pi), beta .02, exact: success, which it gives up", largest(low["success"]), 0.984, 0.001),
        *[
            at_least(f"KL(pi‖pi_0), beta {beta:g}, exact gradient: time until KL is within {SETTLED:g} nats of the least, over "
                     "that to success .99", _return_time(_of(drawn, "path", beta=beta, direction="kl_pi_ref")), bound)
            for beta, bound in ((0.1, 2.0), (0.05, 20.0), (0.02, 200.0))
        ],
    ]  # fmt: skip


def _return_time(path: pd.DataFrame) -> float:
    path = path.sort_values("time")
    solved, away = path["success"] >= 0.99, path["kl_pi_start"] - path["least"] > SETTLED
    return float(path.loc[away, "time"].max() / path.loc[solved, "time"].min()) if solved.any() and away.any() else math.nan


def _given_answers(drawn: pd.DataFrame) -> list[Claim]:
    given = _of(drawn, "given")
    alike, random = given[given["method"] == "all alike"], given[given["method"] == "random"]
    filtered = _of(drawn, "filtered").set_index("time")["kl_pi_start"]
    return [
        near("maximum likelihood on the I-projection: KL(pi‖pi_0), -log v",
             smallest(given.loc[given["method"] == "I-projection", "kl_pi_start"]), PROJECTED, 1e-9),
        near("maximum likelihood on given answers: largest KL(pi‖pi_0), -log of the rarest correct answer's probability",
             largest(given["kl_pi_start"]), -math.log(START[CORRECT].min()), 1e-9),
        at_least("maximum likelihood on all correct answers alike: KL(pi‖pi_0) over -log v",
                 largest(alike["kl_pi_start"]) / PROJECTED, 1.1),
        at_least("maximum likelihood on random distributions over correct answers: mean KL(pi‖pi_0) over -log v",
                 random["kl_pi_start"].mean() / PROJECTED, 1.3),
        at_most("maximum likelihood on 10 correct samples of pi_0: expected KL(pi‖pi_0) over -log v",
                filtered.get(10.0, math.nan) / PROJECTED, 1.1),
        at_most("maximum likelihood on 100 correct samples of pi_0: expected KL(pi‖pi_0) over -log v",
                filtered.get(100.0, math.nan) / PROJECTED, 1.01),
        near("maximum likelihood on n = 100 correct samples, k = 3 correct answers: excess over -log v, times 2n/(k - 1)",
             (filtered.get(100.0, math.nan) - PROJECTED) * 2 * 100 / (CORRECT.sum() - 1), 1.0, 0.02),
    ]  # fmt: skip


def _network(drawn: pd.DataFrame) -> list[Claim]:
    network = _of(drawn, "network")
    ends, equal = network[network["at"] == "end"], network[network["at"] == "success 0.9"]
    closed, replayed = _ratio(equal, NO_PENALTY, PROJECTION), _ratio(equal, REPLAY, PROJECTION)
    at_kl = network[(network["at"] == f"KL {KL:g}") & (network["method"] != REPLAY)]
    spread = at_kl.groupby(["optimizer", "seed"])["forgetting"].agg(["min", "max"])
    solved = ends[ends["method"] == NO_PENALTY]
    final = _ratio(ends, NO_PENALTY, PROJECTION)
    apart = _ratio(ends, NO_PENALTY, PROJECTION, "kl_pi_start")
    apart_by = {
        name: _ratio(ends[ends["optimizer"] == optimizer], NO_PENALTY, PROJECTION, "kl_pi_start")
        for optimizer, name in (("sgd", "SGD"), ("adam", "Adam"))
    }
    made = []
    for name, column, fit_bound in (("KL(pi_0‖pi)", "kl_start_pi", 0.8), ("KL(pi‖pi_0)", "kl_pi_start", 0.6)):
        fits, ranks = _fits(ends, column, "forgetting")
        made.append(
            at_least(f"network, ends of 15 methods: R^2 of forgetting over {name}, median of networks", fits, fit_bound)
        )
        made.append(at_least(f"network, ends of 15 methods: rank correlation of forgetting with {name}, median", ranks, 0.7))
        fits, _ = _fits(ends, column, "forgetting", leave_out="")
        made.append(at_most(f"network, ends of all 16 methods: R^2 of forgetting over {name}, median of networks", fits, 0.8))
        fits, ranks = _fits(equal, column, "forgetting")
        made.append(at_most(f"network, success .9: R^2 of forgetting over {name}, median of networks", fits, 0.65))
        made.append(at_most(f"network, success .9: rank correlation of forgetting with {name}, median", ranks, 0.6))
    penalised = {beta: f"RL, {beta:g} KL(pi‖pi_0)" for beta in BETAS}
    late = {beta: _ratio(ends, method, PROJECTION).median() for beta, method in penalised.items()}
    early = pd.Series([_ratio(equal, method, PROJECTION).median() for method in penalised.values()])
    entered = equal[equal["method"] != REPLAY].groupby(["optimizer", "seed"])["method"].nunique()
    lost, _ = _fits(ends, "kl_start_pi", "accuracy_lost")
    return [
        *made,
        at_least("network, ends of 15 methods: R^2 of accuracy lost over KL(pi_0‖pi), median of networks", lost, 0.6),
        at_most("network, success .9: forgetting without a penalty over that of maximum likelihood on the I-projection, median",
                closed.median(), 0.99),
        near("network, success .9: methods of 15 that reach it (.2 KL(pi_0‖pi) never does)",
             entered.min() if len(entered) and entered.min() == entered.max() else math.nan, 14, 0),
        at_most("network, success .9, RL, .05 to .2 KL(pi‖pi_0), most: forgetting over that of maximum likelihood on the "
                "I-projection, median", largest(early), 1.0),
        at_least("network, success .9, RL, .05 to .2 KL(pi‖pi_0), least: forgetting over that of maximum likelihood on the "
                 "I-projection, median", smallest(early), 0.85),
        *[
            at_most(f"network, at the end, RL, {beta:g} KL(pi‖pi_0): forgetting over that of maximum likelihood on the "
                    "I-projection, median", late[beta], bound)
            for beta, bound in ((0.05, 0.95), (0.1, 0.85), (0.2, 0.4))
        ],
        near("network, at the end, RL, .2 KL(pi‖pi_0): least success",
             smallest(ends.loc[ends["method"] == penalised[0.2], "success"]), 0.973, 0.001),
        at_least("network, success .9: of 16, those in which training without a penalty forgets less than maximum likelihood "
                 "on the I-projection", (closed < 1.0).sum(), 10),
        at_least("network, success .9: forgetting of maximum likelihood on other answers over that without a penalty, median",
                 _others(equal), 1.1),
        at_most("network, success .9: forgetting of maximum likelihood on the likeliest correct answer over that without a "
                "penalty, median", _ratio(equal, "ML, answer 0", NO_PENALTY).median(), 0.99),
        at_least("network, success .9: KL(pi‖pi_0) without a penalty over maximum likelihood's on the I-projection, median",
                 _ratio(equal, NO_PENALTY, PROJECTION, "kl_pi_start").median(), 1.05),
        near("network, at the end: forgetting without a penalty over that of maximum likelihood on the I-projection, median",
             final.median(), 1.0, 0.15),
        at_least("network, at the end, no penalty: KL(pi‖pi_0) over that of maximum likelihood on the I-projection, mean",
                 apart.mean(), 1.2),
        *[
            at_least(f"network, at the end, no penalty, {name}: KL(pi‖pi_0) over that of maximum likelihood on the "
                     "I-projection, mean", rows.mean(), 1.2)
            for name, rows in apart_by.items()
        ],
        at_least("network, at the end, no penalty: least success", smallest(solved["success"]), 0.999),
        at_least(f"network, KL(pi_0‖pi) = {KL:g}: most forgetting over least, methods of one optimiser, median of networks",
                 (spread["max"] / spread["min"]).median(), 1.7),
        at_least(f"network, KL(pi_0‖pi) = {KL:g}: most forgetting over least, largest of all networks",
                 largest(spread["max"] / spread["min"]), 4.0),
        at_most("network, success .9: forgetting with the KL on other prompts over that without, median",
                replayed.median(), 0.45),
        at_most("network, at the end: forgetting with the KL on other prompts over that without, largest",
                largest(_ratio(ends, REPLAY, PROJECTION)), 0.01),
        near("network, at the end: KL(pi‖pi_0) with the KL on other prompts over that without, mean",
             _ratio(ends, REPLAY, PROJECTION, "kl_pi_start").mean(), 1.0, 0.02),
    ]  # fmt: skip


def _fits(rows: pd.DataFrame, predictor: str, outcome: str, leave_out: str = REPLAY) -> tuple[float, float]:
    """R^2 of a quadratic in the predictor, and rank correlation, over methods: medians over networks and optimisers.

    leave_out: by default the method with a penalty on other prompts, which holds forgetting down on purpose.
    """
    found = []
    for _, group in rows[rows["method"] != leave_out].groupby(["optimizer", "seed"]):
        x, y = group[predictor].to_numpy(float), group[outcome].to_numpy(float)
        if len(x) > 3 and np.isfinite(x * y).all() and np.ptp(x) > 0.0 and np.ptp(y) > 0.0:
            residual = y - np.polynomial.Polynomial.fit(x, y, 2)(x)
            found.append((1.0 - residual.var() / y.var(), stats.spearmanr(x, y).statistic))
    return tuple(np.median(found, axis=0).tolist()) if found else (math.nan, math.nan)


def _ratio(rows: pd.DataFrame, first: str, second: str, column: str = "forgetting") -> pd.Series:
    """A measure of one method over that of another, a row a network and optimiser."""
    wide = rows.pivot_table(column, ["optimizer", "seed"], "method")
    return (wide[first] / wide[second]).dropna() if {first, second} <= set(wide.columns) else pd.Series(dtype=float)


def _others(rows: pd.DataFrame) -> float:
    """Forgetting of maximum likelihood on answers that are not of the I-projection over that without a penalty: the median."""
    names = [name for name in rows["method"].unique() if name.startswith("ML") and name not in (PROJECTION, REPLAY)]
    return float(pd.concat([_ratio(rows, name, NO_PENALTY) for name in names]).median()) if names else math.nan


def _of(drawn: pd.DataFrame, panel: str, **equal) -> pd.DataFrame:
    rows = drawn[drawn["panel"] == panel]
    for column, value in equal.items():
        rows = rows[rows[column] == value]
    return rows
