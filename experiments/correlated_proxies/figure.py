"""Correlated proxies: what a proxy's correlation with the gold reward guarantees, and which penalty uses the guarantee.

Source: Laidlaw, Singhal and Dragan 2024, "Correlated proxies: a new definition and improved mitigation for reward hacking",
arXiv 2403.03185 (its bound and the penalty on the square root of chi-square). The sharper bound, the gold that attains it and
the optimum under the root are derived here, in `bounds` and in `rlkl.closed_forms.threshold_policy`.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.correlated_proxies import hacking, random_bandits
from experiments.correlated_proxies.hacking import CORRELATION, FRONTIERS, MATCHED
from experiments.correlated_proxies.verdicts import claims
from rlkl.divergences import REGISTRY
from rlkl.reports import plots
from rlkl.runs.load import Runs

__all__ = ["claims", "draw", "table"]
COUNT, QUICK = 20_000, 500
GOLDS = 2_000
SHOWN = ("kl_pi_ref", "kl_ref_pi", "pearson")
COLUMNS = [
    "panel",
    "divergence",
    "beta",
    "proxy",
    "gold",
    "chi2",
    "least",
    "published",
    "sharp",
    "regret",
    "mean",
    "deviation",
    "low",
    "high",
    "worst",
    "worst_correlation",
    "count",
    "slack",
    "sharp_slack",
    "sharper_by",
    "off_line",
    "worse",
]


def table(runs: Runs, quick: bool = False) -> pd.DataFrame:
    """Frontiers ("frontier"), equal proxy gains ("matched"), random bandits ("bandits"), and what was trained ("trained")."""
    frontiers = [hacking.frontier(name) for name in (*FRONTIERS, "root_pearson")]
    equal = pd.DataFrame([hacking.matched(name, GOLDS) for name in FRONTIERS])
    drawn = [*frontiers, equal, random_bandits.table(QUICK if quick else COUNT), hacking.trained(runs)]
    return pd.concat(drawn, ignore_index=True)[COLUMNS]


def draw(drawn: pd.DataFrame) -> Figure:
    """Gold over proxy along frontiers; gold at one proxy gain for random golds; the root's optimum over its coefficient."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.7))
        first, second, third = figure.subplots(1, 3, width_ratios=(1.15, 1.0, 1.0))
        _frontiers(first, drawn)
        _random_golds(second, drawn[drawn["panel"] == "matched"])
        _switch(third, drawn)
        return figure


def _frontiers(axes, drawn: pd.DataFrame) -> None:
    for name in SHOWN:
        colour, marker = plots.look(name)
        line = _frontier(drawn, name)
        axes.plot(line["proxy"], line["gold"], color=colour, label=REGISTRY[name].formula)
        dots = drawn[(drawn["panel"] == "trained") & (drawn["divergence"] == name)]
        axes.plot(dots["proxy"], dots["gold"], marker, color=colour, ms=3)
    line = _frontier(drawn, "pearson")
    axes.plot(line["proxy"], line["sharp"], color=plots.look("pearson")[0], ls=":", label="sharper bound, χ²")
    axes.axhline(0.0, color=plots.GREY, lw=0.6)
    axes.set(
        xlabel="gain of the proxy, in sd",
        ylabel="gain of the gold reward, in sd",
        xlim=(0, 2.6),
        ylim=(-1.2, 1.05),
        title=f"a hacked proxy, correlation {CORRELATION:.2f}",
    )
    axes.legend(loc="lower left", fontsize=6)


def _random_golds(axes, matched: pd.DataFrame) -> None:
    matched = matched.sort_values("chi2").reset_index(drop=True)
    for place, row in matched.iterrows():
        colour, marker = plots.look(row["divergence"])
        axes.plot([place, place], [row["low"], row["high"]], color=colour, lw=2.5, solid_capstyle="butt")
        axes.plot(place, row["mean"], marker, color=colour, ms=4, mec="white", mew=0.4)
        axes.plot(place, row["worst"], "_", color=colour, ms=9, mew=1.4)
    axes.axhline(0.0, color=plots.GREY, lw=0.6)
    axes.set(
        xlim=(-0.6, len(matched) - 0.4),
        ylabel="gain of the gold reward, in sd",
        title=f"proxy gain {MATCHED:g} sd, any gold\nof this correlation",
    )
    axes.set_xticks(
        range(len(matched)), [REGISTRY[name].formula for name in matched["divergence"]], rotation=30, ha="right", fontsize=6
    )
    axes.text(0.03, 0.03, "dot: mean of golds, bar: 90%\ndash: the worst gold", transform=axes.transAxes, fontsize=6)


def _switch(axes, drawn: pd.DataFrame) -> None:
    for name in ("pearson", "root_pearson"):
        colour, marker = plots.look(name)
        line = _frontier(drawn, name)
        axes.plot(line["beta"], line["proxy"], color=colour, label=REGISTRY[name].formula)
        dots = drawn[(drawn["panel"] == "trained") & (drawn["divergence"] == name)]
        axes.plot(dots["beta"], dots["proxy"], marker, color=colour, ms=3)
    published = np.sqrt(1.0 - CORRELATION**2)
    axes.plot([published, published], [0.0, 3.2], color=plots.GREY, ls=":", lw=0.8)
    axes.text(0.03, 0.05, "dotted: published\ncoefficient", transform=axes.transAxes, fontsize=6, color=plots.GREY)
    axes.set(
        xscale="log",
        xlim=(0.05, 4),
        ylim=(-0.05, 4.0),
        xlabel="beta, in sd of the proxy",
        ylabel="gain of the proxy, in sd",
        title="√χ²: a threshold at 1 sd",
    )
    axes.legend(loc="upper right", fontsize=6)


def _frontier(drawn: pd.DataFrame, name: str) -> pd.DataFrame:
    return drawn[(drawn["panel"] == "frontier") & (drawn["divergence"] == name)].sort_values("beta")
