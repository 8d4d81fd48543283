"""The claims of correlated proxies, from the numbers of the figure."""

import math

import numpy as np
import pandas as pd

from experiments.correlated_proxies.hacking import CORRELATION, MATCHED, PROXY
from experiments.harness.claims import Claim, at_least, at_most, near
from experiments.harness.series import largest, smallest
from rlkl.divergences import REGISTRY

ROUNDING = 1e-8  # of a difference of square roots where the correlation is near 1


def claims(drawn: pd.DataFrame) -> list[Claim]:
    """What the figure says, checked."""
    return [*_bounds(drawn), *_frontiers(drawn), *_equal_gains(drawn), *_root(drawn), *_trained(drawn)]


def _bounds(drawn: pd.DataFrame) -> list[Claim]:
    bandits = drawn[drawn["panel"] == "bandits"].set_index("divergence")
    kept = "pearson while every arm is kept"
    of_root = "root_pearson at the published coefficient"
    return [
        at_least("random bandits: number under every kind of penalty together", bandits["count"].sum(), 80_000),
        at_least("random bandits, any policy: least slack of the published bound", smallest(bandits["slack"]), -ROUNDING),
        at_least("random bandits, any policy: least slack of the sharper bound", smallest(bandits["sharp_slack"]), -ROUNDING),
        at_least(
            "random bandits, any policy: least excess of the sharper bound over the published",
            smallest(bandits["sharper_by"]),
            -ROUNDING,
        ),
        at_most("random bandits, chi-square while every arm is kept: |gold - r proxy|", _at(bandits, kept, "off_line"), 1e-12),
        at_least(
            "random bandits, root of chi-square at the published coefficient: least gain of gold",
            _at(bandits, of_root, "gold"),
            0.0,
        ),
        at_least(
            "random bandits, KL(pi‖pi_ref) at a random beta: share with less gold than the reference",
            _at(bandits, "kl_pi_ref", "worse"),
            0.03,
        ),
        at_least(
            "random bandits, chi-square at a random beta: share with less gold than the reference",
            _at(bandits, "pearson", "worse"),
            0.01,
        ),
    ]


def _frontiers(drawn: pd.DataFrame) -> list[Claim]:
    lines = drawn[drawn["panel"] == "frontier"]
    best = lines.groupby("divergence")["gold"].max()
    kept = lines[(lines["divergence"] == "pearson") & (lines["least"] > 0.0)]
    share = (1.0 - math.sqrt(1.0 - CORRELATION**2)) / CORRELATION**2
    farthest = kept[kept["proxy"] == kept["proxy"].max()]
    return [
        near(
            "hacked proxy, chi-square while every arm is kept: the published bound over the gold, (1 - sqrt(1 - r^2))/r^2",
            _one(farthest["published"] / farthest["gold"]),
            share,
            1e-9,
        ),
        at_most(
            "hacked proxy, chi-square while every arm is kept: the sharper bound's distance from the gold",
            largest((kept["gold"] - kept["sharp"]).abs()),
            1e-7,
        ),
        at_least("hacked proxy: largest gold along chi-square's frontier", best.get("pearson", math.nan), 0.85),
        at_least(
            "hacked proxy: the same, over the largest along KL(pi‖pi_ref)'s",
            best.get("pearson", math.nan) / best.get("kl_pi_ref", math.nan),
            2.0,
        ),
        at_most("hacked proxy: largest gold along KL(pi_ref‖pi)'s frontier", best.get("kl_ref_pi", math.nan), 0.2),
        at_most(
            "hacked proxy: least gold along KL(pi‖pi_ref)'s frontier",
            smallest(lines[lines["divergence"] == "kl_pi_ref"]["gold"]),
            -2.0,
        ),
    ]


def _equal_gains(drawn: pd.DataFrame) -> list[Claim]:
    matched = drawn[drawn["panel"] == "matched"].set_index("divergence")
    z = (matched["mean"] - CORRELATION * MATCHED) / (matched["deviation"] / np.sqrt(matched["count"]))
    spread = np.sqrt((1.0 - CORRELATION**2) * (matched["chi2"] - matched["proxy"] ** 2) / (len(PROXY) - 2))
    made = [
        at_most("equal proxy gain, random golds: largest |mean gold - r proxy|, in standard errors", largest(z.abs()), 4.0),
        at_most(
            "equal proxy gain, random golds: largest |spread over its formula - 1|",
            largest((matched["deviation"] / spread - 1.0).abs()),
            0.06,
        ),
        at_most(
            "equal proxy gain: largest |worst gold - the sharper bound|",
            largest((matched["worst"] - matched["sharp"]).abs()),
            1e-9,
        ),
        at_most(
            "equal proxy gain: largest |correlation of the worst gold - r|",
            largest((matched["worst_correlation"] - CORRELATION).abs()),
            1e-12,
        ),
    ]
    for name, bound, least in (("pearson", 0.6, True), ("kl_pi_ref", 0.4, False), ("kl_ref_pi", -0.6, False)):
        claim = at_least if least else at_most
        made.append(
            claim(f"equal proxy gain, {REGISTRY[name].formula}: the worst gold's gain", _at(matched, name, "worst"), bound)
        )
    for name, bound in (("kl_pi_ref", 2.0), ("kl_ref_pi", 5.0)):
        ratio = _at(matched, name, "deviation") / _at(matched, "pearson", "deviation")
        made.append(
            at_least(f"equal proxy gain, random golds: spread under {REGISTRY[name].formula} over chi-square's", ratio, bound)
        )
    return made


def _root(drawn: pd.DataFrame) -> list[Claim]:
    line = drawn[(drawn["panel"] == "frontier") & (drawn["divergence"] == "root_pearson")]
    above, below = line[line["beta"] > 1.0], line[line["beta"] < 1.0]
    published = math.sqrt(1.0 - CORRELATION**2)
    at_published = line.iloc[(line["beta"] - published).abs().argsort()[:1]]
    return [
        at_most("root of chi-square, beta above 1 sd: largest gain of the proxy", largest(above["proxy"].abs()), 1e-12),
        near(
            "root of chi-square, beta just below 1 sd: gain of the proxy, 1/|least proxy|",
            smallest(below["proxy"]),
            1.0 / abs(PROXY.min()),
            1e-3,
        ),
        at_least(
            "root of chi-square at the published coefficient: gold over the largest on the frontier",
            _one(at_published["gold"]) / largest(line["gold"]),
            0.95,
        ),
    ]


def _trained(drawn: pd.DataFrame) -> list[Claim]:
    ran = drawn[drawn["panel"] == "trained"]
    return [at_most("trained: largest regret, in sd of the proxy", largest(ran["regret"]), 0.01)]


def _at(rows: pd.DataFrame, name: str, column: str) -> float:
    return float(rows[column].get(name, math.nan))


def _one(values: pd.Series) -> float:
    return float(values.iloc[0]) if len(values) else math.nan
