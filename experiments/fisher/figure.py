"""Curvature: to second order both KLs are the Fisher metric, whose steepest ascent no parametrisation changes.

Sources: Amari 1998, "Natural gradient works efficiently in learning"; a discussion of KL's curvature, for the potential.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import Row, points
from rlkl import divergences
from rlkl.divergences import Params
from rlkl.reports import plots
from rlkl.settings import numerics

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
SIZES = np.geomspace(1e-3, 0.3, 12)
REFERENCE, REWARD, BETA = np.array([0.6, 0.3, 0.1]), np.array([0.0, 0.5, 1.0]), 0.5
START, STEPS, TIME = np.array([0.9, 0.05, 0.05]), 4000, 12.0
PHI = (1.0 + math.sqrt(5.0)) / 2.0
CLAIMED = 1.0 / (2.0 * PHI**3)


def table(runs: None) -> pd.DataFrame:
    """Every number that is drawn or claimed; nats."""
    with numerics.pinned():
        return series.frame([*_expansion(), *_paths(), *_potential()])


def _kl(name: str, log_p, log_q):
    return divergences.exact(divergences.REGISTRY[name], Params(), log_p, log_q)


def _expansion() -> list[Row]:
    """KL between logits theta and theta + d, both ways, and d'Fd/2 with F = diag(p) - pp'."""
    draw = np.random.default_rng(0)
    theta, d = draw.normal(size=6), draw.normal(size=6)
    p = np.exp(theta) / np.exp(theta).sum()
    d = d / math.sqrt(d @ (np.diag(p) - np.outer(p, p)) @ d)  # of unit length in the metric
    both = jax.jit(
        lambda size, name: _kl(name, jax.nn.log_softmax(theta + size * d), jax.nn.log_softmax(theta)), static_argnums=1
    )
    rows = points("expansion", "half the Fisher metric", SIZES, 0.5 * SIZES**2)
    for name in DIRECTIONS:
        value = np.array([float(both(jnp.asarray(size), name)) for size in SIZES])
        rows += points("expansion", name, SIZES, value)
        rows += points("error", name, SIZES, np.abs(value - 0.5 * SIZES**2))
    return rows


def _paths() -> list[Row]:
    """Ascent of E[r] - beta KL(pi‖pi_ref) in two parametrisations (logits less the last; two probabilities), plain and
    natural, as flows (Runge-Kutta): x and y of a path are its first two probabilities."""
    log_ref, reward = jnp.log(jnp.asarray(REFERENCE)), jnp.asarray(REWARD)

    def objective(log_p):
        return jnp.exp(log_p) @ reward - BETA * _kl("kl_pi_ref", log_p, log_ref)

    charts = {
        "logits": (lambda x: jax.nn.log_softmax(jnp.append(x, 0.0)), np.log(START[:2] / START[2])),
        "probabilities": (lambda x: jnp.log(jnp.append(x, 1.0 - jnp.sum(x))), START[:2]),
    }
    rows: list[Row] = []
    for chart, (log_p, start) in charts.items():
        for natural in (False, True):

            def flow(x, log_p=log_p, natural=natural):
                gradient = jax.grad(lambda x: objective(log_p(x)))(x)
                score = jax.jacobian(log_p)(x)
                metric = score.T @ (jnp.exp(log_p(x))[:, None] * score)
                return jnp.linalg.solve(metric, gradient) if natural else gradient

            def step(x, _, flow=flow, log_p=log_p, h=TIME / STEPS):
                a = flow(x)
                b = flow(x + 0.5 * h * a)
                c = flow(x + 0.5 * h * b)
                after = x + h / 6.0 * (a + 2.0 * b + 2.0 * c + flow(x + h * c))
                return after, jnp.exp(log_p(after))[:2]

            _, path = jax.jit(lambda x, step=step: jax.lax.scan(step, x, None, STEPS))(jnp.asarray(start))
            kept = np.asarray(path)[19::20]
            rows += points("paths", f"{'natural' if natural else 'plain'}, by {chart}", kept[:, 0], kept[:, 1])
    best = np.exp(np.log(REFERENCE) + REWARD / BETA)
    return [*rows, *points("paths", "optimum", [best[0] / best.sum()], [best[1] / best.sum()])]


def potential(v, s, s0):
    """V(s) = v^4 (s - s0)^2/(1 - s - s^2)."""
    return v**4 * (s - s0) ** 2 / (1.0 - s - s**2)


def _potential() -> list[Row]:
    """Half the curvature of the potential at s0, by finite differences, on and off the one curve where it is 1/(2 phi^3)."""
    h = 1e-4
    half = lambda v, s0: (potential(v, s0 + h, s0) + potential(v, s0 - h, s0)) / (2.0 * h * h)  # noqa: E731
    s0 = np.linspace(-1.55, 0.56, 80)
    v = ((1.0 - s0 - s0**2) * CLAIMED) ** 0.25
    rows = points("potential", "curve of the claim", s0, v) + points("curvature", "on the curve", s0, half(v, s0))
    for at in (0.5, 0.8, 1.0):
        rows += points("curvature", f"v = {at:g}", s0, half(at, s0))
        rows += points("formula", f"v = {at:g}", s0, at**4 / (1.0 - s0 - s0**2))
    return rows


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    half = series.of(drawn, "expansion", "half the Fisher metric")["y"].to_numpy()
    found: list[Claim] = []
    for name in DIRECTIONS:
        formula = divergences.REGISTRY[name].formula
        value = series.of(drawn, "expansion", name)["y"].to_numpy()
        found.append(near(f"{formula} over half the Fisher metric, at the smallest step", _first(value / half), 1.0, 1e-3))
        found.append(near(f"{formula}: slope of the error", series.slope(series.of(drawn, "error", name)), 3.0, 0.1))
    ways = {
        way: [series.of(drawn, "paths", f"{way}, by {chart}") for chart in ("logits", "probabilities")]
        for way in ("natural", "plain")
    }
    best = series.of(drawn, "paths", "optimum")
    on = series.of(drawn, "curvature", "on the curve")["y"]
    errors = [
        abs(series.ratio(a, b) - 1.0)
        for at in (0.5, 0.8, 1.0)
        for a, b in zip(*(series.of(drawn, panel, f"v = {at:g}")["y"] for panel in ("curvature", "formula")), strict=True)
    ]
    off = series.of(drawn, "curvature", "v = 1")["y"]
    return [
        *found,
        at_most("natural gradient: largest distance of the paths of two parametrisations", _apart(*ways["natural"]), 1e-8),
        at_least("plain gradient: the same distance", _apart(*ways["plain"]), 0.02),
        at_most("natural gradient ends at the optimum: distance", _to(ways["natural"][0], best), 5e-3),
        at_most(
            "half the potential's curvature at s0 over v^4/(1 - s0 - s0^2), less 1: the largest", series.largest(errors), 1e-5
        ),
        at_most("on one curve of (v, s0) it is 1/(2 phi^3): largest distance", series.largest(abs(on - CLAIMED)), 1e-5),
        at_least("off it, at v = 1, it is not: least distance", series.smallest(abs(off - CLAIMED)), 0.1),
    ]


def _first(values: np.ndarray) -> float:
    return float(values[0]) if len(values) else math.nan


def _apart(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """The largest distance of two paths at equal times."""
    columns = ["x", "y"]
    return (
        series.largest(np.hypot(*(first[columns].to_numpy() - second[columns].to_numpy()).T))
        if len(first) == len(second)
        else math.nan
    )


def _to(path: pd.DataFrame, point: pd.DataFrame) -> float:
    """How far from a point a path ends."""
    columns = ["x", "y"]
    return float(np.hypot(*(path[columns].iloc[-1] - point[columns].iloc[0]))) if len(path) and len(point) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """The error of the second order; paths of plain and natural gradients; the one curve where the potential's claim holds."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.6))
        expansion, paths, curve = figure.subplots(1, 3)
        found = series.of(drawn, "expansion", "half the Fisher metric")
        expansion.plot(found["x"], found["y"], color=plots.BLACK, lw=0.8, label="d'Fd/2")
        for name in DIRECTIONS:
            colour, marker = plots.look(name)
            both = [series.of(drawn, panel, name) for panel in ("expansion", "error")]
            expansion.plot(both[0]["x"], both[0]["y"], marker, color=colour, label=divergences.REGISTRY[name].formula)
            expansion.plot(both[1]["x"], both[1]["y"], marker, color=colour, mfc="white", label="its distance from that")
        expansion.set(
            xscale="log", yscale="log", xlabel="step, in the metric", ylabel="nats", title="second order; slope 3 is left"
        )
        expansion.legend(loc="lower right", fontsize=5.5, handletextpad=0.2)
        for way, colour in (("plain", plots.ORANGE), ("natural", plots.GREEN)):
            for chart, line in (("logits", "-"), ("probabilities", "--")):
                found = series.of(drawn, "paths", f"{way}, by {chart}")
                paths.plot([START[0], *found["x"]], [START[1], *found["y"]], line, color=colour, label=f"{way}, by {chart}")
        found = series.of(drawn, "paths", "optimum")
        paths.plot(found["x"], found["y"], "*", color=plots.BLACK, ms=7)
        paths.set(xlabel="p(1)", ylabel="p(2)", title="ascent to the optimum", ylim=(0, 0.62))
        paths.legend(loc="upper right", fontsize=6)
        found = series.of(drawn, "potential", "curve of the claim")
        curve.plot(found["x"], found["y"], color=plots.VERMILION, label="1/(2φ³): the claim")
        s0, v = np.meshgrid(np.linspace(-1.58, 0.58, 60), np.linspace(0.2, 1.1, 60))
        levels = (-2.0, -1.5, -0.5, 0.0)
        lines = curve.contour(
            s0, v, np.log10(v**4 / (1.0 - s0 - s0**2)), levels, colors=plots.GREY, linewidths=0.6, linestyles="-"
        )
        crest = [(-0.5, (1.25 * 10**x) ** 0.25) for x in levels]
        curve.clabel(lines, fmt=lambda x: f"{10**x:.2g}", fontsize=6, manual=crest)
        curve.set(xlabel="s0", ylabel="v", title="half the potential's curvature")
        curve.legend(loc="lower center", fontsize=6)
        return figure
