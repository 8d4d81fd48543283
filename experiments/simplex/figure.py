"""Three arms on the simplex: where exact softmax gradients flow, and the optimum's path from reference to best arm over beta.

Source: the flow of Mei et al. 2020, arXiv 2005.06392, section 3, with a penalty; optima in closed form.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import optima, series
from experiments.harness.claims import Claim, at_least, at_most
from experiments.harness.series import Row, points
from rlkl import divergences
from rlkl.divergences import Params
from rlkl.reports import plots
from rlkl.settings import numerics
from rlkl.tasks.bandits import bandit

REFERENCE, REWARD = np.array([0.55, 0.35, 0.10]), np.array([0.0, 0.7, 1.0])
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
BETA, BETAS = 0.3, np.geomspace(1e-3, 1e3, 241)
STARTS = [(a, b, 1.0 - a - b) for a in (0.02, 0.34, 0.66) for b in (0.02, 0.32, 0.62) if a + b < 0.99]
STEPS, STEP = 20_000, 0.05
NAMED = ((0, "r = 0", "right", "top"), (1, "r = .7", "left", "top"), (2, "r = 1", "center", "bottom"))
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def table(runs: None) -> pd.DataFrame:
    """Points of the plane: paths of optima over beta, and of the flow from each start."""
    task = bandit(REWARD, REFERENCE)
    rows: list[Row] = []
    for name in DIRECTIONS:
        path = np.exp(optima.over_beta(task, name, BETAS)) @ CORNERS
        rows += points(name, "path of the optimum", path[:, 0], path[:, 1])
        best = np.exp(optima.over_beta(task, name, np.array([BETA]))) @ CORNERS
        rows += points(name, "optimum", best[:, 0], best[:, 1])
        for number, flow in enumerate(_flows(name) @ CORNERS):
            rows += points(name, f"flow {number}", flow[:, 0], flow[:, 1])
    reference = REFERENCE @ CORNERS
    return series.frame([*rows, *points("simplex", "reference", [reference[0]], [reference[1]])])


def _flows(name: str) -> np.ndarray:
    """Float["start time 3"]: gradient ascent of J in the logits, by small steps, at times that lie closer at first."""
    with numerics.pinned():
        log_ref, reward, div = jnp.log(jnp.asarray(REFERENCE)), jnp.asarray(REWARD), divergences.REGISTRY[name]

        def objective(logits):
            log_pi = jax.nn.log_softmax(logits)
            return jnp.exp(log_pi) @ reward - BETA * divergences.exact(div, Params(), log_pi, log_ref)

        def step(logits, _):
            return logits + STEP * jax.grad(objective)(logits), jax.nn.softmax(logits)

        run = jax.jit(jax.vmap(lambda start: jax.lax.scan(step, start, None, STEPS)[1]))
        kept = np.unique(np.geomspace(1, STEPS - 1, 80).astype(int))
        return np.asarray(run(jnp.log(jnp.asarray(STARTS))))[:, [0, *kept]]


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found = []
    reference = series.of(drawn, "simplex", "reference")
    for name in DIRECTIONS:
        label = divergences.REGISTRY[name].formula
        best, path = series.of(drawn, name, "optimum"), series.of(drawn, name, "path of the optimum")
        flows = [series.of(drawn, name, f"flow {number}") for number in range(len(STARTS))]
        corner = pd.DataFrame([CORNERS[2]], columns=["x", "y"])
        found += [
            at_most(
                f"{label}: every flow ends at the optimum: largest distance",
                series.largest(_apart(f, best, -1) for f in flows),
                1e-3,
            ),
            at_least(f"{label}: farthest that one began from it", series.largest(_apart(f, best, 0) for f in flows), 0.5),
            at_most(f"{label}: the path begins at the reference: distance at beta = 1000", _apart(path, reference, -1), 1e-3),
            at_most(f"{label}: it ends at the best arm: distance at beta = .001", _apart(path, corner, 0), 0.01),
        ]
    both = [series.of(drawn, name, "path of the optimum")[["x", "y"]].to_numpy() for name in DIRECTIONS]
    apart = series.largest(np.abs(both[0] - both[1]).max(axis=1)) if all(map(len, both)) else math.nan
    return [*found, at_least("the two directions' paths differ: largest distance at equal beta", apart, 0.1)]


def _apart(path: pd.DataFrame, point: pd.DataFrame, at: int) -> float:
    """The distance of a path's first (0) or last (-1) point from a point."""
    columns = ["x", "y"]
    return float(np.hypot(*(path[columns].iloc[at] - point[columns].iloc[0]))) if len(path) and len(point) else math.nan


def draw(drawn: pd.DataFrame) -> Figure:
    """A triangle a direction."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 3.1))
        reference = series.of(drawn, "simplex", "reference")
        for axes, name in zip(figure.subplots(1, 2), DIRECTIONS, strict=True):
            axes.plot(*CORNERS[[0, 1, 2, 0]].T, color=plots.BLACK, lw=0.6)
            for number in range(len(STARTS)):
                flow = series.of(drawn, name, f"flow {number}")
                axes.plot(
                    flow["x"], flow["y"], color=plots.GREY, lw=0.8, label="flow of exact gradients" if number == 0 else None
                )
                axes.plot(flow["x"].iloc[:1], flow["y"].iloc[:1], ".", color=plots.GREY, ms=3)
            path, best = series.of(drawn, name, "path of the optimum"), series.of(drawn, name, "optimum")
            axes.plot(path["x"], path["y"], color=plots.look(name)[0], lw=1.6, label="optimum over beta")
            axes.plot(best["x"], best["y"], "*", color=plots.look(name)[0], ms=8, label=f"optimum at beta = {BETA:g}")
            axes.plot(reference["x"], reference["y"], "o", color=plots.BLACK, label="reference")
            for corner, text, ha, va in NAMED:
                axes.annotate(text, CORNERS[corner], ha=ha, va=va, fontsize=7)
            axes.set(title=divergences.REGISTRY[name].formula, aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.07, 0.95))
            axes.axis("off")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure
