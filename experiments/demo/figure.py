"""The demo: reward against what it costs, sampled runs on the exact frontier of each direction, on two tasks.

Source: the optima in closed form, p e^(r/beta)/Z and beta p/(L - r), p = pi_ref.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from experiments.harness import optima
from experiments.harness.claims import Claim, at_most
from rlkl import divergences, tasks
from rlkl.reports import plots
from rlkl.reports.console import number
from rlkl.runs.load import Runs

TASKS: dict[str, dict[str, Any]] = {"bandit/bimodal": {"gap": 1.0}, "bandit/words": {"reward": "length"}}
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
COLUMNS = ("task", "penalty", "beta", "E[r]", "J", "J*", "regret", "KL", "support")


def table(runs: Runs) -> pd.DataFrame:
    """task, direction, series (trained, exact), beta, seed, kl_pi_ref, reward, entropy, regret."""
    columns = ["task", "divergence", "beta", "seed", "kl_pi_ref", "reward", "entropy", "regret"]
    trained = runs.summary[columns].rename(columns={"divergence": "direction"})
    trained.insert(2, "series", "trained")
    return pd.concat([trained, pd.DataFrame(_frontiers())], ignore_index=True)


def _frontiers() -> list[dict]:
    rows, betas = [], np.geomspace(0.02, 5.0, 60)
    for name, options in TASKS.items():
        task = tasks.build(name, **options).task
        for direction in DIRECTIONS:
            for beta, log_pi in zip(betas, optima.over_beta(task, direction, betas), strict=True):
                pi = np.exp(log_pi)
                drawn = {"kl_pi_ref": np.sum(pi * (log_pi - task.log_reference[0])), "reward": np.sum(pi * task.reward[1:])}
                rows.append({"task": name, "direction": direction, "series": "exact", "beta": beta, **drawn})
    return rows


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """Every sampled run comes close to its exact optimum."""
    trained = drawn[drawn["series"] == "trained"]
    return [
        at_most(f"{name}: largest regret of a sampled run", trained.loc[trained["task"] == name, "regret"].max(), 0.02)
        for name in TASKS
    ]


def closing(runs: Runs) -> Table:
    """One row a setting: medians over seeds, and the worst regret; narrow enough for 80 columns."""
    shown = Table(
        title="medians over seeds, the worst regret; J = E[r] - beta D, J* its exact optimum; KL = KL(pi‖pi_ref)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("task", "penalty") else "right", no_wrap=True)
    for (task, formula, beta), group in runs.summary.groupby(["task", "formula", "beta"], sort=False):
        median = group.median(numeric_only=True)
        cells = [number(median[key]) for key in ("reward", "objective", "optimal_objective")]
        after = [number(median["kl_pi_ref"]), f"{median['effective_support']:.1f}"]
        shown.add_row(str(task).split("/")[-1], str(formula), f"{beta:g}", *cells, number(group["regret"].max()), *after)
    return shown


def draw(drawn: pd.DataFrame) -> Figure:
    """A panel a task: E[r] against KL(pi‖pi_ref); lines are exact optima, points are runs."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.8))
        for axes, name in zip(figure.subplots(1, len(TASKS)), TASKS, strict=True):
            for direction in DIRECTIONS:
                colour, marker = plots.look(direction)
                part = drawn[(drawn["task"] == name) & (drawn["direction"] == direction)]
                exact, trained = part[part["series"] == "exact"], part[part["series"] == "trained"]
                formula = divergences.REGISTRY[direction].formula
                axes.plot(exact["kl_pi_ref"], exact["reward"], color=colour, label=f"optimum under {formula}")
                axes.plot(trained["kl_pi_ref"], trained["reward"], marker, color=colour, alpha=0.7, label="trained (rloo)")
            axes.set(xlabel="KL(pi‖pi_ref) (nats)", ylabel="E[r]", title=name)
        axes.legend(loc="lower right")
        return figure
