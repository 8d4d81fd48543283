"""Preference collapse: the share that a minority of annotators keeps in the optimum, over beta, for both KLs and with matching.

Sources: Xiao et al. 2024, "On the algorithmic bias of aligning large language models with RLHF: preference collapse and
matching regularization", arXiv 2405.16455 (the collapse, and the regulariser -log pi(y) + C1 + C2/pi(y), here with C2 = 0:
maximise E[r] + H(pi), whose optimum is softmax(r)); Bradley and Terry 1952. Break-even coefficients, other references, several
phrasings and finite pairs are derived in `shares` and by enumeration.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import series
from experiments.harness.series import Row, points
from experiments.preference_collapse import panels, shares, trained, verdicts
from experiments.preference_collapse.settings import (
    BETAS,
    BETWEEN,
    COUNTS,
    DIRECTIONS,
    FAVOURING,
    GRID,
    PHRASINGS,
    REFERENCES,
    RIDGE,
    SHARES,
)
from rlkl.reports import plots
from rlkl.runs.load import Runs
from rlkl.tasks.preferences import bradley_terry

claims = verdicts.claims


def table(runs: Runs) -> pd.DataFrame:
    """Shares in the optimum by the annotators' share, by beta and by the number of pairs; policies that were trained."""
    return series.frame([*_optima(), *_references(), *_finite(), *_types(), *_phrasings(), *trained.rows(runs)])


def _optima() -> list[Row]:
    rows: list[Row] = []
    for beta in BETAS:
        rows += points("kl_pi_ref", f"{beta:g}", GRID, shares.under_kl_pi_ref(GRID, beta))
        rows += points("kl_ref_pi", f"{beta:g}", GRID, [shares.under_kl_ref_pi(s, beta) for s in GRID])
    rows += points("break-even, uniform reference", "kl_ref_pi", SHARES, [shares.break_even_kl_ref_pi(s, 0.5) for s in SHARES])
    return rows


def _references() -> list[Row]:
    """The minority's share over beta for references that favour it, or the majority, or neither."""
    betas, rows = np.geomspace(0.1, 10.0, 81), []
    for q in REFERENCES:
        rows += points("reference", f"{q:g}", betas, shares.under_kl_pi_ref(FAVOURING, betas, q))
    for q in (*REFERENCES, BETWEEN):
        rows += points("break-even", "kl_pi_ref", [q], [shares.break_even_kl_pi_ref(FAVOURING, q)])
    # Just above the beta that keeps the share, which rises with beta.
    return rows + points("just above break-even", "0.7", [0.51], shares.under_kl_pi_ref(FAVOURING, 0.51, 0.7))


def _finite() -> list[Row]:
    """Mean and standard deviation over data sets; and without a penalty on the reward the mean share at beta 1."""
    rows: list[Row] = []
    for beta in (0.5, 1.0):
        for count in COUNTS:
            mean, deviation = shares.over_pairs(SHARES[1], count, beta, 0.5, RIDGE)
            rows += points("pairs", f"{beta:g}", [count], [mean], deviation)
        rows += points("pairs, limit", f"{beta:g}", [0.0], [shares.under_kl_pi_ref(SHARES[1], beta)])
    return rows


def _types() -> list[Row]:
    """A reward fitted to annotators with one favourite of three answers each, who toss a coin between two others."""
    favourites = np.array([0.6, 0.3, 0.1])
    first, second = np.triu_indices(3, 1)
    preferred = 0.5 + 0.5 * (favourites[first] - favourites[second])
    pairs = bradley_terry.Pairs(first, second, preferred, np.full(3, 1.0 / 3.0))
    fit = bradley_terry.fit(pairs, np.arange(3), 3, np.zeros((3, 0)))
    assert fit is not None
    weight = np.exp(fit.values)
    return points("favourites", "softmax(r)", favourites, weight / weight.sum())


def _phrasings() -> list[Row]:
    """The share of an answer of 10% under matching by the entropy of sequences, in closed form."""
    rewards, rows = np.array([0.0, -shares.logit(SHARES[1])]), []
    for kind, subtracted in (("as it is", False), ("log(phrasings) subtracted", True)):
        rows += points("phrasings, softmax(r)", kind, [SHARES[1]], shares.matched(rewards, PHRASINGS, subtracted)[:1])
    return rows


def draw(drawn: pd.DataFrame) -> Figure:
    """Shares by the annotators', for both KLs; over beta for three references; and over the number of pairs."""
    with plots.styled():
        figure = Figure(figsize=(plots.PAGE, 5.2))
        axes = figure.subplots(2, 2)
        for panel, direction in zip(axes[0], DIRECTIONS, strict=True):
            panels.shares(panel, drawn, direction)
        panels.references(axes[1, 0], drawn)
        panels.pairs(axes[1, 1], drawn)
        figure.legend(handles=panels.marks(), loc="outside upper center", ncols=4)
        return figure
