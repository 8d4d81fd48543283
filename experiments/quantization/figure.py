"""Quantization: how far rounding a network's weights moves its next-token probabilities, as llama.cpp's tool reports it.

Sources: llama.cpp, tools/perplexity (`--kl-divergence`); Dettmers and Zettlemoyer 2023, arXiv 2212.09720, for absmax by groups.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.quantization.measured import BITS, WAYS, table
from rlkl.diagnostics.compare import kl_statistics
from rlkl.reports import plots

__all__ = ["claims", "draw", "table"]

POLICIES = ("gru", "transformer")
KLD, REVERSE = kl_statistics.DIRECTIONS.values()
LOOKS = {"per tensor": (plots.VERMILION, "s"), "groups of 32": (plots.BLUE, "o")}
CHANGE = "change of p, text's token"
FINE = tuple(bits for bits in BITS if bits >= 5)  # where second order is all there is


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked on both networks."""
    found: list[Claim] = []
    for policy in POLICIES:
        of = lambda way, what, policy=policy: series.of(drawn, policy, f"{way}: {what}").set_index("x")["y"]  # noqa: E731
        mean = {way: of(way, f"{KLD}, mean") for way in WAYS}
        tensor, group = mean.values()
        both = tensor / of("per tensor", f"{REVERSE}, mean")
        same, tail = of("groups of 32", "same top p, mean"), of("groups of 32", f"{KLD}, maximum")
        median = of("groups of 32", f"{KLD}, median")
        worst = series.ratio(_at(tail, 4), _at(median, 4))
        found += [near(f"{policy}, {way}: slope of log KLD over log RMS change of p", _slope(drawn, policy, way), 2.0, 0.1)
                  for way in WAYS]  # fmt: skip
        found += [
            at_least(f"{policy}: the least factor by which a finer grid lowers the mean KLD", _least_gain(mean.values()), 1.5),
            near(f"{policy}: log4 of the mean KLD lost with each bit, 8 to 5 bits", _a_bit(group, 8, 5), 1.0, 0.25),
            at_most(f"{policy}: mean KLD by groups over that per tensor, from 16 to 3 bits", _worst_over(group, tensor), 0.9),
            near(f"{policy}: KL(base‖quant) over KL(quant‖base) at 8 bits", _at(both, 8), 1.0, 0.03),
            at_least(f"{policy}: the same at 2 bits, how far from 1", abs(_at(both, 2) - 1.0), 0.05),
            at_least(f"{policy}: same top p at 8 bits by groups, %", _at(same, 8), 99.0),
            at_most(f"{policy}: same top p at 2 bits by groups, %", _at(same, 2), 95.0),
            at_least(f"{policy}: the worst position's KLD over the median's at 4 bits", worst, 10.0),
        ]
    return found


def _at(found: pd.Series, bits: int) -> float:
    return float(found.get(bits, math.nan))


def _slope(drawn: pd.DataFrame, policy: str, way: str) -> float:
    x, y = (series.of(drawn, policy, f"{way}: {what}") for what in (f"{CHANGE}, RMS", f"{KLD}, mean"))
    both = pd.DataFrame({"x": x["y"].to_numpy(), "y": y["y"].to_numpy()})[x["x"].isin(FINE).to_numpy()]
    return series.slope(both)


def _worst_over(first: pd.Series, second: pd.Series) -> float:
    """The largest ratio above 2 bits, where little of the network is left."""
    return series.largest((first / second)[first.index > 2])


def _least_gain(of_ways) -> float:
    """The least ratio of neighbours' mean KLDs, from few bits to many."""
    return series.smallest(ratio for mean in of_ways for ratio in mean.to_numpy()[1:] / mean.to_numpy()[:-1])


def _a_bit(mean: pd.Series, many: int, few: int) -> float:
    ratio = series.ratio(_at(mean, few), _at(mean, many))
    return math.log(ratio, 4.0) / (many - few) if ratio > 0.0 else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a network: KLD over bits; KLD over RMS change of p, with a line of slope 2; agreement over bits."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.2))
        for axes, policy in zip(figure.subplots(2, 3), POLICIES, strict=True):
            _kld(axes[0], drawn, policy)
            _square(axes[1], drawn, policy)
            _agreement(axes[2], drawn, policy)
        return figure


def _kld(axes, drawn, policy):
    place = np.arange(len(BITS))
    for way, (colour, marker) in LOOKS.items():
        for name, line in (("maximum", ":"), ("mean", "-"), ("median", "--")):
            y = series.of(drawn, policy, f"{way}: {KLD}, {name}")["y"]
            axes.plot(
                place, y, line, color=colour, marker=marker if name == "mean" else "", label=way if name == "mean" else None
            )
    for name, line in (("maximum", ":"), ("mean", "-"), ("median", "--")):
        axes.plot([], [], line, color=plots.GREY, label=name)
    axes.set(yscale="log", xlabel="bits", ylabel=f"{KLD}, nats", title=policy, xticks=place, xticklabels=BITS)
    axes.legend(loc="lower right", fontsize=6)


def _square(axes, drawn, policy):
    for way, (colour, marker) in LOOKS.items():
        change, kld = (series.of(drawn, policy, f"{way}: {what}") for what in (f"{CHANGE}, RMS", f"{KLD}, mean"))
        x, y = change["y"].to_numpy() / 100.0, kld["y"].to_numpy()
        axes.plot(x, y, marker, color=colour, label=way)
    at = BITS.index(6)  # of the last way, through which the line is drawn
    line = np.geomspace(x.min(), x.max(), 2)
    axes.plot(line, y[at] * (line / x[at]) ** 2, color=plots.BLACK, lw=0.8, label="slope 2")
    axes.set(xscale="log", yscale="log", xlabel="RMS change of p", ylabel="mean KLD, nats", title="KLD is quadratic")
    axes.legend(loc="upper left")


def _agreement(axes, drawn, policy):
    place = np.arange(len(BITS))
    for way, (colour, marker) in LOOKS.items():
        same = series.of(drawn, policy, f"{way}: same top p, mean")
        axes.errorbar(place, same["y"], 2.0 * same["error"], color=colour, marker=marker)
        ratio = series.of(drawn, policy, f"{way}: perplexity, quant/base")
        axes.plot(place, 100.0 / ratio["y"], "--", color=colour, marker=marker, mfc="white")
    axes.plot([], [], "-o", color=plots.GREY, label="same top p")
    axes.plot([], [], "--o", color=plots.GREY, mfc="white", label="base/quant perplexity")
    axes.set(xlabel="bits", ylabel="%", title="agreement", xticks=place, xticklabels=BITS)
    axes.legend(loc="lower left", fontsize=6)
