"""Draw runs and sweeps in the style that all figures share: colour-blind-safe, one colour and marker per divergence."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.font_manager import findfont, get_font

from rlkl.errors import visible
from rlkl.runs.folder.files import write
from rlkl.runs.load import Runs, load

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",  # so that it looks the same where the font is missing
    "svg.hashsalt": "rlkl",
}
# Widths of figures in inches, to be included unscaled: a column and the page of ICML, the text of NeurIPS and ICLR.
COLUMN, TEXT, PAGE = 3.25, 5.5, 6.75
# Okabe and Ito's palette, safe for colour-blind readers.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A",
)  # fmt: skip
LOOKS = {
    "kl_pi_ref": (BLUE, "o"),
    "kl_ref_pi": (VERMILION, "s"),
    "alpha": (PURPLE, "D"),
    "jensen_shannon": (GREEN, "^"),
    "hellinger": (ORANGE, "v"),
    "pearson": (SKY, "P"),
    "root_pearson": ("#004D66", "p"),
    "kl_chi2": ("#117733", "h"),
    "neyman": ("#7A5195", "X"),
    "total_variation": (BLACK, "*"),
    "mixed": ("#B07AA1", "<"),
    "none": (GREY, "."),
}
MOST_CURVES, MOST_BARS = 40, 30
LARGEST = 1e100  # number that is drawn: an axis of much larger numbers overflows
NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?"  # if all outcomes are named by numbers, they are drawn on an axis
# Metadata of each format without dates and versions, so that the same figure has the same bytes.
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}


def look(divergence: str) -> tuple[str, str]:
    """Return the colour and marker of a divergence: grey diamonds for one that a plugin registered."""
    return LOOKS.get(divergence, (GREY, "d"))


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Use the shared style for figures that are made within this context."""
    with matplotlib.rc_context(STYLE):
        yield


def label(text: str, longest: int = 100, family: str = STYLE["font.family"]) -> str:
    """Return text to be drawn literally in a font, in one line of at most `longest` characters.

    Dollar signs start no mathematics, and characters that the font lacks are escaped.
    """
    font = get_font(findfont(family))
    line = "".join(c if font.get_char_index(ord(c)) else c.encode("ascii", "backslashreplace").decode() for c in visible(text))
    return (line if len(line) <= longest else line[: longest - 1] + "…").replace("$", r"\$")


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Save a figure as stem.png, stem.pdf, ... and return the paths; the same figure gives the same bytes.

    formats: of those in `UNDATED`.
    """
    paths = []
    for suffix in formats:
        paths.append(stem.parent / f"{stem.name}.{suffix}")
        write(paths[-1], _encoded(figure, suffix))
    return paths


def png(folder: Path) -> bytes:
    """Return the figure of the run or the sweep in a folder as the content of a PNG."""
    return _encoded(draw(load(folder)), "png")


def _encoded(figure: Figure, suffix: str) -> bytes:
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format=suffix, metadata=UNDATED[suffix])
    return out.getvalue()


def draw(runs: Runs) -> Figure:
    """Draw one run (learning curves, regret, distribution) or a sweep (regret over steps and over beta, entropy over beta)."""
    with styled():
        figure = Figure(figsize=(9.0, 2.7))
        draw_on(figure, runs)
        return figure


def draw_on(figure: FigureBase, runs: Runs) -> None:
    """Draw what `draw` draws on an empty figure, or on an empty part of one."""
    if len(runs.summary) == 1:
        _one_run(figure, runs)
    else:
        _sweep(figure, runs)


def _one_run(figure: FigureBase, runs: Runs) -> None:
    summary, history, outcomes = runs.summary.iloc[0], runs.history, runs.outcomes
    curves, regret, arms = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    colour, _ = look(summary["divergence"])
    curves.plot(history["step"], drawable(history["reward"]), color=BLACK, lw=0.8, label="E[r]")
    if summary["divergence"] != "none":
        curves.plot(history["step"], drawable(history["objective"]), color=colour, label="objective")
    best = drawable(summary["optimal_objective"])
    if not np.isnan(best):
        curves.axhline(float(best), color=BLACK, ls="--", lw=0.8, label="optimal objective")
    curves.set(xlabel="step", ylabel="reward", title=_objective(summary))
    curves.legend()
    if history["regret"].notna().any():
        _regret(regret, history["step"], history["regret"], colour)
        regret.set(xlabel="step", ylabel="regret", title="distance from the exact optimum")
    else:
        regret.plot(history["step"], drawable(history["kl_pi_ref"]), color=colour)
        regret.set(xlabel="step", ylabel="KL(pi‖pi_ref)", title="no optimum is known")
    if runs.prompts.empty:
        _distribution(arms, outcomes)
    else:
        _success_rates(arms, runs.prompts)
    figure.suptitle(f"{label(summary['task'])}, policy {label(summary['policy'])}, {label(summary['algorithm'])}", fontsize=8.5)


def _objective(summary) -> str:
    return "E[r]" if summary["divergence"] == "none" else f"E[r] - {summary['beta']:g} {label(summary['formula'])}"


def drawable(values: Any) -> np.ndarray:
    """Return numbers that can be drawn: NaN where they are not finite, or above LARGEST in size."""
    numbers = np.asarray(values, float)
    return np.where(np.abs(numbers) <= LARGEST, numbers, np.nan)


def _left_out(count: int) -> str:
    """Return the note on how many runs have numbers that cannot be drawn."""
    return f"\n({count} run{'s' if count > 1 else ''} left out: not finite, or above {LARGEST:g})" if count else ""


def _regret(axes: Axes, steps, regret, colour: str, **rest) -> None:
    """Draw regret on a log scale; values at the level of rounding errors are drawn at 1e-16."""
    axes.plot(steps, np.maximum(drawable(regret), 1e-16), color=colour, **rest)
    axes.set_yscale("log")


def _distribution(axes: Axes, outcomes) -> None:
    """Draw reference, policy and optimum: as lines if outcomes are numbers, else as bars of the likeliest outcomes."""
    kinds = [("reference", GREY, "-"), ("policy", BLUE, "-"), ("optimum", BLACK, "--")]
    kinds = [kind for kind in kinds if outcomes[kind[0]].notna().any()]
    if 12 < len(outcomes) <= 128 and outcomes["outcome"].str.fullmatch(NUMBER).all():
        x = outcomes["outcome"].astype(float)
        for name, colour, line in kinds:
            axes.plot(x, outcomes[name], color=colour, ls=line, drawstyle="steps-mid", label=name)
        axes.set_xlabel("outcome")
    else:
        likely = outcomes[["reference", "policy", "optimum"]].max(axis=1).sort_values(ascending=False, kind="stable")
        shown = outcomes.loc[np.sort(likely.index[:MOST_BARS])]
        x = np.arange(len(shown))
        for offset, (name, colour, _) in zip((-0.27, 0.0, 0.27), kinds, strict=False):
            axes.bar(x + offset, shown[name], 0.27, color=colour, label=name)
        axes.set_xticks(x, [label(name, 30) for name in shown["outcome"]], rotation=90 if len(shown) > 6 else 0, fontsize=6)
        if len(shown) < len(outcomes):
            axes.set_xlabel(f"the {len(shown)} likeliest of {len(outcomes)} outcomes")
    axes.set(ylabel="probability", title="before and after")
    axes.legend()


def _success_rates(axes: Axes, prompts) -> None:
    """Draw the success rate of reference, policy and optimum for each prompt, in the order of the reference's."""
    ordered = prompts.sort_values("reference_success_rate", kind="stable")
    x = np.arange(len(ordered))
    rates = {"reference": ("reference_success_rate", GREY, "o"), "policy": ("success_rate", BLUE, "o")}
    rates |= {"optimum": ("optimum_success_rate", BLACK, "_")}
    rates |= {"optimum of the utility": ("utility_optimum_success_rate", VERMILION, "_")}
    for name, (column, colour, marker) in rates.items():
        if column in ordered and ordered[column].notna().any():
            size = 9 if marker == "_" else 3.5
            axes.plot(x, drawable(ordered[column]), marker, color=colour, ms=size, label=name, ls="none")
    if len(ordered) <= MOST_BARS:
        turned = 90 if max(map(len, ordered["prompt"])) * len(ordered) > 60 else 0
        axes.set_xticks(x, [label(name, 30) for name in ordered["prompt"]], rotation=turned, fontsize=6)
    else:
        axes.set_xlabel(f"{len(ordered)} prompts, in the order of the reference's success rate")
    axes.set(ylabel="success rate", ylim=(-0.03, 1.03), title="before and after")
    axes.legend()


def _sweep(figure: FigureBase, runs: Runs) -> None:
    over_steps, final, entropy = figure.subplots(1, 3)
    drawn = runs.summary[_can_be_drawn(runs.summary, "beta", "regret")]
    if drawn.empty:
        _without_optimum(over_steps, final, runs)
    else:
        _regrets(over_steps, final, runs, drawn)
    _entropies(entropy, runs)
    for axes in (final, entropy):
        if axes.has_data():
            axes.legend()


def _can_be_drawn(summary, *columns: str) -> np.ndarray:
    """Return the runs that have a number that can be drawn in each of these columns, as Bool["runs"]."""
    return ~np.isnan(drawable(summary[list(columns)])).any(axis=1)


def _regrets(left: Axes, right: Axes, runs: Runs, drawn) -> None:
    """Draw the regret over steps, and the final regret over beta of those runs that have one."""
    for _, summary in runs.summary.head(MOST_CURVES).iterrows():
        history = runs.history[runs.history["run"] == summary["run"]]
        _regret(left, history["step"], history["regret"], look(summary["divergence"])[0], alpha=0.6, lw=0.8)
    many = f" (the first {MOST_CURVES} runs)" if len(runs.summary) > MOST_CURVES else ""
    left.set(xlabel="step", ylabel="regret", title=f"distance from the exact optimum{many}")
    _over_beta(right, drawn, np.maximum(drawn["regret"].astype(float), 1e-16), len(runs.summary) - len(drawn))
    tasks = [label(task) for task in sorted(set(runs.summary["task"]))]
    title = f"{len(runs.summary)} runs on {', '.join(tasks[:2])}{', ...' if len(tasks) > 2 else ''}"
    right.set(yscale="log", ylabel="final regret", title=title)


def _entropies(axes: Axes, runs: Runs) -> None:
    """Draw the final entropy of each run over beta and, where it is the same for all runs, the reference's as a line."""
    drawn = runs.summary[_can_be_drawn(runs.summary, "beta", "entropy")]
    axes.set(xlabel="beta", ylabel="entropy in nats", title="final entropy")
    if drawn.empty:
        return
    references = drawable(runs.diversity.loc[runs.diversity["metric"] == "entropy", "reference"])
    if references.size and np.ptp(references) <= 1e-9 * max(1.0, abs(references[0])):
        axes.axhline(references[0], color=GREY, ls=":", label="reference")
    _over_beta(axes, drawn, drawn["entropy"].astype(float), len(runs.summary) - len(drawn))


def _over_beta(axes: Axes, drawn, values, left_out: int) -> None:
    """Draw a value of each run over beta, in the look of its divergence. left_out: how many runs are not among them."""
    for divergence, group in drawn.groupby("divergence", sort=False):
        colour, marker = look(str(divergence))
        name = label(group["formula"].iloc[0])
        axes.plot(group["beta"], values[group.index], marker, color=colour, label=name, alpha=0.8)
    betas = sorted(set(drawn["beta"]))
    axes.set(xscale="log" if betas[0] > 0 else "linear", xlabel="beta" + _left_out(left_out))
    if len(betas) <= 8:
        axes.set_xticks(betas, [f"{beta:.3g}" for beta in betas])
        axes.minorticks_off()


def _without_optimum(left: Axes, right: Axes, runs: Runs) -> None:
    """Draw a sweep whose optimum is not known: the objective over steps, and the reward over KL(pi‖pi_ref)."""
    for _, summary in runs.summary.head(MOST_CURVES).iterrows():
        history = runs.history[runs.history["run"] == summary["run"]]
        left.plot(history["step"], drawable(history["objective"]), color=look(summary["divergence"])[0], alpha=0.6, lw=0.8)
    left.set(xlabel="step", ylabel="objective", title="no optimum is known")
    drawn = runs.summary[_can_be_drawn(runs.summary, "kl_pi_ref", "reward")]
    for divergence, group in drawn.groupby("divergence", sort=False):
        colour, marker = look(str(divergence))
        right.plot(group["kl_pi_ref"], group["reward"], marker, color=colour, label=label(group["formula"].iloc[0]), alpha=0.8)
    xlabel = "KL(pi‖pi_ref)" + _left_out(len(runs.summary) - len(drawn))
    right.set(xlabel=xlabel, ylabel="E[r]", title=f"{len(runs.summary)} runs")
