"""Support: a lost arm stays lost under KL(pi‖pi_ref), whose gradient is proportional to pi; KL(pi_ref‖pi) brings it back.

Source: the gradients of both KLs in a softmax's logits, pi (u - KL) and pi - pi_ref.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.claims import Claim, at_least, at_most
from experiments.harness.series import Row, points
from rlkl import divergences
from rlkl.divergences import Params
from rlkl.reports import plots
from rlkl.settings import numerics

REFERENCE = np.array([0.4, 0.3, 0.2, 0.1])
DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
STARTS = {"reference": np.log(REFERENCE), "uniform": np.zeros(4), "an arm lost": np.array([0.0, 0.0, 0.0, -30.0])}
STEPS, RATE = 3000, 1.0


def table(runs: None) -> pd.DataFrame:
    """Exact gradient descent on the penalty alone (a flat reward): the last arm's probability and KL(pi‖pi_ref), by step."""
    rows: list[Row] = []
    kept = np.unique(np.geomspace(1, STEPS, 120).astype(int)) - 1
    with numerics.pinned():
        log_ref = jnp.log(jnp.asarray(REFERENCE))
        for name in DIRECTIONS:

            def kl(logits, by=name):
                return divergences.exact(divergences.REGISTRY[by], Params(), jax.nn.log_softmax(logits), log_ref)

            def step(logits, _, kl=kl):
                return logits - RATE * jax.grad(kl)(logits), (jax.nn.softmax(logits)[-1], kl(logits))

            descend = jax.jit(lambda start, step=step: jax.lax.scan(step, start, None, STEPS)[1])
            for start, logits in STARTS.items():
                mass, value = descend(jnp.asarray(logits))
                rows += points(f"{name}: last arm", start, kept + 1, np.asarray(mass)[kept])
                rows += points(f"{name}: divergence", start, kept + 1, np.asarray(value)[kept])
    return series.frame(rows)


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    last = lambda panel, start: series.smallest(series.of(drawn, panel, start)["y"].iloc[-1:])  # noqa: E731
    found = []
    for name in DIRECTIONS:
        label = divergences.REGISTRY[name].formula
        for start in ("reference", "uniform"):
            found.append(at_most(f"{label} from {start}: at the end", last(f"{name}: divergence", start), 1e-9))  # noqa: PERF401
    return [
        *found,
        at_most("KL(pi‖pi_ref), an arm lost: its probability at the end", last("kl_pi_ref: last arm", "an arm lost"), 1e-9),
        at_least("KL(pi‖pi_ref), an arm lost: the divergence at the end", last("kl_pi_ref: divergence", "an arm lost"), 0.1),
        at_most("KL(pi_ref‖pi), an arm lost: the divergence at the end", last("kl_ref_pi: divergence", "an arm lost"), 1e-6),
        at_least(
            "KL(pi_ref‖pi), an arm lost: its probability over the reference's",
            last("kl_ref_pi: last arm", "an arm lost") / REFERENCE[-1],
            0.99,
        ),
    ]


def draw(drawn: pd.DataFrame) -> Figure:
    """The last arm's probability by step, from three starts, under both directions."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 2.6))
        both = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(both, DIRECTIONS, strict=True):
            for start, line in zip(STARTS, (":", "--", "-"), strict=True):
                found = series.of(drawn, f"{name}: last arm", start)
                axes.plot(found["x"], found["y"], line, color=plots.look(name)[0], label=f"from {start}")
            axes.axhline(REFERENCE[-1], color=plots.GREY, lw=0.8)
            axes.set(xscale="log", yscale="log", xlabel="step", title=divergences.REGISTRY[name].formula, ylim=(1e-15, 3))
            axes.legend(loc="center left")
        both[0].set_ylabel("pi(last arm)")
        return figure
