"""Zero and units: KL is 0 exactly when the distributions are equal, and is counted in nats or in bits.

Sources: Gibbs' inequality; Pinsker 1964; Cover and Thomas, "Elements of Information Theory" (2006), sections 2.6 and 11.6.
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
from rlkl.reports import plots
from rlkl.settings import numerics

PAIRS, ARMS = 400, (2, 3, 10, 100)
EVERY = [name for name in divergences.REGISTRY if name in plots.LOOKS]
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")


def table(runs: None) -> pd.DataFrame:
    """Random pairs, from nearly equal to far: their divergences by total variation; equal pairs; a coin in both units."""
    draw = np.random.default_rng(0)
    rows: list[Row] = []
    with numerics.pinned():
        value = jax.jit(
            lambda name, p, q: divergences.exact(divergences.REGISTRY[name], divergences.Params(), p, q), static_argnums=0
        )
        for arms in ARMS:
            p = np.log(draw.dirichlet(np.ones(arms), PAIRS // len(ARMS)))
            by = 10.0 ** draw.uniform(-4.0, 0.5, (len(p), 1))
            q = jnp.asarray(p + by * draw.normal(size=p.shape))
            q = q - jax.nn.logsumexp(q, axis=1, keepdims=True)
            apart = np.asarray(value("total_variation", p, q))
            for name in EVERY:
                rows += points("pairs", name, apart, value(name, jnp.asarray(p), q))
                rows += points("equal", name, [arms], [float(jnp.max(jnp.abs(value(name, q, q))))])
        share = np.linspace(0.0, 1.0, 101)
        with np.errstate(divide="ignore"):
            coins, fair = np.log(np.stack([share, 1.0 - share], 1)), np.full((101, 2), -math.log(2.0))
        nats = np.asarray(value("kl_pi_ref", jnp.asarray(coins), jnp.asarray(fair)))
    entropy = -np.sum([np.where(x > 0, x * np.log2(np.where(x > 0, x, 1)), 0) for x in (share, 1 - share)], axis=0)
    return series.frame([*rows, *points("coin", "nats", share, nats), *points("coin", "bits", share, 1.0 - entropy)])


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    equal, pairs = (drawn[drawn["panel"] == panel] for panel in ("equal", "pairs"))
    kls = pairs[pairs["series"].isin(DIRECTIONS)]
    nats, bits = (series.of(drawn, "coin", name)["y"].to_numpy() for name in ("nats", "bits"))
    return [
        at_most("equal distributions: the largest of any divergence", series.largest(equal["y"]), 0.0),
        at_least("different distributions: the least of any divergence", series.smallest(pairs["y"]), 1e-16),
        at_most(
            "different distributions: how near to each other they were, least total variation",
            series.smallest(pairs["x"]),
            1e-3,
        ),
        at_least(
            "Pinsker: least KL over 2 TV², both directions", series.smallest(kls["y"] / (2.0 * kls["x"] ** 2)), 1.0 - 1e-6
        ),
        near("bits times ln 2 less nats, over all coins", series.largest(np.abs(bits * math.log(2.0) - nats)), 0.0, 1e-12),
        near("a sure coin against a fair one, bits", series.value(drawn, "coin", "bits", 1.0), 1.0, 1e-12),
        near("the same in nats", series.value(drawn, "coin", "nats", 1.0), math.log(2.0), 1e-12),
        near("a fair coin against itself", series.value(drawn, "coin", "nats", 0.5), 0.0, 1e-12),
    ]


def draw(drawn: pd.DataFrame) -> Figure:
    """Both KLs by total variation, with Pinsker's bound; a coin against a fair one, in nats and bits."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.6))
        left, right = figure.subplots(1, 2)
        for name in DIRECTIONS:
            found = series.of(drawn, "pairs", name)
            left.plot(found["x"], found["y"], ".", color=plots.look(name)[0], ms=2.5, label=divergences.REGISTRY[name].formula)
        bound = np.geomspace(1e-6, 1.0, 2)
        left.plot(bound, 2.0 * bound**2, color=plots.BLACK, lw=0.8, label="2 TV² (Pinsker)")
        left.set(xscale="log", yscale="log", xlabel="total variation", ylabel="KL, nats", title="zero only where equal")
        left.legend(loc="upper left", markerscale=2.5)
        found = series.of(drawn, "coin", "nats")
        right.plot(found["x"], found["y"], color=plots.BLUE)
        right.set(xlabel="p", ylabel="KL(p‖½), nats", title="a coin against a fair one")
        other = right.secondary_yaxis("right", functions=(lambda x: x / math.log(2.0), lambda x: x * math.log(2.0)))
        other.set_ylabel("bits")
        right.spines["right"].set_visible(True)
        return figure
