"""How far the sampler mu is from the policy pi on the sampler's tokens, and what importance weights pi/mu are worth."""

from typing import NamedTuple

import numpy as np

from rlkl.diagnostics.diagnose.measures.estimates import Estimate, effective_size, mean, ratio
from rlkl.diagnostics.diagnose.measures.run import Run


class MismatchRow(NamedTuple):
    """One number of the mismatch. expected: what it is where pi is mu. about: what it estimates."""

    name: str
    per: str
    value: float
    stderr: float
    low: float
    high: float
    expected: float
    about: str


def mismatch_rows(run: Run) -> list[MismatchRow]:
    """Mean ratios, both KLs and the effective sample sizes; an empty list where one of the log-probabilities is missing.

    On mu's tokens with r = pi/mu: -log r and r - 1 - log r estimate KL(mu‖pi). 1/r - 1 + log r, which some libraries log as
    KL(pi‖mu), estimates chi2(mu‖pi) - KL(mu‖pi). r log r estimates each token's KL(pi‖mu) on the sampler's states.
    """
    if not run.has("m1") or run.sampled_from != "sampler":
        return []
    table, by = run.table, run.clusters
    with np.errstate(over="ignore"):
        weights = np.exp(-table["m1"])
    rows = [
        _row("mean ratio", "token", mean_ratio(run), 1.0, "E_mu[pi/mu]: 1, or the kept mass of truncated sampling"),
        _row("mean ratio", "sequence", mean(weights, by), 1.0, "the same for whole sequences"),
    ]
    for name, column, about in (
        ("k1 = -log r", "m1", "KL(mu‖pi)"),
        ("k3 = r - 1 - log r", "m3", "KL(mu‖pi)"),
        ("1/r - 1 + log r", "m3_logged", "chi2(mu‖pi) - KL(mu‖pi)"),
        ("r log r", "m1_weighted", "KL(pi‖mu) of each token, on mu's states"),
    ):
        rows.append(_row(name, "token", ratio(table[column], run.length, by), 0.0, about))
        if column in ("m1", "m3"):
            rows.append(_row(name, "sequence", mean(table[column], by), 0.0, about))
    nan = float("nan")
    shares = (run.totals.weights.effective_share, effective_size(weights) / max(len(weights), 1))
    for per, share in zip(("token", "sequence"), shares, strict=True):
        about = "effective sample size of the weights pi/mu, as a share"
        rows.append(MismatchRow("effective share", per, share, nan, nan, nan, 1.0, about))
    return rows


def _row(name: str, per: str, estimate: Estimate, expected: float, about: str) -> MismatchRow:
    return MismatchRow(name, per, *estimate[:4], expected, about)


def mean_ratio(run: Run) -> Estimate:
    """The mean of pi/mu over the sampler's tokens."""
    return _mean_weight(run, run.table["m3"], -run.table["m1"])


def mean_ref_ratio(run: Run) -> Estimate:
    """The mean of pi_ref over the distribution that the tokens were drawn from: 1 where the log-probabilities are its own.

    On the policy's tokens it is also what k3 is above k1, plus 1. On the reference's own tokens it is of pi/pi_ref.
    """
    table = run.table
    if run.sampled_from == "sampler":
        return _mean_weight(run, table["s3"], -table["s1"])
    if run.sampled_from == "reference":
        return _mean_weight(run, table["reverse_k3"], table["k1"])
    return _mean_weight(run, table["k3"], -table["k1"])


def _mean_weight(run: Run, k3: np.ndarray, log_weight: np.ndarray) -> Estimate:
    """The mean over tokens of weights w, from the sums of w - 1 - log w and of log w; NaN where these are infinite."""
    with np.errstate(invalid="ignore"):
        return ratio(k3 + log_weight + run.length, run.length, run.clusters)
