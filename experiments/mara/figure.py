"""MARA: a reward that makes every outcome above a threshold equally likely, and under which direction it does.

Source: GX-Chen et al. 2025, arXiv 2510.20817, algorithms 1 (rewards alone) and 2 (the reference as well). What is trained here
is exact, so that what is not uniform is the objective's doing.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, at_least, at_most
from rlkl import divergences
from rlkl.reports import plots
from rlkl.runs.load import Runs

DIRECTIONS, VARIANTS = ("kl_pi_ref", "kl_ref_pi"), ("none", "1", "2")
TITLES = {"none": "the reward itself", "1": "MARA, algorithm 1", "2": "MARA, algorithm 2"}
COLUMNS = ["direction", "variant", "outcome", "good", "reference", "policy"]
THRESHOLD = 0.85
MEASURED = ("policy",)


def table(runs: Runs) -> pd.DataFrame:
    """A row an outcome of a run: the reference's and the trained policy's probabilities, whether above the threshold."""
    rows = []
    for _, graded in runs.summary.iterrows():
        ends = runs.outcomes[runs.outcomes["run"] == graded["run"]]
        good = ends["reward"] >= THRESHOLD - 1e-12
        variant = graded.get("override.reward_shaping.variant")
        said = {"direction": graded["divergence"], "variant": variant if isinstance(variant, str) else "none"}
        rows.append(ends[["outcome", "reference", "policy"]].assign(good=good, **said)[COLUMNS])
    return pd.concat(rows, ignore_index=True)


def spread(drawn: pd.DataFrame, direction: str, variant: str) -> float:
    """By how much the outcomes above the threshold differ, relative to their mean."""
    at = (drawn["direction"] == direction) & (drawn["variant"].astype(str) == variant)
    p = drawn.loc[at & drawn["good"].astype(bool), "policy"]
    return float(np.ptp(p) / p.mean()) if len(p) > 1 and p.mean() != 0.0 else math.nan


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    found: list[Claim] = []
    for direction in DIRECTIONS:
        formula = divergences.REGISTRY[direction].formula
        for variant in VARIANTS:
            uniform = variant == "2" or (variant == "1" and direction == "kl_pi_ref")
            of = spread(drawn, direction, variant)
            said = f"{formula}, {TITLES[variant]}: relative spread above the threshold"
            found.append(at_most(said, abs(of), 1e-6) if uniform else at_least(said, of, 0.1))
    return found


def draw(drawn: pd.DataFrame) -> Figure:
    """A row a direction, a column a reward: the reference in grey, the exactly trained policy; good arms in full colour."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 3.4))
        panels = figure.subplots(len(DIRECTIONS), len(VARIANTS), sharex=True, sharey="row")
        for row, direction in zip(panels, DIRECTIONS, strict=True):
            colour = plots.look(direction)[0]
            for axes, variant in zip(row, VARIANTS, strict=True):
                bars = drawn[(drawn["direction"] == direction) & (drawn["variant"].astype(str) == variant)]
                at, good = np.arange(1, len(bars) + 1), bars["good"].astype(bool).to_numpy()
                axes.step(at, bars["reference"], where="mid", color=plots.GREY, lw=0.9, label="reference")
                axes.bar(at[good], bars["policy"].to_numpy()[good], color=colour, label="policy, reward >= .85")
                axes.bar(at[~good], bars["policy"].to_numpy()[~good], color=colour, alpha=0.3, label="policy, below")
            row[0].set_ylabel(f"probability\n{divergences.REGISTRY[direction].formula}")
        for axes, title in zip(panels[0], TITLES.values(), strict=True):
            axes.set_title(title)
        for axes in panels[-1]:
            axes.set(xlabel="arm, by the reference's probability", xticks=range(1, 13))
        handles = [panels[i][0].get_legend_handles_labels() for i in range(len(DIRECTIONS))]
        figure.legend(*handles[0], loc="outside lower center", ncols=3)
        return figure
