"""From settings to what a sampled gradient is made of: a term in the reward and a term in the loss.

Neither term sees beta, and neither draws samples. What a combination descends in expectation is said by `rlkl.descent`; one
that descends something else than its divergence is refused, by that name, unless `penalty.allow_biased` is set.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import descent, estimators, settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.rollout import Batch, Positions
from rlkl.settings import SettingsError, nearest

SAMPLED = ("full", "score", *estimators.REGISTRY)  # estimators of sampled gradients
ESTIMATORS = ("exact", *SAMPLED)


class Penalty(NamedTuple):
    """in_reward(positions, batch): taken from each token's reward. later(positions, batch): what the tokens after a position
    take from its return, and its own does not. in_loss(positions, batch): added to each position's loss."""

    in_reward: Callable[[Positions, Batch], Float[Array, "N T"]]
    later: Callable[[Positions, Batch], Float[Array, "N T"]]
    in_loss: Callable[[Positions, Batch], Float[Array, "N T"]]


def divergence(penalty: settings.Penalty) -> Divergence | None:
    """The divergence that is penalised; None for no penalty."""
    return None if penalty.divergence == "none" else REGISTRY[penalty.divergence]


def parameters(penalty: settings.Penalty, dtype) -> Params:
    """The divergence's traced parameters."""
    first, second = penalty.weights
    return Params(jnp.asarray(penalty.alpha, dtype), (jnp.asarray(first, dtype), jnp.asarray(second, dtype)))


def default(kind: str, name: str, horizon: int) -> tuple[str, str]:
    """The estimator and placement of an algorithm that names none: exact in expectation, the least noisy first.

    kind: "exact", "sampled" or "scaled" (advantages times a factor: a penalty outside of them would be worth another
    coefficient).
    """
    if kind == "exact":
        return "exact", "loss"
    if horizon == 1 and kind == "sampled":
        return "full", "loss"
    return ("k1" if name == "kl_pi_ref" else "score"), "reward"


def resolve(kind: str, given: settings.Penalty, horizon: int) -> settings.Penalty:
    """The setting with what is unset filled in; raises `SettingsError` for what cannot be, or descends something else."""
    estimator = estimators.ALIASES.get(given.estimator, given.estimator)
    first, place = default(kind, given.divergence, horizon)
    allowed = ("exact",) if kind == "exact" else SAMPLED
    if given.sampler == "reference":
        if kind == "exact":
            raise SettingsError("penalty.sampler", "reference", "is of sampled algorithms; exact gradients sample nothing")
        first, place, allowed = "full", "loss", ("full", "k1")
    _among("penalty.estimator", estimator, allowed)
    estimator = estimator or first
    if estimator != first:
        place = {"full": "loss", "score": "reward", "k1": "reward"}.get(estimator, "loss")
    only = {"exact": ("loss",), "score": ("reward",)}.get(estimator, ("reward", "loss"))
    _among("penalty.placement", given.placement, ("loss",) if given.sampler == "reference" else only)
    whole = estimator == "score" or horizon == 1
    filled = dataclasses.replace(
        given,
        estimator=estimator,
        placement=given.placement or place,
        level=given.level or ("sequence" if whole else "token"),
        credit=given.credit or "reward_to_go",
    )
    _check(filled, horizon)
    found = descent.of(filled, horizon, kind == "scaled")
    if found.kind != "exact" and not given.allow_biased:
        named = descent.formula({filled.divergence: 1.0})
        rule = f"in the {filled.placement} it descends {found.says}, not {named}; penalty.allow_biased=true runs it"
        raise SettingsError("penalty.estimator", filled.estimator, rule)
    return filled


def _among(key: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SettingsError(key, value, nearest(value, allowed))


def _check(chosen: settings.Penalty, horizon: int) -> None:
    """What goes with what."""
    sampled = chosen.estimator in estimators.REGISTRY
    in_loss = chosen.placement == "loss"
    _among("penalty.gradient_estimator", chosen.gradient_estimator, tuple(estimators.REGISTRY))
    if chosen.gradient != "naive" and not (sampled and in_loss):
        rule = "is the gradient of a sampled estimator (" + ", ".join(estimators.REGISTRY) + ") in the loss"
        raise SettingsError("penalty.gradient", chosen.gradient, rule)
    if chosen.level == "sequence" and horizon > 1 and chosen.estimator == "full":
        raise SettingsError("penalty.level", "sequence", "full sums over the vocabulary of each token; its level is token")
    if chosen.level == "token" and horizon > 1 and chosen.estimator == "score":
        raise SettingsError("penalty.level", "token", "score is the weight of the whole sequence; its level is sequence")
    if chosen.credit == "immediate" and (chosen.level == "sequence" or not chosen.placement == "reward"):
        raise SettingsError("penalty.credit", "immediate", "is of each token's own term in the reward (level=token)")
    if chosen.sampler == "reference" and ((chosen.level == "sequence" and horizon > 1) or chosen.credit == "immediate"):
        raise SettingsError("penalty.sampler", "reference", "reads the reference's sequences token by token")
    if chosen.sampler == "reference" and (chosen.future_kl or chosen.gradient != "naive"):
        raise SettingsError("penalty.sampler", "reference", "goes with gradient=naive and future_kl=false")
    if chosen.future_kl and not (in_loss and chosen.level == "token" and chosen.estimator != "exact"):
        raise SettingsError("penalty.future_kl", True, "adds to a term in the loss, token by token")
    if chosen.sampler == "reference" and chosen.divergence != "kl_ref_pi":
        raise SettingsError("penalty.sampler", "reference", "is of KL(pi_ref‖pi) alone (penalty=forward_kl)")


def combinations(name: str, horizon: int) -> list[settings.Penalty]:
    """Every way in which a sampled penalty for a divergence may enter, biased ones too."""
    on_bandits = (("sequence",), ("reward_to_go",))
    levels, credits = on_bandits if horizon == 1 else (("token", "sequence"), ("reward_to_go", "immediate"))
    gradients = ("naive", "unbiased", "straight_through")
    found = []
    for sampler, estimator, placement, level, credit, gradient, future in itertools.product(
        ("policy", "reference"), SAMPLED, ("reward", "loss"), levels, credits, gradients, (False, True)
    ):
        given = settings.Penalty(
            name, estimator=estimator, placement=placement, level=level, credit=credit, gradient=gradient, future_kl=future,
            sampler=sampler, allow_biased=True,
        )  # fmt: skip
        through = gradient == "straight_through" and estimator == given.gradient_estimator  # that is its naive gradient
        with contextlib.suppress(SettingsError):
            filled = resolve("sampled", given, horizon)
            found += [] if through else [filled]
    return found


def make(penalty: settings.Penalty, dtype) -> Penalty:
    """The terms of a resolved setting; all nothing where the reference's sequences are read (`from_reference`)."""
    div = divergence(penalty)
    if div is None or penalty.estimator == "exact" or penalty.sampler == "reference":
        return Penalty(_nothing, _nothing, _nothing)
    params = parameters(penalty, dtype)
    if penalty.estimator == "score":
        return Penalty(lambda at, batch: _put_last(batch, div.both(_whole(at, batch), params)[1]), _nothing, _nothing)
    if penalty.estimator == "full":
        term = lambda at, batch: _full(div, params, at, batch)  # noqa: E731
        later = term
    else:
        estimate = estimators.REGISTRY[penalty.estimator]
        read = _last_whole if penalty.level == "sequence" else log_ratio
        term = lambda at, batch: _on_tokens(batch, estimate(read(at, batch)), read is _last_whole)  # noqa: E731
        later = log_ratio
        if penalty.placement == "loss":
            return Penalty(_nothing, later if penalty.future_kl else _nothing, _differentiated(penalty, read))
    if penalty.placement == "reward":
        return Penalty(term, _nothing, _nothing)
    return Penalty(_nothing, later if penalty.future_kl else _nothing, term)


def log_ratio(at: Positions, batch: Batch) -> Float[Array, "N T"]:
    """u of each token; 0 where none was read."""
    return at.at(at.log_pi, batch) - at.at(at.log_ref, batch)


def _differentiated(penalty: settings.Penalty, read) -> Callable[[Positions, Batch], Float[Array, "N T"]]:
    """An estimator in the loss, with the gradient that the setting asks for."""
    value = estimators.REGISTRY[penalty.estimator]
    other = estimators.REGISTRY[penalty.gradient_estimator]
    whole = penalty.level == "sequence"

    def in_loss(at: Positions, batch: Batch) -> Float[Array, "N T"]:
        u = read(at, batch)
        term = value(u)
        if penalty.gradient == "unbiased":  # times pi/stopped(pi), which is 1
            log_pi = at.at(at.log_pi, batch)
            log_pi = _put_last(batch, jnp.sum(log_pi, axis=1)) if whole else log_pi
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
    return _put_last(batch, _whole(at, batch))


def _put_last(batch: Batch, of_sequence: Float[Array, " N"]) -> Float[Array, "N T"]:
    return jnp.where(_ends(batch), of_sequence[:, None], 0.0)


def _ends(batch: Batch):
    mask = jnp.asarray(batch.mask)
    return mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))


def _on_tokens(batch: Batch, term: Float[Array, "N T"], whole: bool) -> Float[Array, "N T"]:
    """A term where it counts: at a sequence's last token, or at every token read."""
    return jnp.where(_ends(batch) if whole else jnp.asarray(batch.mask), term, 0.0)


def from_reference(penalty: settings.Penalty, at: Positions, batch: Batch) -> Float[Array, ""]:
    """KL(pi_ref‖pi) on sequences of the reference: maximum likelihood on its text; `full` sums over each next token."""
    if penalty.estimator == "full":
        div = REGISTRY["kl_ref_pi"]
        per_token = _full(div, Params(), at, batch)
    else:
        per_token = -log_ratio(at, batch)
    return jnp.sum(batch.weight * jnp.sum(per_token, axis=1))


def statement(penalty: settings.Penalty, beta: float) -> str:
    """The objective in full, as in `maximise E[r] - 0.1 KL(pi‖pi_ref)  (reverse KL)`."""
    div = divergence(penalty)
    if div is None:
        return "maximise E[r]  (no penalty)"
    name = {"kl_pi_ref": "reverse KL", "kl_ref_pi": "forward KL"}.get(div.name, div.name.replace("_", " "))
    if div.name == "alpha":
        name = f"alpha = {float(penalty.alpha):g}"
    if div.name == "mixed":
        name = "w1, w2 = " + ", ".join(f"{float(weight):g}" for weight in penalty.weights)
    return f"maximise E[r] - {beta:g} {div.formula}  ({name})"


def entrance(penalty: settings.Penalty) -> str:
    """How a sampled penalty enters, in words."""
    if penalty.sampler == "reference":
        return f"{penalty.estimator} in the loss, on the reference's own sequences"
    extra = "" if penalty.gradient == "naive" else f", gradient {penalty.gradient}"
    extra += f" of {penalty.gradient_estimator}" if penalty.gradient == "straight_through" else ""
    extra += ", immediate credit" if penalty.credit == "immediate" else ""
    extra += ", future KL added" if penalty.future_kl else ""
    return f"{penalty.estimator} in the {penalty.placement}, of each {penalty.level}{extra}"
