"""Gold reward and KL along the exact optima of a proxy, and along best of n by it."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.harness import optima
from rlkl import tasks
from rlkl.exact import best_of_n

PAIRS, SETS = (1_000, 10_000), 40
COMMON, RARE, RARE_MASS = 40, 60, 0.02  # arms, and what all rare ones weigh under the reference
BETAS = np.union1d(np.geomspace(0.03, 100.0, 60), (0.1, 0.3, 1.0, 3.0))  # those of the trained runs among them
DRAWS = np.unique(np.geomspace(1, 20_000, 40).round().astype(int))
COLUMNS = ["method", "pairs", "set", "strength", "kl_pi_ref", "gold", "proxy"]


def base(number: int) -> dict[str, Any]:
    """A bandit of common arms, gold uniform in [0, 1], and rare ones, gold uniform in [0, 1/2] (two digits): what the reference
    hardly ever writes is worse, and hardly ever compared."""
    worth = np.random.default_rng(number).uniform(size=COMMON + RARE) * np.repeat([1.0, 0.5], [COMMON, RARE])
    reference = [(1.0 - RARE_MASS) / COMMON] * COMMON + [RARE_MASS / RARE] * RARE
    return {"name": "bandit/custom", "reward": worth.round(2).tolist(), "reference": np.round(reference, 12).tolist()}


def card(pairs: int, number: int) -> tasks.Card:
    """The preference task over such a bandit, its pairs drawn and judged anew for each number."""
    return tasks.build("preference/any", base=base(number), pairs=pairs, seed=number)


def of(card: tasks.Card) -> pd.DataFrame:
    """A row an optimum (strength: beta) or best of n (strength: n): KL(pi‖pi_ref) and the gain in gold and proxy reward over
    the reference's."""
    task = card.task
    log_ref, reward, gold = np.asarray(task.log_reference[0]), np.asarray(task.reward)[1:], np.asarray(task.gold)[1:]
    p = np.exp(log_ref)
    log_pi = optima.tilted(log_ref, reward, BETAS)
    kept = np.stack([best_of_n.ratios(p, reward, int(n)) for n in DRAWS])
    kl = [np.sum(np.exp(log_pi) * (log_pi - log_ref), axis=1), np.sum(p * kept * np.log(np.maximum(kept, 1e-300)), axis=1)]
    policies = [np.exp(log_pi), p * kept]
    rows = []
    for method, strength, distance, pi in zip(("optimum", "best of n"), (BETAS, DRAWS), kl, policies, strict=True):
        rows.append(pd.DataFrame({"method": method, "strength": strength, "kl_pi_ref": distance, "gold": pi @ gold - p @ gold,
                                  "proxy": pi @ reward - p @ reward}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def exact(sets: int = SETS) -> pd.DataFrame:
    """The rows of every size and set."""
    rows = [of(card(pairs, number)).assign(pairs=pairs, set=number) for pairs in PAIRS for number in range(sets)]
    return pd.concat(rows, ignore_index=True)[COLUMNS]
