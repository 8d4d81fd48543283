"""Mismatch over training: does KL(mu‖pi) of a sampler with rounded logits grow because outputs get longer or because the policy
gets peaked? It grows in proportion to the length and to the square of the logits' size; peakedness alone lowers it.

For rounding errors that are independent and uniform, KL(mu‖pi) of a token is h^2/24 times 1 - sum pi^2, with h the unit in the
last place of the logits. Length, largest logit and entropy are varied one at a time, and exact training is followed.

Sources: an open question of sail-sg/Precision-RL, issue 10; Qi et al. 2025, "Defeating the training-inference mismatch via
FP16", arXiv 2510.26788.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.mismatch_grows import rows, training
from experiments.mismatch_grows.rows import DTYPES
from rlkl.reports import plots
from rlkl.settings import numerics

LOOKS = {"bfloat16": (plots.VERMILION, "s"), "float16": (plots.BLUE, "o"), "float8_e4m3": (plots.PURPLE, "D")}
KINDS = {"longer": plots.GREEN, "peaked": plots.ORANGE, "both": plots.BLACK}


def table(runs: None, quick: bool = False) -> pd.DataFrame:
    """Every number that is drawn or claimed; nats."""
    with numerics.pinned():
        draw = np.random.default_rng(0)
        one_at_a_time = [*rows.length(draw), *rows.largest_logit(draw), *rows.peakedness(draw), *rows.sharpness(draw)]
        return series.frame([*one_at_a_time, *training.tables(quick), *training.networks(quick)])


def _within(drawn: pd.DataFrame, panel: str, name: str, formula: str, least: float = 0.0, most: float = np.inf) -> float:
    """The largest relative distance of a series from its closed form, over x from least to most."""
    both = [series.of(drawn, panel, each) for each in (name, formula)]
    both = [each[(each["x"] >= least) & (each["x"] <= most)]["y"].to_numpy() for each in both]
    if len(both[0]) != len(both[1]):
        return float("nan")
    return series.largest(abs(series.ratio(a, b) - 1.0) for a, b in zip(*both, strict=True))


def _slope(drawn: pd.DataFrame, panel: str, name: str, x) -> float:
    found = series.of(drawn, panel, name)
    return series.slope(found[np.isclose(found["x"].to_numpy()[:, None], np.asarray(x, float)).any(axis=1)])


def _growth(drawn: pd.DataFrame, kind: str, name: str) -> float:
    """The last value over the first."""
    found = series.of(drawn, kind, name)["y"].to_numpy()
    return series.ratio(found[-1], found[0]) if len(found) else float("nan")


def _rise(drawn: pd.DataFrame, kind: str, name: str) -> float:
    """The largest value over the first."""
    found = series.of(drawn, kind, name)["y"].to_numpy()
    return series.ratio(series.largest(found), found[0]) if len(found) else float("nan")


def _spread(drawn: pd.DataFrame, name: str) -> float:
    found = series.of(drawn, "held", name)["y"].to_numpy()
    return series.largest(abs(found - found[0])) if len(found) else float("nan")


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    octaves, large = 12.0 * 2.0 ** np.arange(6), rows.SCALES[(rows.SCALES >= 4.0) & (rows.SCALES <= 64.0)]
    found = [near(f"{dtype}: slope over the length", _slope(drawn, "length", dtype, rows.LENGTHS), 1.0, 0.05)
             for dtype in DTYPES]  # fmt: skip
    for dtype in ("bfloat16", "float16"):
        falls = np.diff(series.of(drawn, "entropy", dtype)["y"])
        entropy = series.of(drawn, "entropy", dtype)["y"].to_numpy()
        found += [
            near(f"{dtype}: slope over the largest logit", _slope(drawn, "largest logit", dtype, octaves), 2.0, 0.1),
            at_most(f"{dtype}, largest logit varied: KL(mu‖pi) over its closed form, less 1: the largest",
                    _within(drawn, "largest logit", dtype, f"{dtype}, formula", most=128.0), 0.1),
            at_most(f"{dtype}, entropy varied: the same", _within(drawn, "entropy", dtype, f"{dtype}, formula"), 0.1),
            at_most(f"{dtype}: largest step of KL(mu‖pi) as the policy gets peaked, size fixed", series.largest(falls), 0.0),
            at_most(f"{dtype}: KL(mu‖pi) at the least entropy over that at the largest",
                    series.ratio(entropy[-1], entropy[0]) if len(entropy) else float("nan"), 1e-4),
        ]  # fmt: skip
    found += [
        near("float16: slope over the scale of random logits, size and peakedness together",
             _slope(drawn, "sharpness", "float16", large), 1.0, 0.2),
        near("the same: slope of 1 - sum pi^2", _slope(drawn, "held", "1 - sum pi^2, over sharpness", large), -1.0, 0.2),
        near("bfloat16 over float16, largest logit varied: KL(mu‖pi), mean", _between(drawn), 64.0, 6.0),
        at_most("largest logit varied: change of the entropy", _spread(drawn, "entropy, over the largest logit"), 1e-9),
        at_most("entropy varied: change of the largest logit", _spread(drawn, "largest logit, over entropy"), 0.5),
        at_least("entropy varied: smallest logit, all being below 32",
                 series.smallest(series.of(drawn, "held", "smallest logit, over entropy")["y"]), 16.0),
    ]  # fmt: skip
    for kind in KINDS:
        found.append(
            at_most(f"training, {kind}: KL(mu‖pi) over its closed form, less 1: the largest",
                    _within(drawn, kind, "KL", "KL, formula"), 0.25)
        )  # fmt: skip
    longer, peaked = (_growth(drawn, kind, "KL") for kind in ("longer", "peaked"))
    return [
        *found,
        near("training, longer: growth of KL(mu‖pi) over growth of the length",
             series.ratio(longer, _growth(drawn, "longer", "length")), 1.0, 0.15),
        at_least("training, longer: growth of the length", _growth(drawn, "longer", "length"), 3.0),
        at_most("training, peaked: KL(mu‖pi) at the end over the start", peaked, 0.1),
        near("training, peaked: the same over the change of 1 - sum pi^2",
             series.ratio(peaked, _growth(drawn, "peaked", "1 - sum pi^2")), 1.0, 0.25),
        at_least("training, both: largest KL(mu‖pi) over the start", _rise(drawn, "both", "KL"), 1.3),
        at_most("training, both: KL(mu‖pi) at the end over the start", _growth(drawn, "both", "KL"), 0.5),
        at_least("training, a network: growth of the length", _growth(drawn, "network", "length"), 1.5),
        at_most("training, a network: KL(mu‖pi) at the end over the start, parameters rounded",
                _growth(drawn, "network", "parameters in bfloat16"), 0.1),
        at_most("training, a network: the same, logits rounded", _growth(drawn, "network", "logits in bfloat16"), 0.1),
    ]  # fmt: skip


def _between(drawn: pd.DataFrame) -> float:
    """The ratio of bfloat16's to float16's KL in the panel of the largest logit, at its geometric mean."""
    both = [series.of(drawn, "largest logit", dtype)["y"].to_numpy() for dtype in ("bfloat16", "float16")]
    return float(np.exp(np.mean(np.log(both[0] / both[1])))) if len(both[0]) else float("nan")


def draw(drawn: pd.DataFrame) -> Figure:
    """Length, largest logit and entropy one at a time; both of the last together; tables and a network in training."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.3))
        panels = figure.subplots(2, 3)
        for axes, panel in zip(panels.flat, ("length", "largest logit", "entropy", "sharpness"), strict=False):
            _dtypes(axes, drawn, panel)
        panels[0, 0].set(xlabel="length (tokens)", ylabel="KL(mu‖pi) of sequences (nats)", title="longer")
        panels[0, 1].set(xlabel="size of the logits", ylabel="KL(mu‖pi) of a token (nats)", title="larger logits, same policy")
        panels[0, 2].set(xlabel="entropy (nats)", title="peaked, logits of one size")
        panels[0, 2].invert_xaxis()
        panels[1, 0].set(xlabel="scale of random logits", ylabel="KL(mu‖pi) of a token (nats)", title="larger and so peaked")
        panels[0, 0].plot([], [], "-", color=plots.GREY, lw=0.8, label="closed form")
        panels[0, 0].set_ylim(1e-10, 100)
        panels[0, 0].legend(loc="lower right", fontsize=6)
        _tables(panels[1, 1], drawn)
        _network(panels[1, 2], drawn)
        return figure


def _dtypes(axes, drawn: pd.DataFrame, panel: str) -> None:
    for dtype, (colour, marker) in LOOKS.items():
        measured, formula = (series.of(drawn, panel, name) for name in (dtype, f"{dtype}, formula"))
        axes.plot(measured["x"], measured["y"], marker, color=colour, ms=3, label=dtype)
        axes.plot(formula["x"], formula["y"], "-", color=colour, lw=0.8)
    axes.set(xscale="log", yscale="log")


def _tables(axes, drawn: pd.DataFrame) -> None:
    for kind, colour in KINDS.items():
        measured, formula = (series.of(drawn, kind, name) for name in ("KL", "KL, formula"))
        axes.plot(measured["x"], measured["y"], "o", color=colour, ms=3, label=kind)
        axes.plot(formula["x"], formula["y"], "-", color=colour, lw=0.8)
    axes.set(
        xscale="symlog", yscale="log", xlabel="step", ylabel="KL(mu‖pi) of sequences (nats)", title="exact training, tables"
    )
    axes.legend(loc="lower left", fontsize=6)


def _network(axes, drawn: pd.DataFrame) -> None:
    for what, line in (("parameters", "-"), ("logits", "--")):
        for dtype in ("bfloat16", "float16"):
            found = series.of(drawn, "network", f"{what} in {dtype}")
            axes.plot(found["x"], found["y"], line, color=LOOKS[dtype][0], marker=".", ms=3, label=f"{what} in {dtype}")
    axes.set(xscale="symlog", yscale="log", xlabel="step", title="exact training, a network", ylim=(1e-16, 1e-4))
    axes.legend(loc="lower left", fontsize=6)
