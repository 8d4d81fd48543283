"""From settings to what a sampled gradient is made of: a term in the reward and a term in the loss.

What each combination descends in expectation stands in the table below; only those that descend the divergence they
name are offered, the others are refused by name. Neither term sees beta, and neither draws samples.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl import estimators, settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.rollout import Batch, Positions
from rlkl.settings import SettingsError


class Penalty(NamedTuple):
    """in_reward(u, mask): taken from each token's reward; in_loss(positions, batch): added to each position's loss."""

    in_reward: Callable[[Float[Array, "N T"], Bool[Array, "N T"]], Float[Array, "N T"]]
    in_loss: Callable[[Positions, Batch], Float[Array, "N T"]]


class Combination(NamedTuple):
    """Where a penalty may enter: for which algorithms, divergences and lengths, and why it is right there."""

    algorithm: str  # "exact" or "sampled"
    estimator: str
    placement: str
    divergence: str | None  # None: every one
    one_token: bool
    descends: str


COMBINATIONS = (
    Combination("exact", "exact", "loss", None, False, "the exact gradient, by dynamic programming or enumeration"),
    Combination("sampled", "full", "loss", None, True, "the exact gradient of the penalty: summed over all arms"),
    Combination("sampled", "k1", "reward", "kl_pi_ref", False, "unbiased: log-ratios in the reward-to-go"),
    Combination("sampled", "score", "reward", None, False, "unbiased: f'(pi/pi_ref) of the whole sequence, on its last token"),
)


def divergence(penalty: settings.Penalty) -> Divergence | None:
    """The divergence that is penalised; None for no penalty."""
    return None if penalty.divergence == "none" else REGISTRY[penalty.divergence]


def parameters(penalty: settings.Penalty, dtype) -> Params:
    """The divergence's traced parameters."""
    return Params(alpha=jnp.asarray(penalty.alpha, dtype))


def offered(kind: str) -> list[Combination]:
    """The combinations offered to a kind of algorithm.

    kind: "exact", "sampled" or "scaled" (advantages times a factor: a penalty outside of them would be worth another
    coefficient, so it is offered inside, in the reward, alone).
    """
    return [
        entry
        for entry in COMBINATIONS
        if entry.algorithm == ("exact" if kind == "exact" else "sampled")
        and not (kind == "scaled" and entry.placement == "loss")
    ]


def legal(kind: str, name: str, horizon: int) -> list[Combination]:
    """Those offered for a divergence and a horizon, the default first."""
    return [entry for entry in offered(kind) if entry.divergence in (None, name) and not (entry.one_token and horizon > 1)]


def check(kind: str, penalty: settings.Penalty, horizon: int) -> Combination:
    """The combination that the settings name (null: the default), or a `SettingsError` that lists what is offered."""
    found = legal(kind, penalty.divergence, horizon)
    for entry in found:
        if penalty.estimator in (None, entry.estimator) and penalty.placement in (None, entry.placement):
            return entry
    pairs = " or ".join(f"estimator={entry.estimator} placement={entry.placement}" for entry in found)
    wrong = "estimator" if all(entry.estimator != penalty.estimator for entry in found) else "placement"
    length = "on a bandit" if horizon == 1 else f"on sequences of {horizon} tokens"
    rule = f"not offered for {kind} gradients and {penalty.divergence} {length}; allowed: {pairs}"
    raise SettingsError(f"penalty.{wrong}", getattr(penalty, wrong), rule)


def make(penalty: settings.Penalty, dtype) -> Penalty:
    """The two terms of a resolved, legal setting."""
    div = divergence(penalty)
    if div is not None and penalty.estimator == "k1":
        return Penalty(_k1_in_reward, _nothing_in_loss)
    if div is not None and penalty.estimator == "score":
        return Penalty(partial(_score_in_reward, div, parameters(penalty, dtype)), _nothing_in_loss)
    if div is not None and penalty.estimator == "full":
        return Penalty(_nothing_in_reward, partial(_full_in_loss, div, parameters(penalty, dtype)))
    return Penalty(_nothing_in_reward, _nothing_in_loss)


def _k1_in_reward(u, mask):
    return jnp.where(mask, estimators.k1(u), 0.0)


def _score_in_reward(div, params, u, mask):
    """The weight f'(pi/pi_ref) of the whole sequence, on its last token: grad D = E_pi[f'(pi/pi_ref) grad log pi]."""
    whole = jnp.sum(jnp.where(mask, u, 0.0), axis=1, keepdims=True)
    last = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(last, div.both(whole, params)[1], 0.0)


def _nothing_in_reward(u, mask):
    return jnp.zeros_like(u)


def _nothing_in_loss(positions: Positions, batch: Batch):
    return jnp.zeros(batch.mask.shape, positions.log_pi.dtype)


def _full_in_loss(div, params, positions: Positions, batch: Batch):
    rows = estimators.full(div, params, positions.log_pi, positions.log_ref)
    return jnp.where(batch.mask, rows[positions.row], 0.0)


def statement(penalty: settings.Penalty, beta: float) -> str:
    """The objective in full, as in `maximise E[r] - 0.1 KL(pi‖pi_ref)  (reverse KL)`."""
    div = divergence(penalty)
    if div is None:
        return "maximise E[r]  (no penalty)"
    name = {"kl_pi_ref": "reverse KL", "kl_ref_pi": "forward KL"}.get(div.name, div.name.replace("_", " "))
    if div.name == "alpha":
        name = f"alpha = {float(penalty.alpha):g}"
    return f"maximise E[r] - {beta:g} {div.formula}  ({name})"
