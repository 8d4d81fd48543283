"""Inference: reinforcement learning under KL(pi‖pi_ref) is variational inference, -J/beta = KL(pi‖pi*) - log Z.

Sources: Korbak, Perez and Buckley 2022, "RL with KL penalties is better viewed as Bayesian inference", arXiv 2205.11275;
Matrenok, Moalla and Gulcehre 2025, "Quantile reward policy optimization: alignment with pointwise regression and exact
partition functions", arXiv 2507.08068, for what its approximate log Z costs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import Row, points
from experiments.inference import quantile
from rlkl import divergences, exact, tasks
from rlkl.divergences import Params
from rlkl.exact import optimal_policy
from rlkl.policies import Fixed
from rlkl.policies.base import normalise
from rlkl.reports import plots
from rlkl.settings import numerics

TASKS = {"bandit/random": (plots.BLUE, "o"), "bandit/zipf": (plots.ORANGE, "v"), "sequence/motif": (plots.GREEN, "^"),
         "sequence/grammar": (plots.VERMILION, "s")}  # fmt: skip
BETA, POLICIES = 0.3, 24
LOG_Z_ERRORS = {0.1: 4.54e-5, 0.3: 0.0363, 1.0: 0.4587}  # beta: -log(1 - e^(-1/beta))
ANSWERS = (64, 1024, 16384)


def table(runs: None) -> pd.DataFrame:
    """Of random policies, from the reference to far from it: -J/beta by KL(pi‖pi*) - log Z; log Z from the end states alone."""
    rows: list[Row] = []
    with numerics.pinned():
        for name in TASKS:
            rows += _of(name)
    return series.frame(rows + _quantile())


def _quantile() -> list[Row]:
    """QRPO's error of log Z and its regret over beta; at beta 1 regret and largest probability over the number of answers."""
    betas = (0.1, 0.3)
    all_betas = list(LOG_Z_ERRORS)
    errors = [quantile.approximate_log_z(beta) - quantile.log_z(beta) for beta in all_betas]
    fits = [(beta, quantile.least_squares(beta, *quantile.uniform(100))) for beta in betas]
    regrets = [quantile.regret(beta, *quantile.uniform(100), fit.log_ratio) for beta, fit in fits]
    gains = [beta * quantile.log_z(beta) - 0.5 for beta in all_betas]  # J(pi*) - J(pi_ref)
    ranked = [
        (quantile.ranked(answers), quantile.least_squares(1.0, *quantile.ranked(answers)).log_ratio) for answers in ANSWERS
    ]
    largest = [float((reference * np.exp(u)).max()) for (_, reference), u in ranked]
    lost = [quantile.regret(1.0, reward, reference, u) for (reward, reference), u in ranked]
    return [
        *points("quantile", "error of log Z", all_betas, errors), *points("quantile", "gain", all_betas, gains),
        *points("quantile", "regret", betas, regrets),
        *points("quantile", "largest regular beta", [0.0], [quantile.largest_regular_beta()]),
        *points("quantile", "beta 1, largest probability", ANSWERS, largest),
        *points("quantile", "beta 1, regret", ANSWERS, lost),
    ]  # fmt: skip


def _of(name: str) -> list[Row]:
    task, kl, beta = tasks.build(name).task, divergences.REGISTRY["kl_pi_ref"], jnp.asarray(BETA)
    automaton = task.automaton
    reference = Fixed(jnp.asarray(task.log_reference), automaton.horizon)
    log_ref = reference.table()
    ends = exact.outcome_probabilities(automaton, log_ref)[automaton.outcomes]
    log_z = jax.nn.logsumexp(jnp.log(ends) + jnp.asarray(task.reward)[automaton.outcomes] / beta)
    objective = exact.Objective(task, reference, kl, beta=beta)
    best = optimal_policy.solve(objective)
    assert best.log_pi is not None

    @jax.jit
    def both(log_pi):
        value = exact.objective_value(objective, log_pi)
        return exact.sequence_divergence(automaton, kl, Params(), log_pi, best.log_pi) - log_z, -value / beta

    legal, draw = jnp.asarray(np.asarray(task.log_reference) > -np.inf), np.random.default_rng(0)
    support = jnp.broadcast_to(legal, log_ref.shape)
    x, y = [], []
    for scale in np.linspace(0.0, 3.0, POLICIES):
        logits = jnp.where(support, log_ref, 0.0) + scale * draw.normal(size=log_ref.shape)
        inferred, earned = both(normalise(logits, support))
        x.append(float(inferred))
        y.append(float(earned))
    least = both(best.log_pi)[1]
    return points(name, "policies", x, y) + points(name, "optimum", [float(-log_z)], [float(least)])


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found = []
    for name in TASKS:
        policies, best = (series.of(drawn, name, kind) for kind in ("policies", "optimum"))
        apart = (policies["y"] - policies["x"]).abs() / (1.0 + policies["x"].abs())
        below = series.smallest(policies["y"]) - series.smallest(best["x"])
        found += [
            at_most(f"{name}: -J/beta less KL(pi‖pi*) - log Z, relative: the largest", series.largest(apart), 1e-10),
            at_most(f"{name}: the optimum's -J/beta less -log Z", series.largest((best["y"] - best["x"]).abs()), 1e-10),
            at_least(f"{name}: the best of these policies above the bound, nats", below, 1e-6),
        ]
    return found + _of_quantiles(drawn)


def _of_quantiles(drawn: pd.DataFrame) -> list[Claim]:
    """QRPO's approximation of log Z; regrets as shares of what the optimum gains over the reference."""
    at = lambda name, x: series.value(drawn, "quantile", name, x)  # noqa: E731
    share = {beta: series.ratio(at("regret", beta), at("gain", beta)) for beta in (0.1, 0.3)}
    made = [
        near(f"quantile rewards, beta {beta:g}: log beta + 1/beta less log Z", at("error of log Z", beta), error, 0.005 * error)
        for beta, error in LOG_Z_ERRORS.items()
    ]
    return [
        *made,
        at_most("quantile rewards, beta .1: regret of least squares, over what the optimum gains", share[0.1], 1e-9),
        at_most("quantile rewards, beta .3: regret of least squares, over what the optimum gains", share[0.3], 1e-3),
        at_least("quantile rewards: beta from which least squares puts mass on a single answer",
                 at("largest regular beta", 0.0), 0.9),
        near("quantile rewards, beta 1, 16,384 answers: probability of that answer; e^-1 in the limit",
             at("beta 1, largest probability", 16384), np.exp(-1.0), 0.005),
        at_least("quantile rewards, beta 1, 1,024 answers: regret of least squares, over what the optimum gains",
                 series.ratio(at("beta 1, regret", 1024), at("gain", 1.0)), 20.0),
    ]  # fmt: skip


def draw(drawn: pd.DataFrame) -> Figure:
    """-J/beta against KL(pi‖pi*) - log Z, on the diagonal."""
    with plots.styled():
        figure = Figure(figsize=(plots.COLUMN, 3.0))
        axes = figure.subplots()
        x = drawn.loc[drawn["panel"].isin(TASKS), "x"]
        reach = [x.min() - 1.0, x.max() + 1.0]
        axes.plot(reach, reach, color=plots.BLACK, lw=0.8)
        for name, (colour, marker) in TASKS.items():
            policies, best = (series.of(drawn, name, kind) for kind in ("policies", "optimum"))
            axes.plot(policies["x"], policies["y"], marker, color=colour, alpha=0.8, label=name)
            axes.plot(best["x"], best["y"], marker, color=colour, mfc="white", ms=6)
        axes.plot([], [], "o", color=plots.GREY, mfc="white", ms=6, label="optimum: -log Z")
        axes.set(xlabel="KL(pi‖pi*) - log Z, nats", ylabel="-J/beta, nats", title="an objective and a posterior")
        axes.legend(loc="upper left")
        return figure
