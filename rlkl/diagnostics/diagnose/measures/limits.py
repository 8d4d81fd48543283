"""Where common clamps of log-ratios and clip ranges of pi/mu would change the tokens of a run."""

import math
from typing import NamedTuple

from rlkl.diagnostics.diagnose.measures.run import Run
from rlkl.diagnostics.diagnose.measures.token_totals import CLAMPS, CLIPS, LARGEST_K3


class LimitRow(NamedTuple):
    """What one limit reaches: its share of the tokens, and a second share whose meaning `about` says; NaN where not known."""

    limit: str
    tokens: float
    share: float
    about: str


def limit_rows(run: Run) -> list[LimitRow]:
    """The shares of tokens that each limit reaches, for the log-ratios and the ratios that the run has."""
    totals, rows = run.totals, []
    if run.has("k1") and totals.tokens:
        for index, clamp in enumerate(CLAMPS):
            share = _share(float(totals.clamped_k3[index]), totals.total_k3)
            about = "of the sum of k3 is in these tokens"
            rows.append(LimitRow(f"|log pi/pi_ref| > {clamp:g}", float(totals.clamped[index] / totals.tokens), share, about))
        about = "of the sum of k3 is in these tokens (verl's low_var_kl clips there)"
        share = _share(totals.large_k3, totals.total_k3)
        rows.append(LimitRow(f"k3 > {LARGEST_K3:g}", totals.large / totals.tokens, share, about))
    if run.has("m1") and totals.tokens:
        for index, (below, above) in enumerate(CLIPS):
            limit = f"pi/mu outside [{1 - below:g}, {1 + above:g}]"
            cut = float(totals.cut[index] / totals.tokens) if totals.has_advantages else float("nan")
            about = "of the tokens lose their gradient: low with A < 0, or high with A > 0"
            rows.append(LimitRow(limit, float(totals.clipped[index].sum() / totals.tokens), cut, about))
    return rows


def _share(part: float, whole: float) -> float:
    """The share of a sum; 1 of an infinite part, 0 of nothing."""
    return 1.0 if math.isinf(part) else part / whole if whole > 0.0 else 0.0
