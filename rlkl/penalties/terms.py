"""The terms of a penalty in a sampled loss: in the reward, and in the loss. They are not multiplied by beta."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlkl import settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.penalties import estimators, top_k
from rlkl.penalties.options import divergence, parameters, weighs
from rlkl.rollouts.batch import Batch, Positions, at_last_token, last_token_mask

Term = Callable[[Positions, Batch], Float[Array, "N T"]]


class Terms(NamedTuple):
    """The terms of a penalty, as functions of (positions, batch); a value for each token.

    in_reward: subtracted from the reward of each token.
    future_kl: its sum over later tokens is subtracted from the return of each token.
    in_loss: added to the loss of each token.
    """

    in_reward: Term
    future_kl: Term
    in_loss: Term


def make_terms(penalty: settings.PenaltySettings, dtype) -> Terms:
    """The terms of a resolved penalty. All are zero where samples of the reference are used (see `from_reference`)."""
    div = divergence(penalty)
    if div is None or penalty.sampler in ("exact", "reference"):
        return Terms(_zero, _zero, _zero)
    params = parameters(penalty, dtype)
    if penalty.estimator == "score":
        return Terms(partial(score, penalty, div, params), _zero, _zero)
    summed = _over_vocabulary(penalty, div, params)
    if penalty.placement == "reward":
        return Terms(summed or partial(_estimate, penalty), _zero, _zero)
    future_kl = (summed or log_ratio) if penalty.future_kl else _zero
    return Terms(_zero, future_kl, summed or partial(_differentiated, penalty))


def _over_vocabulary(penalty: settings.PenaltySettings, div: Divergence, params: Params) -> Term | None:
    """The term of an estimator that sums over tokens at each visited state; None for one that reads sampled tokens."""
    if penalty.estimator == "full":
        return partial(_full, div, params)
    return partial(_top_k, penalty, div) if penalty.estimator == "top_k" else None


def log_ratio(positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """The log-ratio u = log(pi/pi_ref) of each token; 0 at padding."""
    return positions.at_tokens(positions.log_pi, batch) - positions.at_tokens(positions.log_ref, batch)


def limited(penalty: settings.PenaltySettings, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The log-ratios as an estimator reads them: clipped to [-clamp, clamp] and, where pi_ref/pi is a weight, at least
    -log truncation. Clipped values have no gradient."""
    if penalty.clamp is not None:
        u = jnp.clip(u, -penalty.clamp, penalty.clamp)
    if penalty.truncation is not None and weighs(penalty):
        u = jnp.maximum(u, -jnp.log(penalty.truncation))
    return u


class Saturation(NamedTuple):
    """The shares of log-ratios that `clamp` and `truncation` change; NaN without such a limit."""

    clamped: Float[Array, ""]
    truncated: Float[Array, ""]


def saturation(penalty: settings.PenaltySettings, positions: Positions, batch: Batch) -> Saturation:
    """The shares of an estimator's log-ratios that `limited` changes."""
    none = jnp.full((), jnp.nan, positions.log_pi.dtype)
    if penalty.clamp is None and penalty.truncation is None:
        return Saturation(none, none)
    u, mask = _log_ratios(penalty, positions, batch), _mask(penalty, batch)

    def count(tokens):
        return batch.mean(jnp.sum(tokens.astype(u.dtype), axis=1))

    def share(beyond):
        return count(mask & beyond) / count(mask)

    return Saturation(
        none if penalty.clamp is None else share(jnp.abs(u) > penalty.clamp),
        none if penalty.truncation is None or not weighs(penalty) else share(-u > jnp.log(penalty.truncation)),
    )


def _estimate(penalty: settings.PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """A sampled estimator at each token, or of the whole sequence at its last token."""
    u = limited(penalty, _log_ratios(penalty, positions, batch))
    return jnp.where(_mask(penalty, batch), estimators.REGISTRY[penalty.estimator](u), 0.0)


def _differentiated(penalty: settings.PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """A sampled estimator in the loss, with the gradient that `penalty.gradient` names."""
    u = limited(penalty, _log_ratios(penalty, positions, batch))
    term = estimators.REGISTRY[penalty.estimator](u)
    if penalty.gradient == "unbiased":  # times pi/stop_gradient(pi), which is 1
        log_pi = positions.at_tokens(positions.log_pi, batch)
        log_pi = at_last_token(batch, jnp.sum(log_pi, axis=1)) if penalty.level == "sequence" else log_pi
        term = term * jnp.exp(log_pi - jax.lax.stop_gradient(log_pi))
    elif penalty.gradient == "straight_through":
        other = estimators.REGISTRY[penalty.gradient_estimator](u)
        term = jax.lax.stop_gradient(term - other) + other
    return jnp.where(_mask(penalty, batch), term, 0.0)


def score(
    penalty: settings.PenaltySettings, div: Divergence, params: Params, positions: Positions, batch: Batch
) -> Float[Array, "N T"]:
    """The slope f'(pi/pi_ref) of the whole sequence, at its last token; exact in expectation for every divergence."""
    return at_last_token(batch, div.both(limited(penalty, _of_sequences(positions, batch)), params)[1])


def _zero(positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    return jnp.zeros(batch.mask.shape, positions.log_pi.dtype)


def _full(div: Divergence, params: Params, positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """The exact divergence of the next-token distribution at each position."""
    rows = estimators.full(div, params, positions.log_pi, positions.log_ref)
    return positions.at_positions(rows, batch)


def _top_k(penalty: settings.PenaltySettings, div: Divergence, positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """The divergence over k tokens of the next-token distribution at each position."""
    assert penalty.top_k is not None and penalty.top_k_of is not None and penalty.top_k_tail is not None
    rows = top_k.top_k(div, penalty.top_k, penalty.top_k_of, penalty.top_k_tail, positions.log_pi, positions.log_ref)
    return positions.at_positions(rows, batch)


def _of_sequences(positions: Positions, batch: Batch) -> Float[Array, " N"]:
    """The log-ratio of each sequence."""
    return jnp.sum(log_ratio(positions, batch), axis=1)


def _log_ratios(penalty: settings.PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, "N T"]:
    """The log-ratio of each token or, at level=sequence, of the whole sequence at its last token."""
    return at_last_token(batch, _of_sequences(positions, batch)) if penalty.level == "sequence" else log_ratio(positions, batch)


def _mask(penalty: settings.PenaltySettings, batch: Batch) -> Bool[Array, "N T"]:
    """The tokens at which an estimator stands: all of them or, at level=sequence, the last one of each sequence."""
    return last_token_mask(batch) if penalty.level == "sequence" else jnp.asarray(batch.mask)


def from_reference(penalty: settings.PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, ""]:
    """Estimate of KL(pi_ref‖pi) on samples of the reference, in nats: its gradient is that of maximum likelihood.

    `full` sums over the vocabulary at each position; k1 reads the sampled tokens alone.
    """
    if penalty.estimator == "full":
        div = REGISTRY["kl_ref_pi"]
        per_token = _full(div, Params(), positions, batch)
    else:
        per_token = -log_ratio(positions, batch)
    return batch.mean(jnp.sum(per_token, axis=1))
