"""Steering: both controllers bring KL(pi‖pi_ref) to a wanted number of nats, and the coefficient to the one whose exact optimum
stands there.

Sources: `adaptive` is Ziegler et al. 2019, arXiv 1909.08593, section 2.2; `lagrangian` is dual ascent on the budget (cf. Stooke
et al. 2020, arXiv 2007.03964).
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.harness.claims import Claim, at_least, at_most
from rlkl import divergences, tasks
from rlkl.exact import matching
from rlkl.reports import plots
from rlkl.runs.load import Runs

TASKS, CONTROLLERS, TARGETS = ("bandit/zipf", "sequence/grammar"), ("adaptive", "lagrangian"), (0.1, 0.5, 1.0)
SEEDS = 3
COLOURS = dict(zip(TARGETS, (plots.ORANGE, plots.GREEN, plots.PURPLE), strict=True))
SETTING = ["task", "controller", "target"]
COLUMNS = [*SETTING, "seed", "step", "beta", "kl_pi_ref"]


def table(runs: Runs) -> pd.DataFrame:
    """A row a logged step of a run: task, controller, target, seed, step, beta, exact KL (to 6 digits); and of each task and
    target one row with controller "exact": the coefficient whose optimum has that KL."""
    settings = runs.summary.rename(columns={"override.penalty.target_kl": "target"})[["run", *SETTING, "seed"]]
    settings["target"] = settings["target"].astype(float)
    logged = runs.history[["run", "step", "beta", "kl_pi_ref"]].merge(settings, on="run")[COLUMNS]
    logged[["beta", "kl_pi_ref"]] = logged[["beta", "kl_pi_ref"]].map(lambda value: float(f"{value:.6g}"))
    wanted = settings[["task", "target"]].drop_duplicates().itertuples(index=False)
    optima = [(task, "exact", kl, math.nan, math.nan, coefficient(task, kl), kl) for task, kl in wanted]
    return pd.concat([logged, pd.DataFrame(optima, columns=COLUMNS)], ignore_index=True)


def coefficient(name: str, wanted: float) -> float:
    """The beta at which the optimum of a task (its defaults) has this KL(pi‖pi_ref)."""
    return float(matching.betas(tasks.build(name).task, divergences.REGISTRY["kl_pi_ref"], wanted)[0])


def late(drawn: pd.DataFrame) -> pd.DataFrame:
    """Means over the last tenth of each run's steps: beta and kl_pi_ref, by task, controller, target and seed."""
    run = [*SETTING, "seed"]
    steered = drawn[drawn["controller"] != "exact"]
    last = steered.groupby(run)["step"].transform("max")
    return steered[steered["step"] > 0.9 * last].groupby(run)[["beta", "kl_pi_ref"]].mean()


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Of each controller, the worst run over tasks, targets and seeds."""
    ended = late(drawn).reset_index()
    best = drawn[drawn["controller"] == "exact"].set_index(["task", "target"])["beta"]
    of_optimum = ended.join(best.rename("best"), on=["task", "target"])["best"]
    error = (ended["kl_pi_ref"] / ended["target"] - 1.0).abs()
    apart = np.exp(np.log(ended["beta"] / of_optimum).abs()) - 1.0
    found: list[Claim] = []
    for controller in CONTROLLERS:
        own = ended["controller"] == controller
        runs = len(TASKS) * len(TARGETS) * SEEDS
        found += [
            at_least(f"{controller}: runs", own.sum(), runs),
            at_most(f"{controller}: KL over the last tenth, worst relative error", _worst(error[own]), 0.05),
            at_most(f"{controller}: beta over the last tenth, worst relative error against the exact", _worst(apart[own]), 0.1),
        ]
    return found


def _worst(values: pd.Series) -> float:
    return float(values.max(skipna=False)) if len(values) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """A column a task and controller; above the coefficient, below the exact KL, over steps; thin lines are seeds."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 3.5))
        upper, lower = figure.subplots(2, len(TASKS) * len(CONTROLLERS), sharex=True, sharey="row")
        columns = [(task, controller) for task in TASKS for controller in CONTROLLERS]
        for above, below, (task, controller) in zip(upper, lower, columns, strict=True):
            above.set(title=f"{controller}\n{task}", yscale="log")
            below.set(xlabel="step (thousands)", yscale="log", ylim=(0.03, 5.0))
            for target in TARGETS:
                here = drawn[(drawn["task"] == task) & (drawn["target"] == target)]
                best = here.loc[here["controller"] == "exact", "beta"]
                for axes, level in ((above, best), (below, [target])):
                    for value in level:
                        axes.axhline(value, color=COLOURS[target], ls="--", lw=0.8)
                for _, run in here[here["controller"] == controller].groupby("seed"):
                    for axes, column in ((above, "beta"), (below, "kl_pi_ref")):
                        seen = run[run[column] > 0.0]  # a policy that starts at its reference has no KL, and a log axis no 0
                        axes.plot(seen["step"] / 1000, seen[column], color=COLOURS[target], lw=0.6)
        for axes, ticks in ((upper[0], (0.1, 0.3, 1.0)), (lower[0], (0.1, 0.5, 1.0))):
            axes.set_yticks(ticks, [f"{tick:g}".lstrip("0") for tick in ticks])
            axes.minorticks_off()
        upper[0].set_ylabel("beta")
        lower[0].set_ylabel("exact KL(pi‖pi_ref), nats")
        lines = [Line2D([], [], color=COLOURS[target], lw=1.0) for target in TARGETS]
        labels = [f"target {target:g} nat" for target in TARGETS]
        dashed = Line2D([], [], color=plots.BLACK, ls="--", lw=0.8)
        said = "the target, and the beta whose exact optimum has it"
        figure.legend([*lines, dashed], [*labels, said], loc="outside lower center", ncols=4)
        return figure
