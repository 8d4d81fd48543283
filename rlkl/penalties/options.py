"""The settings of a penalty: which go together, and what unset ones become.

`penalties.expected_gradient` says what a combination descends in expectation; one that descends another function than its
divergence is refused, by that name, unless `penalty.allow_biased` is set. `penalties.terms` makes the terms of a gradient.
"""

import contextlib
import dataclasses
import itertools

import jax.numpy as jnp

from rlkl import settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.errors import SettingsError, nearest
from rlkl.penalties import estimators
from rlkl.penalties.expected_gradient import expected_gradient, formula

SAMPLED = ("full", "score", *estimators.REGISTRY)  # estimators of sampled gradients
ESTIMATORS = ("exact", *SAMPLED)
PLACES = {"exact": "loss", "full": "loss", "score": "reward", "k1": "reward"}  # where one goes that names no placement


def divergence(penalty: settings.PenaltySettings) -> Divergence | None:
    """The divergence that is penalised; None for no penalty."""
    return None if penalty.divergence == "none" else REGISTRY[penalty.divergence]


def parameters(penalty: settings.PenaltySettings, dtype) -> Params:
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


def resolve_penalty(kind: str, given: settings.PenaltySettings, horizon: int) -> settings.PenaltySettings:
    """The setting with what is unset filled in; raises `SettingsError` for what cannot be, or descends something else."""
    estimator = estimators.ALIASES.get(given.estimator, given.estimator)
    first, place = default(kind, given.divergence, horizon)
    allowed = ("exact",) if kind == "exact" or given.sampler == "exact" else ESTIMATORS if given.sampler is None else SAMPLED
    if kind == "exact" and given.sampler in ("reference", "policy"):
        raise SettingsError("penalty.sampler", given.sampler, "is of sampled algorithms; exact gradients sample nothing")
    if given.sampler == "reference":
        first, place, allowed = "full", "loss", ("full", "k1")
    if given.sampler == "exact":
        first, place = "exact", "loss"
    _among("penalty.estimator", estimator, allowed)
    estimator = estimator or first
    if estimator != first and given.sampler != "reference":
        place = PLACES.get(estimator, "loss")
    only = {"exact": ("loss",), "score": ("reward",)}.get(estimator, ("reward", "loss"))
    _among("penalty.placement", given.placement, ("loss",) if given.sampler == "reference" else only)
    whole = estimator == "score" or horizon == 1
    filled = dataclasses.replace(
        given,
        estimator=estimator,
        placement=given.placement or place,
        level=given.level or ("sequence" if whole else "token"),
        credit=given.credit or "reward_to_go",
        sampler=given.sampler or ("exact" if estimator == "exact" else "policy"),
    )
    _check(filled, horizon)
    _check_limits(filled, kind)
    found = expected_gradient(filled, horizon, kind == "scaled")
    if found.kind != "exact" and not given.allow_biased:
        named = formula({filled.divergence: 1.0})
        rule = f"in the {filled.placement} it descends {found.says}, not {named}; penalty.allow_biased=true runs it"
        raise SettingsError("penalty.estimator", filled.estimator, rule)
    return filled


def _among(key: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SettingsError(key, value, nearest(value, allowed))


def _check(chosen: settings.PenaltySettings, horizon: int) -> None:
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


def _check_limits(chosen: settings.PenaltySettings, kind: str) -> None:
    """What there is to clamp, to truncate and to correct."""
    reads = chosen.sampler == "policy" and chosen.estimator != "full"
    if chosen.clamp is not None and not reads:
        raise SettingsError(
            "penalty.clamp", chosen.clamp, "is of estimators that read sampled log-ratios (k1, k2, k3, abs, score)"
        )
    if chosen.importance_correction != "none" and kind == "exact":
        rule = "is of sampled algorithms; exact gradients sample nothing"
        raise SettingsError("penalty.importance_correction", chosen.importance_correction, rule)
    if chosen.truncation is not None and chosen.importance_correction == "none" and not weighs(chosen):
        rule = "there is no importance weight to truncate (estimator=score of KL(pi_ref‖pi), or importance_correction, has one)"
        raise SettingsError("penalty.truncation", chosen.truncation, rule)


def weighs(chosen: settings.PenaltySettings) -> bool:
    """Whether the penalty weighs the policy's sequences by pi_ref/pi."""
    return chosen.divergence == "kl_ref_pi" and chosen.estimator == "score"


def combinations(name: str, horizon: int) -> list[settings.PenaltySettings]:
    """Every way in which a sampled penalty for a divergence may enter, biased ones too."""
    on_bandits = (("sequence",), ("reward_to_go",))
    levels, credits = on_bandits if horizon == 1 else (("token", "sequence"), ("reward_to_go", "immediate"))
    gradients = ("naive", "unbiased", "straight_through")
    found = []
    for sampler, estimator, placement, level, credit, gradient, future in itertools.product(
        ("policy", "reference"), SAMPLED, ("reward", "loss"), levels, credits, gradients, (False, True)
    ):
        given = settings.PenaltySettings(
            name, estimator=estimator, placement=placement, level=level, credit=credit, gradient=gradient, future_kl=future,
            sampler=sampler, allow_biased=True,
        )  # fmt: skip
        through = gradient == "straight_through" and estimator == given.gradient_estimator  # that is its naive gradient
        with contextlib.suppress(SettingsError):
            filled = resolve_penalty("sampled", given, horizon)
            found += [] if through else [filled]
    return found
