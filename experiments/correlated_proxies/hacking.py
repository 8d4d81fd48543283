"""One bandit on which a well-correlated proxy can be hacked: two rare arms with the largest proxy have the least gold."""

import numpy as np
import pandas as pd

from experiments.correlated_proxies import bounds
from experiments.harness import optima
from rlkl.runs.load import Runs
from rlkl.tasks.bandits import bandit

P = np.array([0.052, 0.084, 0.116, 0.137, 0.147, 0.137, 0.116, 0.084, 0.052, 0.031, 0.016, 0.0084, 0.0126, 0.007])
HONEST = np.linspace(-2.0, 2.4, 12)  # arms whose gold is their proxy; the two that follow are hacks
REWARD = np.append(HONEST, [2.8, 3.2])  # the proxy, as runs train on it
DEVIATION = float(np.sqrt(P @ np.square(REWARD - P @ REWARD)))
PROXY, GOLD = bounds.standardised(P, REWARD), bounds.standardised(P, np.append(HONEST, [-2.0, -3.0]))
CORRELATION = float(P @ (PROXY * GOLD))
FRONTIERS = ("kl_pi_ref", "kl_ref_pi", "hellinger", "jensen_shannon", "pearson")
BETAS = {"kl_pi_ref": (0.1, 40.0), "kl_ref_pi": (0.02, 60.0), "hellinger": (0.02, 60.0), "jensen_shannon": (0.02, 100.0),
         "pearson": (0.005, 20.0), "root_pearson": (0.02, 1.6)}  # fmt: skip
MATCHED = 1.0  # standard deviations of proxy that every penalty gains


def frontier(name: str) -> pd.DataFrame:
    """Gains of proxy and gold of the optima under a divergence over beta, and the gains that the correlation guarantees."""
    betas = np.sort(np.append(np.geomspace(*BETAS[name], 120), 1.0 - 1e-9))  # and where the root's optimum jumps
    pi = np.exp(optima.over_beta(bandit(PROXY, P), name, betas))
    return _gains(pi).assign(panel="frontier", divergence=name, beta=betas)


def _gains(pi: np.ndarray) -> pd.DataFrame:
    proxy, gold, chi2 = pi @ PROXY, pi @ GOLD, bounds.chi_square(P, pi)
    return pd.DataFrame({
        "proxy": proxy, "gold": gold, "chi2": chi2, "least": pi.min(axis=1),
        "published": bounds.published_bound(CORRELATION, proxy, chi2), "sharp": bounds.sharp_bound(CORRELATION, proxy, chi2),
    })  # fmt: skip


def matched(name: str, count: int) -> dict:
    """At the beta where the proxy's gain is MATCHED: gains of random golds of one correlation, and of the worst."""
    low, high = np.log(BETAS[name])
    for _ in range(60):
        middle = 0.5 * (low + high)
        over = np.exp(optima.over_beta(bandit(PROXY, P), name, np.exp([middle]))[0]) @ PROXY > MATCHED
        low, high = (middle, high) if over else (low, middle)
    pi = np.exp(optima.over_beta(bandit(PROXY, P), name, np.exp([high]))[0])
    golds = bounds.random_golds(P, PROXY, CORRELATION, count, np.random.default_rng(0)) @ pi
    worst = bounds.worst_gold(P, pi, PROXY, CORRELATION)
    gains = _gains(pi[None]).iloc[0].to_dict()
    return gains | {
        "panel": "matched", "divergence": name, "beta": np.exp(high), "mean": golds.mean(), "count": count,
        "deviation": golds.std(ddof=1), "low": np.quantile(golds, 0.05), "high": np.quantile(golds, 0.95),
        "worst": worst @ pi, "worst_correlation": P @ (worst * PROXY),
    }  # fmt: skip


def trained(runs: Runs) -> pd.DataFrame:
    """The gains of trained policies, with their regrets."""
    rows = []
    for _, summary in runs.summary.iterrows():
        pi = runs.outcomes[runs.outcomes["run"] == summary["run"]]["policy"].to_numpy()
        of = {"panel": "trained", "divergence": summary["divergence"], "beta": summary["beta"] / DEVIATION}
        rows.append(_gains(pi[None]).iloc[0].to_dict() | of | {"regret": summary["regret"] / DEVIATION})
    return pd.DataFrame(rows)
