"""20,000 random bandits with correlated gold and proxy rewards, and optima on each of them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.correlated_proxies import bounds
from rlkl.divergences import REGISTRY, Params
from rlkl.exact import bandit_optimum
from rlkl.settings import numerics

ARMS = 10
IN_TURN = ("kl_ref_pi", "pearson", "neyman", "hellinger", "jensen_shannon", "total_variation")
STRIDE = 14  # of bandits: these optima are found by two nested bisections


class Bandits(NamedTuple):
    """References, standardised proxies and golds, and their correlations, all above zero."""

    p: Float[np.ndarray, "N A"]
    proxy: Float[np.ndarray, "N A"]
    gold: Float[np.ndarray, "N A"]
    correlation: Float[np.ndarray, " N"]


def draw(count: int, seed: int = 0) -> Bandits:
    """Random bandits: references from flat to peaked, rewards normal or heavy-tailed, correlations from 0 to 1."""
    generator = np.random.default_rng(seed)
    weight = generator.gamma(generator.choice([0.3, 1.0, 3.0], size=(count, 1)), size=(count, ARMS)) + 1e-6
    p = weight / weight.sum(axis=1, keepdims=True)
    gold, noise = (generator.standard_t(generator.choice([2.5, 30.0], size=(count, 1)), size=(count, ARMS)) for _ in range(2))
    share = generator.uniform(size=(count, 1))
    proxy, gold = bounds.standardised(p, share * gold + (1.0 - share) * noise), bounds.standardised(p, gold)
    correlation = np.sum(p * proxy * gold, axis=1)
    sign = np.where(correlation < 0.0, -1.0, 1.0)
    return Bandits(p, proxy, gold * sign[:, None], np.abs(correlation))


@partial(jax.jit, static_argnums=0)
def _optima(name: str, p, proxy, beta):
    return jax.vmap(partial(bandit_optimum.solve_bandit, REGISTRY[name], Params()))(jnp.log(p), proxy, beta)


def optima(name: str, bandits: Bandits, beta: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
    """The optimal policy of the proxy on each bandit, at a coefficient each."""
    with numerics.pinned():
        return np.exp(np.asarray(_optima(name, *(jnp.asarray(each) for each in (bandits.p, bandits.proxy, beta)))))


def table(count: int) -> pd.DataFrame:
    """A row for each kind of policy: the least distance of its gold gains from both bounds, over the bandits."""
    bandits, generator = draw(count), np.random.default_rng(1)
    beta = 10.0 ** generator.uniform(-1.5, 1.5, size=count)
    rows = [_row("kl_pi_ref", bandits, optima("kl_pi_ref", bandits, beta))]
    rows += [_row("root_pearson at the published coefficient", bandits, optima("root_pearson", bandits, published(bandits)))]
    rows += [_row("pearson while every arm is kept", bandits, _all_kept(bandits))]
    rows += [_row("random policies", bandits, generator.dirichlet(np.full(ARMS, 0.5), size=count))]
    for number, name in enumerate(IN_TURN):
        part = Bandits(*(each[number::STRIDE] for each in bandits))
        rows.append(_row(name, part, optima(name, part, beta[number::STRIDE])))
    return pd.DataFrame(rows).assign(panel="bandits")


def published(bandits: Bandits) -> Float[np.ndarray, " N"]:
    """The coefficient of the square root of chi-square in the published bound, sqrt(1 - r^2) standard deviations."""
    return np.sqrt(1.0 - np.square(bandits.correlation))


def _all_kept(bandits: Bandits) -> Float[np.ndarray, "N A"]:
    """Optima under Pearson's chi-square, p (1 + r/(2 beta)), where the least rewarded arm keeps a tenth of its mass."""
    beta = -bandits.proxy.min(axis=1, keepdims=True) / 1.8
    return bandits.p * (1.0 + bandits.proxy / (2.0 * beta))


def _row(name: str, bandits: Bandits, pi: Float[np.ndarray, "N A"]) -> dict:
    proxy, gold = (np.sum(pi * values, axis=1) for values in (bandits.proxy, bandits.gold))
    chi2, correlation = bounds.chi_square(bandits.p, pi), bandits.correlation
    scale = 1.0 + np.sqrt(chi2)
    published_gain, sharp = (bound(correlation, proxy, chi2) for bound in (bounds.published_bound, bounds.sharp_bound))
    return {
        "divergence": name, "count": len(gold), "slack": np.min((gold - published_gain) * correlation / scale),
        "sharp_slack": np.min((gold - sharp) / scale), "sharper_by": np.min((sharp - published_gain) * correlation / scale),
        "off_line": np.max(np.abs(gold - correlation * proxy) / scale), "gold": gold.min(), "worse": np.mean(gold < 0.0),
    }  # fmt: skip
