"""The figures of a diagnosis: panels that have data, each alone on the page, and together in files."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkl.reports import plots
from rlkl.reports.plots import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, drawable

if TYPE_CHECKING:
    from rlkl.diagnostics.diagnose.diagnosis import Diagnosis

HEIGHT = 2.2  # inches
KL = {"kl_k1": (SKY, "k1"), "kl_k3": (BLUE, "k3")}
MISMATCH = {"mismatch_k1": (ORANGE, "k1"), "mismatch_k3": (VERMILION, "k3")}
ENTROPY = {"entropy": (GREEN, "")}


class Panel(NamedTuple):
    """One set of axes. label: what it shows, in words."""

    label: str
    draw: Callable[[Axes], None]


def panels(diagnosis: "Diagnosis") -> dict[str, list[Panel]]:
    """The panels of each figure by its name, those without data left out."""
    every = {
        "course": list(_course(diagnosis)),
        "mismatch": list(_mismatch(diagnosis)),
        "tails": list(_tails(diagnosis)),
        "groups": list(_groups(diagnosis)),
        "pulls": list(_pulls(diagnosis)),
    }
    return {name: each for name, each in every.items() if each}


def figures(diagnosis: "Diagnosis") -> dict[str, Figure]:
    """The figures by name."""
    return {name: draw(each) for name, each in panels(diagnosis).items()}


def draw(drawn: list[Panel]) -> Figure:
    """The panels beside each other."""
    with plots.styled():
        figure = Figure(figsize=(plots.COLUMN if len(drawn) == 1 else plots.PAGE, HEIGHT))
        for panel, axes in zip(drawn, np.ravel(figure.subplots(1, len(drawn))), strict=True):
            panel.draw(axes)
    return figure


def _course(diagnosis: "Diagnosis") -> Iterator[Panel]:
    """KL and entropy over steps, or by position where steps are not known."""
    steps = diagnosis.by_step
    if _has_curve(steps, KL):
        yield Panel("KL(pi‖pi_ref) over steps", partial(_curves, steps, KL, "step", "KL(pi‖pi_ref), nats a token"))
    if _has_curve(steps, ENTROPY):
        yield Panel("Entropy over steps", partial(_curves, steps, ENTROPY, "step", "entropy, nats a token"))
    if not _has_curve(steps, KL):
        yield from _by_position(diagnosis, "kl_k3", BLUE, "KL(pi‖pi_ref) by k3")
    if not _has_curve(steps, ENTROPY):
        yield from _by_position(diagnosis, "entropy", GREEN, "surprise -log pi")


def _mismatch(diagnosis: "Diagnosis") -> Iterator[Panel]:
    unit = "KL(mu‖pi), nats a token"
    if _has_curve(diagnosis.by_step, MISMATCH):
        yield Panel("Mismatch over steps", partial(_curves, diagnosis.by_step, MISMATCH, "step", unit))
    if _has_curve(diagnosis.by_length, MISMATCH):
        yield Panel("Mismatch by length", partial(_errorbars, diagnosis.by_length, MISMATCH, "length in tokens", unit))
    yield from _by_position(diagnosis, "mismatch_k3", VERMILION, "KL(mu‖pi) by k3")


def _has_curve(points: pd.DataFrame, names: dict[str, tuple[str, str]]) -> bool:
    """Whether there are two points of a course to join."""
    course = points[points["name"].isin(names)]
    return course["where"].nunique() > 1 and bool(np.isfinite(drawable(course["value"])).sum() > 1)


def _curves(points: pd.DataFrame, names: dict[str, tuple[str, str]], xlabel: str, ylabel: str, axes: Axes) -> None:
    """Each course with its 95% band."""
    for name, (colour, text) in names.items():
        rows = points[points["name"] == name]
        few = len(rows) <= 30
        axes.plot(rows["where"], drawable(rows["value"]), color=colour, label=text, marker="o" if few else "", ms=2.5)
        axes.fill_between(rows["where"], drawable(rows["low"]), drawable(rows["high"]), color=colour, alpha=0.2, lw=0)
    _finish(axes, xlabel, ylabel, list(names.values()))


def _errorbars(points: pd.DataFrame, names: dict[str, tuple[str, str]], xlabel: str, ylabel: str, axes: Axes) -> None:
    """Each number with its 95% interval."""
    for name, (colour, text) in names.items():
        rows = points[points["name"] == name]
        value, low, high = (drawable(rows[column]) for column in ("value", "low", "high"))
        axes.errorbar(rows["where"], value, np.maximum([value - low, high - value], 0.0), fmt="o", color=colour, label=text)
    _finish(axes, xlabel, ylabel, list(names.values()))


def _finish(axes: Axes, xlabel: str, ylabel: str, looks: list[tuple[str, str]]) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.axhline(0.0, color=GREY, lw=0.5, zorder=0)
    if any(text for _, text in looks):
        axes.legend()


def _by_position(diagnosis: "Diagnosis", name: str, colour: str, title: str) -> Iterator[Panel]:
    positions = diagnosis.by_position
    if np.isfinite(drawable(positions[name])).sum() > 1:
        yield Panel(f"{title} by position", partial(_positions, positions, name, colour, f"{title}, nats a token"))


def _positions(positions: pd.DataFrame, name: str, colour: str, ylabel: str, axes: Axes) -> None:
    """Means by position, as steps: positions double in width."""
    first, last = positions["first"].to_numpy() + 1, positions["last"].to_numpy() + 2
    axes.stairs(drawable(positions[name]), np.append(first, last[-1]), color=colour, lw=1.2, baseline=None)
    axes.set(xscale="log", xlabel="position of the token, from 1", ylabel=ylabel)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axhline(0.0, color=GREY, lw=0.5, zorder=0)


def _tails(diagnosis: "Diagnosis") -> Iterator[Panel]:
    if not diagnosis.tail_curves.empty:
        yield Panel("Share of the sum of k3 in the largest tokens", partial(_tail, diagnosis.tail_curves))


def _tail(curves: pd.DataFrame, axes: Axes) -> None:
    """The share of each sum that the largest tokens have."""
    colours = {"k3 of KL(pi‖pi_ref)": BLUE, "k3 of KL(mu‖pi)": VERMILION}
    for about, rows in curves.groupby("about", sort=False):
        axes.plot(100 * rows["tokens"], 100 * rows["share"], color=colours[str(about)], label=str(about))
    parts = np.geomspace(curves["tokens"].min(), 1.0, 50)
    axes.plot(100 * parts, 100 * parts, color=GREY, ls=":", lw=0.9, label="equal tokens")
    axes.axvline(1.0, color=GREY, lw=0.5, zorder=0)
    axes.set(xscale="log", xlabel="largest tokens, % of all", ylabel="share of the sum, %", ylim=(0.0, 102.0))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()


def _groups(diagnosis: "Diagnosis") -> Iterator[Panel]:
    groups = diagnosis.groups
    if groups is not None and groups.rows:
        rows = pd.DataFrame(groups.rows)
        yield Panel("Success rates of groups", partial(_success, rows))
        yield Panel("Slope of the utility of standardised advantages", partial(_utility, rows, groups.size))


def _success(rows: pd.DataFrame, axes: Axes) -> None:
    axes.bar(rows["low"], 100 * rows["share"], rows["high"] - rows["low"], align="edge", color=SKY, edgecolor="white", lw=0.8)
    axes.set(xlabel="success rate of a group", ylabel="groups, %", xlim=(0.0, 1.0))


def _utility(rows: pd.DataFrame, size: float, axes: Axes) -> None:
    edges = np.append(rows["low"], rows["high"].iloc[-1])
    axes.stairs(rows["slope"], edges, color=BLACK, lw=1.2, baseline=None, label=f"divided by the deviation, {size:g} answers")
    axes.axhline(1.0, color=GREY, ls=":", label="plain rewards")
    axes.set(xlabel="success rate of a prompt", ylabel="factor of its gradient", xlim=(0.0, 1.0))
    axes.set_ylim(0.0, 1.35 * max(1.0, rows["slope"].max()))
    axes.legend(loc="upper center")


def _pulls(diagnosis: "Diagnosis") -> Iterator[Panel]:
    if diagnosis.penalty is not None and np.isfinite(drawable(diagnosis.penalty.pulls["pull"])).any():
        yield Panel("Pull of the penalty and of divergences towards pi_ref, at beta 1", partial(_bars, diagnosis.penalty.pulls))


def _bars(pulls: pd.DataFrame, axes: Axes) -> None:
    """The pulls with their 95% intervals, the penalty's on top."""
    kinds = {"exact": "", "semi": ", semi-gradient", "": ""}
    names = [f"{plots.label(row.gradient)}{kinds[row.kind]}" for row in pulls.itertuples()]
    height = -np.arange(len(pulls))
    colours = [BLACK, *[GREY] * (len(pulls) - 1)]
    error = drawable(1.96 * pulls["stderr"])
    axes.barh(height, drawable(pulls["pull"]), 0.6, xerr=error, color=colours, error_kw={"lw": 0.8, "ecolor": ORANGE})
    axes.set_yticks(height, names)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0.0, color=GREY, lw=0.5)
    axes.set(xlabel="pull, nats a sequence")
