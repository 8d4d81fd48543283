"""DPO with the links log t and t + log t: what poorly covered arms cost each, on rewards fitted to finitely many pairs.

Sources: Huang et al. 2024, "Correcting the mythos of KL-regularization: direct alignment without overoptimization via
chi-squared preference optimization", arXiv 2407.13399 (the link t + log t, the claim that its error scales with the coverage
of the best policy alone, E_pi*[pi*/pi_ref], and DPO's with the worst coverage); Wang et al. 2023, "Beyond reverse KL", arXiv
2309.16240 (DPO for other divergences); Rafailov et al. 2023, arXiv 2305.18290; Ford 1957. The problems, the fits and the
optima are derived here.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.chi_po import datasets, links, trained, verdicts
from experiments.harness import series
from experiments.harness.series import Row, points
from rlkl.divergences import REGISTRY
from rlkl.reports import plots
from rlkl.runs.load import Runs

claims = verdicts.claims
BETAS = np.geomspace(1e-4, 10.0, 26)
COVERAGE = (0.5, 0.1, 0.03, 0.01, 0.003, 0.001)
SHOWN = 0.01  # what all bad arms have together in the panel over beta, and in the runs
PAIRS, SETS = 1000, 200
BAD_ARMS = slice(-datasets.BAD, None)
METHODS = {  # the link and the ridge of the reward's fit
    "DPO": ("kl_pi_ref", 0.01),
    "χPO": ("kl_chi2", 0.01),
    "ridge 10": ("kl_pi_ref", 10.0),
}
COLOURS = {"DPO": plots.BLUE, "χPO": plots.look("kl_chi2")[0], "ridge 10": plots.ORANGE}
STYLES = {"DPO": "-", "χPO": "--", "ridge 10": "-"}  # where χPO lies on DPO's line, both show
SHIFT = {"DPO": 0.62, "χPO": 1.6}  # of what was trained on pairs, so that both show
LABELS = {
    "DPO": f"{REGISTRY['kl_pi_ref'].formula} (DPO)",
    "χPO": f"{REGISTRY['kl_chi2'].formula} (χPO)",
    "ridge 10": f"{REGISTRY['kl_pi_ref'].formula}, reward fitted with ridge 10",
}


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Gold reward lost, mean over data sets: by beta; at each method's best beta, by both coverages; of trained policies."""
    rows: list[Row] = []
    count = 20 if quick else SETS
    for panel, problem_of in (("bad", datasets.bad_covered), ("best", datasets.best_covered)):
        for coverage in COVERAGE:
            rows += _problem(panel, coverage, problem_of(coverage), count)
    exact = series.frame(rows)

    def spread(method: str, beta: float) -> float:
        """The standard deviation of the loss over data sets, of the exact optima."""
        curve = series.of(exact, "over beta", method)
        return math.sqrt(count) * series.largest(curve[np.isclose(curve["x"], beta)]["error"])

    return series.frame([*rows, *trained.rows(runs, spread)])


def _problem(panel: str, coverage: float, problem: datasets.Problem, count: int) -> list[Row]:
    won = datasets.wins(problem, PAIRS, count, np.random.default_rng(0))
    best = problem.gold.max()
    rows = points(f"{panel}, reference", "lost", [coverage], [best - problem.reference @ problem.gold])
    rows += points(f"{panel}, separated", "share", [coverage], [datasets.separated(won).mean()])
    rows += points(f"{panel}, a bad arm never lost", "share", [coverage], [datasets.unbeaten(won, BAD_ARMS).mean()])
    for method, (link, ridge) in METHODS.items():
        values = datasets.fitted(won, ridge)
        lost = np.stack([best - links.optimum(link, problem.reference, values, beta) @ problem.gold for beta in BETAS])
        mean, error = lost.mean(axis=1), lost.std(axis=1, ddof=1) / np.sqrt(count)
        at = int(np.argmin(mean))
        rows += points(f"{panel}, lost at the best beta", method, [coverage], [mean[at]], error[at])
        rows += points(f"{panel}, best beta", method, [coverage], [BETAS[at]])
        if panel == "bad" and coverage == SHOWN:
            rows += points("over beta", method, BETAS, mean, error)
    return rows


def draw(drawn: pd.DataFrame) -> Figure:
    """Gold reward lost over beta, and at the best beta by the coverage of the bad arms and of the best arm."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 3.4))
        first, second, third = figure.subplots(1, 3, sharey=True)
        _over_beta(first, drawn)
        _by_coverage(second, drawn, "bad")
        second.set(title="lost by the bad arms' share\n(best arm 30%)", xlabel="reference's share of all bad arms")
        _by_coverage(third, drawn, "best")
        third.set(
            title="lost by the best arm's share\n(half of the rest: bad arms)", xlabel="reference's share of the best arm"
        )
        third.text(0.03, 0.84, "χPO's line lies on DPO's", transform=third.transAxes, fontsize=7, va="top")
        marks = {"trained on the fitted reward": "o", "trained on pairs": "x", "trained on pairs, clipped at 2": "+"}
        lines = [Line2D([], [], color=colour, ls=STYLES[method], label=LABELS[method]) for method, colour in COLOURS.items()]
        lines += [Line2D([], [], ls="", marker=marker, color=plots.GREY, label=label) for label, marker in marks.items()]
        figure.legend(handles=lines, loc="outside lower center", ncols=3)
        return figure


def _over_beta(axes: Axes, drawn: pd.DataFrame) -> None:
    for method, colour in COLOURS.items():
        curve = series.of(drawn, "over beta", method)
        axes.plot(curve["x"], curve["y"], color=colour, ls=STYLES[method])
        low, high = (curve["y"] + sign * 2 * curve["error"] for sign in (-1, 1))
        axes.fill_between(curve["x"], low, high, color=colour, alpha=0.2, lw=0)
        dots = series.of(drawn, "trained", method)
        bars = (2 * dots["error"], np.minimum(2 * dots["error"], 1.0 - dots["y"]))
        axes.errorbar(dots["x"], dots["y"], bars, fmt="o", color=colour, ms=4, mec="white", mew=0.4, lw=1.0)
        for panel, marker in (("no clip", "x"), ("clipped", "+")):
            pairs = series.of(drawn, panel, method)
            axes.plot(pairs["x"] * SHIFT.get(method, 1.0), pairs["y"], marker, color=colour, ms=5)
    lost = series.value(drawn, "bad, reference", "lost", SHOWN)
    axes.axhline(lost, ls=":", color=plots.GREY)
    axes.annotate("the reference", (BETAS[0], lost), xytext=(0, 3), textcoords="offset points", fontsize=7, color=plots.GREY)
    axes.set(xscale="log", xlabel="beta", ylabel="gold reward lost to the best arm", ylim=(-0.03, 1.27),
             yticks=np.arange(6) / 5, title="lost over beta\n(best arm 30%, bad arms 1%)")  # fmt: skip
    text = "× and + shifted sideways; bands,\nbars: 2 standard errors, cut at 1"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, fontsize=7, va="top")


def _by_coverage(axes: Axes, drawn: pd.DataFrame, panel: str) -> None:
    reference = series.of(drawn, f"{panel}, reference", "lost")
    axes.plot(reference["x"], reference["y"], ":", color=plots.GREY)
    if len(reference):
        last = reference.iloc[-1]
        at = (last["x"], last["y"])
        axes.annotate("the reference", at, xytext=(0, 4), textcoords="offset points", ha="right", fontsize=7, color=plots.GREY)
    for method, colour in COLOURS.items():
        found = series.of(drawn, f"{panel}, lost at the best beta", method)
        line = axes.errorbar(found["x"], found["y"], 2 * found["error"], fmt="o", color=colour, ms=3, lw=1.1)
        line[0].set_linestyle(STYLES[method])
    axes.text(0.03, 0.97, "each at its best beta by gold reward\nbars: 2 standard errors", transform=axes.transAxes, fontsize=7,
              va="top")  # fmt: skip
    axes.set(xscale="log")
    axes.invert_xaxis()
