"""How the lengths of sequences weigh in the ways to average a penalty over a batch."""

from typing import NamedTuple

import numpy as np

from rlkl.diagnostics.diagnose.measures.estimates import Estimate, mean, ratio
from rlkl.diagnostics.diagnose.measures.run import Run


class Lengths(NamedTuple):
    """The lengths of a run, and the mean KL by each aggregation, in nats.

    shortest, longest: the mean lengths of the tenths of sequences that are shortest and longest; `seq-mean-token-mean` weighs
    a token of the first longest/shortest times as much as one of the second. kl: by aggregation. difference: of
    seq-mean-token-mean and token-mean. correlations: of length with reward, advantage and KL.
    """

    mean: float
    shortest: float
    longest: float
    kl: dict[str, Estimate]
    difference: Estimate | None
    correlations: dict[str, float]


def lengths(run: Run) -> Lengths:
    """The lengths of a run; sequences without tokens are left out."""
    length = run.length.astype(float)
    filled = length > 0.0
    part = run.part(filled)
    length = length[filled]
    ordered = np.sort(length)
    tenth = max(1, len(ordered) // 10)
    kl, difference = {}, None
    name = "k1_weighted" if part.sampled_from == "sampler" else "k1"
    if part.has(name) and part.sampled_from != "reference":
        sums = part.table[name]
        by_token = ratio(sums, length, part.clusters)
        by_sequence = mean(sums / length, part.clusters)
        kl = {
            "seq-mean-token-sum": mean(sums, part.clusters),
            "token-mean": by_token,
            "seq-mean-token-mean": by_sequence,
        }
        if np.isfinite(sums).all():
            difference = mean(sums / length - sums / length.mean(), part.clusters)
    others = {key: part.table[key] for key in ("reward", "advantage", name) if part.has(key)}
    correlations = {("kl" if key == name else key): _correlation(length, values) for key, values in others.items()}
    return Lengths(
        float(length.mean()) if len(length) else 0.0,
        float(ordered[:tenth].mean()) if len(ordered) else 0.0,
        float(ordered[-tenth:].mean()) if len(ordered) else 0.0,
        kl,
        difference,
        correlations,
    )


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if not np.isfinite(second).all() or first.std() == 0.0 or second.std() == 0.0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
