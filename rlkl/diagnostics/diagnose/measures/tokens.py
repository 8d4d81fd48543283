"""The tokens and positions that carry a KL, and how heavy the tails of its estimates are."""

from typing import NamedTuple

import numpy as np

from rlkl.diagnostics.diagnose.measures.estimates import effective_size
from rlkl.diagnostics.diagnose.measures.run import Run
from rlkl.diagnostics.diagnose.measures.token_totals import Tail, Weights

MOST = 20  # token ids that are listed
LARGEST = 0.01
CURVE = tuple(float(part) for part in np.logspace(-5.0, 0.0, 26))  # shares of the tokens


class TailRow(NamedTuple):
    """The tail of a sum over tokens.

    effective: effective number of clusters of sequences behind the sum, of `clusters`. largest_share: share of the sum in the
    1% of tokens with the largest values. weights: effective sample size of the tokens' ratios, as a share.
    """

    about: str
    effective: float
    clusters: int
    largest_share: float
    weights: float


class TailPoint(NamedTuple):
    """The share of a sum over tokens that the tokens with the largest values have. tokens: their share of all tokens."""

    about: str
    tokens: float
    share: float


class PositionRow(NamedTuple):
    """Means over the tokens at positions from `first` to `last`, counted from 0; NaN for what is not there."""

    first: int
    last: int
    tokens: int
    kl_k3: float
    mismatch_k3: float
    entropy: float


class TokenRow(NamedTuple):
    """A token id: how often it stands in the run, and its shares of the sums of k3 of the KL and of the mismatch."""

    token: int
    times: int
    kl_share: float
    mismatch_share: float


def _tails(run: Run) -> list[tuple[str, str, Tail, Weights]]:
    """What each tail is of, its column of sequences, and its totals over tokens."""
    totals = run.totals
    every = [
        ("k3 of KL(pi‖pi_ref)", "k3", totals.k3, totals.ref_weights),
        ("k3 of KL(mu‖pi)", "m3", totals.m3, totals.weights),
    ]
    return [each for each in every if run.has(each[1])]


def tail_rows(run: Run) -> list[TailRow]:
    """The tails of k3 to the reference and of k3 to the sampler."""
    rows = []
    for about, column, tail, weights in _tails(run):
        size = effective_size(np.maximum(run.clusters.sums(run.table[column]), 0.0))
        rows.append(TailRow(about, size, run.clusters.size, tail.share_of_largest(LARGEST), weights.effective_share))
    return rows


def tail_curves(run: Run) -> list[TailPoint]:
    """The shares that the largest tokens have of the sums of k3, at shares of at least one token."""
    parts = [part for part in CURVE if part * run.totals.tokens >= 1.0]
    return [
        TailPoint(about, part, tail.share_of_largest(part))
        for about, _, tail, _ in _tails(run)
        if tail.sums.sum() > 0.0
        for part in parts
    ]


def position_rows(run: Run) -> list[PositionRow]:
    """Means by position: 0, 1, 2-3, 4-7 and so on."""
    rows, totals = [], run.totals.positions
    for index, count in enumerate(totals.counts):
        if count:
            first = 0 if index == 0 else 2 ** (index - 1)
            means = [
                float(totals.sums[name][index] / count) if len(totals.sums[name]) > index else float("nan")
                for name in totals.columns
            ]
            rows.append(PositionRow(first, max(2**index - 1, 0), int(count), *means))
    return rows


def token_rows(run: Run) -> list[TokenRow]:
    """The token ids with the largest shares of the KL's k3 or of the mismatch's; an empty list without tokens."""
    totals = run.totals.ids
    shares = {}
    for name in totals.columns:
        sums = totals.sums[name]
        whole = np.pad(sums, (0, len(totals.counts) - len(sums)))
        if np.isinf(whole).any():
            whole = np.isinf(whole).astype(float)
        shares[name] = whole / whole.sum() if whole.sum() > 0.0 else whole
    largest = np.maximum(*shares.values())
    order = np.argsort(-largest, kind="stable")[:MOST]
    return [
        TokenRow(int(token), int(totals.counts[token]), *(float(share[token]) for share in shares.values()))
        for token in order
        if largest[token] > 0.0
    ]
