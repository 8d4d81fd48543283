"""The KL between policy, sampler and reference that samples tell: by k1, k2 and k3, of a sequence and of a token, in nats."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.diagnose.measures.estimates import Estimate, effective_size, mean, ratio
from rlkl.diagnostics.diagnose.measures.run import Run

FEWEST = 30  # effective number of sequences below which a weighted estimate is left out
NO_INTERVAL = "no interval: rare sequences with a large weight are often missing"  # 95% intervals covered 86 to 95%
POLICY, REVERSE, SAMPLER = "KL(pi‖pi_ref)", "KL(pi_ref‖pi)", "KL(mu‖pi_ref)"


class KlRow(NamedTuple):
    """One estimate of a KL.

    kl: its formula. per: sequence or token. estimator: k1, k2 or k3, of tokens (summed for `per=sequence`) or of the whole
    sequence. weights: importance weights on the samples: none, of each token, or of the sequence. note: what to know.
    """

    kl: str
    per: str
    estimator: str
    weights: str
    value: float
    stderr: float
    low: float
    high: float
    clusters: int
    note: str = ""


def _row(kl: str, per: str, estimator: str, weights: str, estimate: Estimate, note: str = "") -> KlRow:
    return KlRow(kl, per, estimator, weights, *estimate, note)


def kl_rows(run: Run) -> list[KlRow]:
    """Every KL that the samples of a run tell; an empty list without log-probabilities of two distributions."""
    rows = []
    if run.has("k1"):
        rows += {"policy": _of_policy, "sampler": _of_sampler, "reference": _of_reference}[run.sampled_from](run)
    return rows


def _both(run: Run, kl: str, estimator: str, weights: str, sums: Float[np.ndarray, " N"], note: str = "") -> list[KlRow]:
    """An estimate of sums over tokens, for a sequence and for a token."""
    return [
        _row(kl, "sequence", estimator, weights, mean(sums, run.clusters), note),
        _row(kl, "token", estimator, weights, ratio(sums, run.length, run.clusters), note),
    ]


def _of_policy(run: Run) -> list[KlRow]:
    table, rows = run.table, []
    for name in ("k1", "k2", "k3"):
        rows += _both(run, POLICY, name, "none", table[name], "biased" if name == "k2" else "")
    whole = table["k1"]
    with np.errstate(over="ignore"):
        weights = np.exp(-whole)
        k3 = np.expm1(-whole) + whole
    rows.append(_row(POLICY, "sequence", "k2 of the sequence", "none", mean(0.5 * whole * whole, run.clusters), "biased"))
    rows.append(_row(POLICY, "sequence", "k3 of the sequence", "none", _without_interval(mean(k3, run.clusters)), NO_INTERVAL))
    rows.append(_weighted(run, REVERSE, -whole, weights))
    note = "of each token, on the policy's states"
    rows.append(_row(REVERSE, "token", "k1", "token", ratio(table["reverse"], run.length, run.clusters), note))
    return rows


def _of_sampler(run: Run) -> list[KlRow]:
    table, rows = run.table, []
    rows += _both(run, SAMPLER, "k1", "none", table["s1"]) + _both(run, SAMPLER, "k3", "none", table["s3"])
    note = "on the sampler's states"
    rows += _both(run, POLICY, "k1", "token", table["k1_weighted"], note)
    rows += _both(run, POLICY, "k3", "token", table["k3_weighted"], note)
    with np.errstate(over="ignore"):
        rows.append(_weighted(run, POLICY, table["k1"], np.exp(-table["m1"])))
    logged = "as logged without weights: its mean under mu is no KL"
    for name in ("k1", "k2", "k3"):
        rows += _both(run, "log pi/pi_ref under mu", name, "none", table[name], logged)
    return rows


def _of_reference(run: Run) -> list[KlRow]:
    rows = _both(run, REVERSE, "k1", "none", -run.table["k1"]) + _both(run, REVERSE, "k3", "none", run.table["reverse_k3"])
    with np.errstate(over="ignore"):
        rows.append(_weighted(run, POLICY, run.table["k1"], np.exp(run.table["k1"])))
    return rows


def _weighted(run: Run, kl: str, values: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"]) -> KlRow:
    """The mean of values under another distribution, with weights of whole sequences that are normalised by their sum."""
    size = effective_size(run.clusters.sums(weights))
    note = f"effective sample size {size:.3g} of {run.clusters.size} {run.unit}"
    if not size >= FEWEST:
        estimate = Estimate(math.nan, math.nan, math.nan, math.nan, run.clusters.size)
        return _row(kl, "sequence", "k1", "sequence", estimate, f"left out: {note}, below {FEWEST}")
    estimate = _without_interval(ratio(weights * values, weights, run.clusters))
    return _row(kl, "sequence", "k1", "sequence", estimate, f"{note}; {NO_INTERVAL}")


def _without_interval(estimate: Estimate) -> Estimate:
    return estimate._replace(low=math.nan, high=math.nan)
