"""A check's answer in words, as a table, as JSON and as a figure."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from rlkl.diagnostics.check.matching import SAME
from rlkl.diagnostics.check.report import CheckRow, Report
from rlkl.divergences import REGISTRY
from rlkl.reports import plots
from rlkl.reports.console import number

SCHEMA_VERSION = 1
SHOWN = 8.0  # log-ratios that the figure shows
TITLES = {
    "bandit": "one token",
    "equal": "equal lengths",
    "unequal": "unequal lengths",
    "extreme": "log-ratios to 25",
    "padded_left": "padded on the left",
    "padded_right": "padded on the right",
    "sampler": "older sampler",
    "weighted": "weighted rows",
}


def title(world: str) -> str:
    """The name of a world in tables."""
    if not world.startswith("groups"):
        return TITLES[world]
    size, _, kind = world.removeprefix("groups_").partition("_")
    return f"groups of {size}" + (f", {kind} lengths" if kind else "")


def short(row: CheckRow) -> str:
    """What a row descends, without explanations in brackets."""
    return row.descends.removesuffix(" (the states that follow are left out)").removeprefix("the ")


def sentence(report: Report) -> str:
    """The answer in sentences: one token, several tokens, where it is otherwise, flags."""
    rows = {row.world: row for row in report.rows}
    parts = [f"On one token {_descends(rows['bandit'])}."] if "bandit" in rows else []
    sequences = [rows[name] for name in ("equal", "unequal") if name in rows]
    if len(sequences) == 2 and _descends(sequences[0]) == _descends(sequences[1]):
        parts.append(f"On several tokens {_descends(sequences[0])}.")
    else:
        parts += [f"On sequences of {title(row.world)} {_descends(row)}." for row in sequences]
    parts += [f"{says[0].upper()}{says[1:]}." for flag, says in report.notes.items() if flag != "group_dependent"]
    dependent = [title(row.world) for row in report.rows if "group_dependent" in row.flags]
    if dependent:
        parts.append(f"In {'; '.join(dependent)} it is otherwise: see the table.")
    return " ".join(parts)


def _descends(row: CheckRow) -> str:
    if row.kind == "inert":
        return "the penalty descends nothing: its expected gradient is zero"
    if row.kind == "none":
        cosines = f"cosine {row.cosine_kl_pi_ref:.3f} with KL(pi‖pi_ref)'s, {row.cosine_kl_ref_pi:.3f} with KL(pi_ref‖pi)'s"
        return f"the penalty has {row.descends} ({cosines})"
    verb = "climbs" if row.coefficient < 0.0 else "descends"
    return f"the penalty {verb} {row.descends}, at {abs(row.coefficient):.4g} times beta"


def table(report: Report) -> Table:
    """The table of the rows."""
    caption = f"gradients count as equal up to {SAME:g}, since libraries compute in float32; variance: of a batch of 64"
    shown = Table(title=f"{report.loss} ({report.framework}), beta {report.beta:g}", caption=caption)
    shown.title_justify = shown.caption_justify = "left"
    shown.add_column("world")
    shown.add_column("descends", ratio=1)
    for name in ("x beta", "residual", "cos KL(pi‖ref)", "cos KL(ref‖pi)", "variance"):
        shown.add_column(name, justify="right")
    shown.add_column("flags")
    for row in report.rows:
        coefficient = math.nan if row.kind in ("none", "inert") else row.coefficient
        numbers = (coefficient, row.residual, row.cosine_kl_pi_ref, row.cosine_kl_ref_pi, row.variance)
        cells = ["" if math.isnan(each) else number(each) for each in numbers]
        shown.add_row(title(row.world), short(row), *cells, " ".join(row.flags), style="dim" if row.kind == "none" else "")
    return shown


def metrics_table(report: Report) -> Table:
    """The table of what the loss logs."""
    shown = Table("logged", "estimates", title="what it returns beside the loss", title_justify="left")
    shown.add_column("on one token", justify="right")
    for metric in report.metrics:
        shown.add_row(metric.name, metric.estimates, number(metric.values["bandit"]))
    return shown


def as_json(report: Report) -> dict[str, Any]:
    """The report as valid JSON values: undefined numbers are null."""
    rows = [{**row._asdict(), "flags": list(row.flags)} for row in report.rows]
    metrics = [{**metric._asdict(), "values": dict(metric.values)} for metric in report.metrics]
    return {
        "schema_version": SCHEMA_VERSION,
        "loss": report.loss,
        "framework": report.framework,
        "beta": report.beta,
        "tolerance": SAME,
        "answer": sentence(report),
        "rows": [{key: _valid(value) for key, value in row.items()} for row in rows],
        "metrics": [{key: _valid(value) for key, value in metric.items()} for metric in metrics],
        "notes": dict(report.notes),
    }


def _valid(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _valid(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def figure(report: Report) -> Figure:
    """The penalty's slope at a token against those of both KLs, and the cosines of its gradient in each world."""
    with plots.styled():
        drawn = Figure(figsize=(6.75, 2.8))
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        _slopes(left, report)
        _cosines(right, list(report.rows))
        drawn.legend(loc="outside upper center", ncols=3)
    return drawn


def _slopes(axes: Any, report: Report) -> None:
    u = np.linspace(-SHOWN, SHOWN, 201)
    for name in ("kl_pi_ref", "kl_ref_pi"):
        slope = u if name == "kl_pi_ref" else -np.expm1(-u)
        axes.plot(u, slope, color=plots.look(name)[0], lw=1.0, label=f"slope of {REGISTRY[name].formula}")
    if report.curve is not None:
        near = np.abs(report.curve.u) <= SHOWN
        offset = np.interp(0.0, report.curve.u, report.curve.slope)
        axes.plot(
            report.curve.u[near],
            report.curve.slope[near] - offset,
            ".",
            color=plots.BLACK,
            ms=4,
            label="this penalty, less its value at 0",
        )
    axes.set(xlabel="log(pi/pi_ref) of a token", ylabel="slope", ylim=(-12, 9))


def _cosines(axes: Any, rows: list[CheckRow]) -> None:
    height = -np.arange(len(rows))
    for name, values in (
        ("kl_pi_ref", [row.cosine_kl_pi_ref for row in rows]),
        ("kl_ref_pi", [row.cosine_kl_ref_pi for row in rows]),
    ):
        colour, marker = plots.look(name)
        axes.plot(values, height, marker, color=colour, ms=4)
    axes.set(xlim=(-1.08, 1.08), xlabel="cosine with the gradient of each KL")
    axes.set_yticks(height, [title(row.world) for row in rows], fontsize=6)
    axes.axvline(0.0, lw=0.3, color=plots.GREY)
