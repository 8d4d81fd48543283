"""Asymmetry: when the two KLs are equal, when they are not, and what each means without any true distribution.

Sources: Kullback and Leibler 1951; Heskes 1998, "Selecting weighting factors in logarithmic opinion pools", for pools.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import Row, points
from rlkl.reports import plots

P, GENERIC = 0.4, 0.9  # one coin, and a coin that is not its mirror image
BELIEFS = (0.4, 0.6)  # of two observers, that there is life on Mars
GRID = np.arange(-90, 91)
CENTRES, WIDTH, WEIGHTS = (-20.0, 16.0), 5.0, (0.6, 0.4)  # of a pool's two beliefs
LOOKS = {"KL(pool‖q)": (plots.VERMILION, "forward"), "KL(q‖pool)": (plots.BLUE, "reverse")}


def kl(p, q) -> np.ndarray:
    """KL(p‖q) over the last axis, nats; both everywhere positive."""
    return np.sum(p * np.log(p / q), axis=-1)


def coin(p) -> np.ndarray:
    """The distribution of a coin."""
    return np.stack([np.asarray(p, float), 1.0 - np.asarray(p, float)], axis=-1)


def bell(mean, scale) -> np.ndarray:
    """A Gaussian on the grid."""
    logit = -0.5 * ((GRID - mean) / scale) ** 2
    p = np.exp(logit - logit.max())
    return np.maximum(p / p.sum(), 1e-300)


def table(runs: None) -> pd.DataFrame:
    """Every number that is drawn or claimed."""
    q = np.linspace(0.02, 0.98, 97)
    p = coin(P)
    rows = points("coins", "KL(p‖q)", q, kl(p, coin(q))) + points("coins", "KL(q‖p)", q, kl(coin(q), p))
    return series.frame([*rows, *_mars(), *_pool(), *_triples()])


def _mars() -> list[Row]:
    """Expected bits of a report, by each observer's own lights: in their own code, and in the other's."""
    rows: list[Row] = []
    for own, other, name in zip(BELIEFS, BELIEFS[::-1], ("one who says .4", "one who says .6"), strict=True):
        lights = coin(own)
        rows += points("mars", name, [0, 1], [-lights @ np.log2(coin(by)) for by in (own, other)])
        rows += points("mars, KL(own‖other)", name, [1], [kl(lights, coin(other)) / math.log(2.0)])
    return rows


def _pool() -> list[Row]:
    """One Gaussian for a pool of two beliefs, the best under each KL, by search over mean and scale."""
    pool = np.asarray(WEIGHTS) @ np.stack([bell(centre, WIDTH) for centre in CENTRES])
    rows = points("pool", "pool", GRID, pool)
    means, scales = np.linspace(-25, 25, 201), np.linspace(3.0, 25.0, 177)
    every = np.stack([[bell(mean, scale) for scale in scales] for mean in means])
    for name, value in (("KL(pool‖q)", kl(pool, every)), ("KL(q‖pool)", kl(every, pool))):
        best = np.unravel_index(value.argmin(), value.shape)
        rows += points("pool", name, GRID, every[best])
        rows += points("pool, mean and scale", name, [0, 1], [means[best[0]], scales[best[1]]])
    mean = float(pool @ GRID)
    return [*rows, *points("pool, mean and scale", "pool", [0, 1], [mean, math.sqrt(pool @ (GRID - mean) ** 2)])]


def _triples() -> list[Row]:
    """Random pairs of three outcomes: both KLs; and the same pairs where one is the other with its outcomes renamed."""
    p, q = np.random.default_rng(0).dirichlet(np.ones(3), (2, 400))
    swapped = p[:, [1, 0, 2]]
    return points("triples", "generic", kl(p, q), kl(q, p)) + points("triples", "renamed", kl(p, swapped), kl(swapped, p))


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    forward, back = (lambda x, name=name: series.value(drawn, "coins", name, x) for name in ("KL(p‖q)", "KL(q‖p)"))
    generic, renamed = (series.of(drawn, "triples", name) for name in ("generic", "renamed"))
    ratio = np.abs(np.log(generic["x"] / generic["y"]))
    said = ("one who says .4", "one who says .6")
    found = [
        near("coins .4 and .6: KL(p‖q), nats", forward(0.6), 0.2 * math.log(1.5), 1e-12),
        near("coins .4 and .6: KL(p‖q) - KL(q‖p)", forward(0.6) - back(0.6), 0.0, 1e-12),
        at_least("coins .4 and .9: how far the two are apart, nats", abs(forward(GENERIC) - back(GENERIC)), 0.1),
        at_most("outcomes renamed in pairs: largest difference of the two", (renamed["x"] - renamed["y"]).abs().max(), 1e-12),
        at_least("generic pairs: median factor between the two", float(np.exp(ratio.median())), 1.1),
    ]
    for name in said:
        own, other = (series.value(drawn, "mars", name, x) for x in (0, 1))
        pays = series.value(drawn, "mars, KL(own‖other)", name)
        found += [
            near(f"Mars, {name}: bits that the other's code costs, less KL(own‖other)", other - own - pays, 0.0, 1e-12),
            at_least(f"Mars, {name}: bits that the other's code costs", other - own, 0.11),
        ]
    at = lambda name, x: series.value(drawn, "pool, mean and scale", name, x)  # noqa: E731
    return [
        *found,
        near(
            "pool: mean of the best Gaussian under KL(pool‖q), less the pool's", at("KL(pool‖q)", 0) - at("pool", 0), 0.0, 0.15
        ),
        near("pool: its scale, less the pool's standard deviation", at("KL(pool‖q)", 1) - at("pool", 1), 0.0, 0.15),
        near("pool: mean under KL(q‖pool), on the weightier belief", at("KL(q‖pool)", 0), CENTRES[0], 0.3),
        near("pool: its scale, that belief's", at("KL(q‖pool)", 1), WIDTH, 0.3),
    ]


def draw(drawn: pd.DataFrame) -> Figure:
    """Two coins; random pairs; two observers; a pool of beliefs."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 4.2))
        (coins, triples), (mars, pool) = figure.subplots(2, 2)
        for name, colour in (("KL(p‖q)", plots.BLUE), ("KL(q‖p)", plots.VERMILION)):
            found = series.of(drawn, "coins", name)
            coins.plot(found["x"], found["y"], color=colour, label=name)
        for at, text in ((0.4, "same"), (0.6, "mirrored")):
            coins.axvline(at, color=plots.GREY, ls=":", lw=0.8)
            coins.annotate(text, (at, 1.5), xytext=(-3 if at < 0.5 else 3, 0), textcoords="offset points", fontsize=7,
                           ha="right" if at < 0.5 else "left")  # fmt: skip
        coins.set(xlabel="q, the other coin", ylabel="nats", title="a coin of .4 and another", ylim=(0, 1.7))
        coins.legend(loc="upper left")
        for name, colour, marker in (("generic", plots.GREY, "o"), ("renamed", plots.GREEN, "s")):
            found = series.of(drawn, "triples", name)
            triples.plot(found["x"], found["y"], marker, color=colour, ms=2.5, alpha=0.7, label=name)
        triples.plot([1e-4, 10], [1e-4, 10], color=plots.BLACK, lw=0.8)
        triples.set(xscale="log", yscale="log", xlabel="KL(p‖q), nats", ylabel="KL(q‖p), nats", title="pairs of three outcomes",
                    xlim=(1e-3, 10), ylim=(1e-3, 10))  # fmt: skip
        triples.legend(loc="upper left")
        _draw_mars(mars, drawn)
        for name, colour in (("KL(pool‖q)", plots.VERMILION), ("KL(q‖pool)", plots.BLUE)):
            found = series.of(drawn, "pool", name)
            pool.plot(found["x"], found["y"], color=colour, label=f"least {name}")
        found = series.of(drawn, "pool", "pool")
        pool.fill_between(found["x"], found["y"], color=plots.GREY, alpha=0.35, lw=0, label="pool of two beliefs")
        pool.set(xlabel="quantity", ylabel="probability", title="one Gaussian for a pool", xlim=(-60, 60), ylim=(0, 0.125))
        pool.legend(loc="upper right")
        return figure


def _draw_mars(axes, drawn):
    said = ("one who says .4", "one who says .6")
    for place, name in enumerate(said):
        own, other = (series.value(drawn, "mars", name, x) for x in (0, 1))
        axes.bar(place - 0.2, own, 0.36, color=plots.SKY, label="own code" if place == 0 else None)
        bars = axes.bar(place + 0.2, other, 0.36, color=plots.ORANGE, label="the other's code" if place == 0 else None)
        axes.bar_label(bars, [f"+{other - own:.3f}"], fontsize=7)
    axes.set(xticks=(0, 1), xticklabels=said, ylabel="expected bits, by own lights", title="life on Mars?", ylim=(0.8, 1.25))
    axes.legend(loc="upper center", ncols=2)
