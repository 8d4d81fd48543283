"""What a sampled gradient is made of: a penalty's terms in the reward and in the loss. Neither sees beta or draws samples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.penalties import estimators
from rlkl.penalties.options import divergence, parameters, weighs
from rlkl.rollouts.batch import Batch, Positions, at_last, last


class Terms(NamedTuple):
    """in_reward(positions, batch): taken from each token's reward. later(positions, batch): what the tokens after a position
    take from its return, and its own does not. in_loss(positions, batch): added to each position's loss."""

    in_reward: Callable[[Positions, Batch], Float[Array, "N T"]]
    later: Callable[[Positions, Batch], Float[Array, "N T"]]
    in_loss: Callable[[Positions, Batch], Float[Array, "N T"]]


def make_terms(penalty: settings.PenaltySettings, dtype) -> Terms:
    """The terms of a resolved setting; all nothing where the reference's sequences are read (`from_reference`)."""
    div = divergence(penalty)
    if div is None or penalty.sampler in ("exact", "reference"):
        return Terms(_nothing, _nothing, _nothing)
    params = parameters(penalty, dtype)
    if penalty.estimator == "score":
        slope = lambda u: div.both(u, params)[1]  # noqa: E731
        return Terms(lambda at, batch: at_last(batch, slope(limited(penalty, _whole(at, batch)))), _nothing, _nothing)
    if penalty.estimator == "full":
        term = lambda at, batch: _full(div, params, at, batch)  # noqa: E731
        later = term
    else:
        estimate = estimators.REGISTRY[penalty.estimator]
        whole = penalty.level == "sequence"
        read = lambda at, batch: limited(penalty, _last_whole(at, batch) if whole else log_ratio(at, batch))  # noqa: E731
        term = lambda at, batch: _on_tokens(batch, estimate(read(at, batch)), whole)  # noqa: E731
        later = log_ratio
        if penalty.placement == "loss":
            return Terms(_nothing, later if penalty.future_kl else _nothing, _differentiated(penalty, read))
    if penalty.placement == "reward":
        return Terms(term, _nothing, _nothing)
    return Terms(_nothing, later if penalty.future_kl else _nothing, term)


def log_ratio(at: Positions, batch: Batch) -> Float[Array, "N T"]:
    """u of each token; 0 where none was read."""
    return at.at(at.log_pi, batch) - at.at(at.log_ref, batch)


def limited(penalty: settings.PenaltySettings, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Log-ratios as an estimator reads them: within `clamp`, outside of which they have no gradient, and, where pi_ref/pi is a
    weight, at least -log `truncation`."""
    if penalty.clamp is not None:
        u = jnp.clip(u, -penalty.clamp, penalty.clamp)
    if penalty.truncation is not None and weighs(penalty):
        u = jnp.maximum(u, -jnp.log(penalty.truncation))
    return u


class Saturation(NamedTuple):
    """The shares of the log-ratios read that `clamp` and `truncation` change; NaN where the settings have no such limit."""

    clamped: Float[Array, ""]
    truncated: Float[Array, ""]


def saturation(penalty: settings.PenaltySettings, at: Positions, batch: Batch) -> Saturation:
    """How often `limited` changes what an estimator reads."""
    none = jnp.full((), jnp.nan, at.log_pi.dtype)
    if penalty.clamp is None and penalty.truncation is None:
        return Saturation(none, none)
    whole = penalty.level == "sequence"
    u = _last_whole(at, batch) if whole else log_ratio(at, batch)
    read = last(batch) if whole else jnp.asarray(batch.mask)
    count = lambda of: jnp.sum(batch.weight * jnp.sum(of.astype(u.dtype), axis=1))  # noqa: E731
    share = lambda beyond: count(read & beyond) / count(read)  # noqa: E731
    return Saturation(
        none if penalty.clamp is None else share(jnp.abs(u) > penalty.clamp),
        none if penalty.truncation is None or not weighs(penalty) else share(-u > jnp.log(penalty.truncation)),
    )


def _differentiated(penalty: settings.PenaltySettings, read) -> Callable[[Positions, Batch], Float[Array, "N T"]]:
    """An estimator in the loss, with the gradient that the setting asks for."""
    value = estimators.REGISTRY[penalty.estimator]
    other = estimators.REGISTRY[penalty.gradient_estimator]
    whole = penalty.level == "sequence"

    def in_loss(at: Positions, batch: Batch) -> Float[Array, "N T"]:
        u = read(at, batch)
        term = value(u)
        if penalty.gradient == "unbiased":  # times pi/stopped(pi), which is 1
            log_pi = at.at(at.log_pi, batch)
            log_pi = at_last(batch, jnp.sum(log_pi, axis=1)) if whole else log_pi
            term = term * jnp.exp(log_pi - jax.lax.stop_gradient(log_pi))
        elif penalty.gradient == "straight_through":
            term = jax.lax.stop_gradient(term - other(u)) + other(u)
        return _on_tokens(batch, term, whole)

    return in_loss


def _nothing(at: Positions, batch: Batch) -> Float[Array, "N T"]:
    return jnp.zeros(batch.mask.shape, at.log_pi.dtype)


def _full(div: Divergence, params: Params, at: Positions, batch: Batch) -> Float[Array, "N T"]:
    rows = estimators.full(div, params, at.log_pi, at.log_ref)
    return jnp.where(batch.mask, rows[at.row], 0.0)


def _whole(at: Positions, batch: Batch) -> Float[Array, " N"]:
    """u of each sequence."""
    return jnp.sum(log_ratio(at, batch), axis=1)


def _last_whole(at: Positions, batch: Batch) -> Float[Array, "N T"]:
    """u of the whole sequence at its last token."""
    return at_last(batch, _whole(at, batch))


def _on_tokens(batch: Batch, term: Float[Array, "N T"], whole: bool) -> Float[Array, "N T"]:
    """A term where it counts: at a sequence's last token, or at every token read."""
    return jnp.where(last(batch) if whole else jnp.asarray(batch.mask), term, 0.0)


def from_reference(penalty: settings.PenaltySettings, at: Positions, batch: Batch) -> Float[Array, ""]:
    """KL(pi_ref‖pi) on sequences of the reference: maximum likelihood on its text; `full` sums over each next token."""
    if penalty.estimator == "full":
        div = REGISTRY["kl_ref_pi"]
        per_token = _full(div, Params(), at, batch)
    else:
        per_token = -log_ratio(at, batch)
    return jnp.sum(batch.weight * jnp.sum(per_token, axis=1))
