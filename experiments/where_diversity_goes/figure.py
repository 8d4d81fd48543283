"""Where diversity goes: entropy from the reference to the trained policy, cause by cause, at equal beta, KL and reward.

Sources: Zhang et al. 2025, "Verbalized sampling", arXiv 2510.01171 (annotators' taste for typical text); GX-Chen et al. 2025,
arXiv 2510.20817 (what directions decide).
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.where_diversity_goes import shares
from experiments.where_diversity_goes.measured import DIRECTIONS, table
from experiments.where_diversity_goes.places import TASKS
from experiments.where_diversity_goes.shares import STEPS, VIEWS
from experiments.where_diversity_goes.verdicts import claims
from rlkl import divergences
from rlkl.reports import plots

__all__ = ["claims", "draw", "table", "text"]

DRAWN = ("beta 0.1", "beta 1", "equal KL", "equal reward")
TITLES = {"equal KL": "equal KL(pi‖pi_ref)", "equal reward": "equal E[gold]"}
SAID = {"words": "100 words (bandit)", "grammar": "sentences"}
NAMES = {
    "reward": "the reward",
    "data": "finite data",
    "bias": "typicality bias",
    "estimator": "k3 in the loss",
    "optimiser": "optimiser",
}
WIDTH, APART = 0.36, 0.2  # of a bar; of a direction's bars from the step's middle


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a task, a column a view: a bar a step and direction, from the entropy before it to the one after, with the mean's
    95% interval over seeds; a diamond is the entropy under that cause alone, beside the reward."""
    found = shares.table(drawn)
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.3))
        rows = figure.subplots(len(TASKS), len(DRAWN), sharex=True, sharey="row", squeeze=False)
        for of_row, task in zip(rows, TASKS, strict=True):
            begin = float(drawn.loc[(drawn["task"] == task) & (drawn["series"] == "reference"), "entropy"].iloc[0])
            for axes, view in zip(of_row, DRAWN, strict=True):
                axes.axhline(begin, color=plots.GREY, lw=0.8, zorder=0)
                for direction, side in zip(DIRECTIONS, (-APART, APART), strict=True):
                    _waterfall(axes, found, (task, direction, view), begin, side)
                axes.set_ylim(-0.07 * begin, 1.07 * begin)
            of_row[0].set_ylabel(f"{SAID[task]}\nentropy (nats)")
        for axes, view in zip(rows[0], DRAWN, strict=True):
            axes.set_title(TITLES.get(view, view))
        for axes in rows[-1]:
            axes.set_xticks(range(len(STEPS)), [NAMES[step] for step in STEPS], rotation=50, ha="right", rotation_mode="anchor")
        figure.legend(handles=_legend(), loc="outside lower center", ncols=5, columnspacing=1.2)
        return figure


def _waterfall(axes: Axes, found: pd.DataFrame, at: tuple[str, str, str], level: float, side: float) -> None:
    colour, _ = plots.look(at[1])
    in_turn, alone = (shares.mean(found, f"entropy{order}") for order in ("", " first"))
    gold = level + in_turn(*at, "reward")
    for x, step in enumerate(STEPS):
        fall, middle = in_turn(*at, step), x + side
        axes.bar(middle, fall, WIDTH, bottom=level, color=colour, alpha=0.6, lw=0)
        level += fall
        reach = 2 * APART + WIDTH if step == STEPS[-1] else 1 + WIDTH / 2
        axes.plot([middle - WIDTH / 2, middle - WIDTH / 2 + reach], [level, level], color=colour, lw=0.7)
        if step != "reward":
            low, high = shares.interval(found, "entropy", (*at, step))
            axes.errorbar([middle], [level], [(high - low) / 2], color=plots.BLACK, lw=0.8, capsize=1.5, capthick=0.8)
            axes.plot([middle], [gold + alone(*at, step)], "D", mfc="white", mec=colour, ms=3.0, mew=0.8, zorder=3)


def _legend() -> list:
    bars = [Patch(color=plots.look(name)[0], alpha=0.6, label=divergences.REGISTRY[name].formula) for name in DIRECTIONS]
    alone = Line2D(
        [], [], color=plots.BLACK, marker="D", ls="", mfc="white", ms=3.0, label="under the reward and that cause alone"
    )
    spread = Line2D([], [], color=plots.BLACK, marker="|", ls="", ms=6.0, label="95% interval of the step")
    return [*bars, Line2D([], [], color=plots.GREY, lw=0.8, label="reference"), alone, spread]


def text(drawn: pd.DataFrame) -> str:
    """A plain table to be read: nats of entropy that each cause adds in turn, where it comes first after the reward, and where
    it comes last."""
    found = shares.table(drawn)
    orders = [shares.mean(found, f"entropy{order}") for order in ("", " first", " last")]
    lines = []
    for task in TASKS:
        lines.append(f"{task:<27}" + "".join(f"{NAMES[step]:>19}" if step != "reward" else f"{'reward':>8}" for step in STEPS))
        for direction in DIRECTIONS:
            for view in VIEWS:
                cells = [_cell([of(task, direction, view, step) for of in orders], step) for step in STEPS]
                lines.append(f"{divergences.REGISTRY[direction].formula:<14}{view:<13}" + "".join(cells))
    return "\n".join(lines) + "\n"


def _cell(values: list[float], step: str) -> str:
    shown = values[:1] if step == "reward" else values
    return f"{' '.join(f'{value:+.2f}' for value in shown):>{8 if step == 'reward' else 19}}"
