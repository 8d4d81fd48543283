"""Defaults and checks of a penalty's settings.

A combination whose expected gradient is not that of the named divergence is refused, unless `penalty.allow_biased` is set: see
`penalties.expected_gradient`. `penalties.terms` computes the terms of a loss from resolved settings.
"""

import contextlib
import dataclasses
import itertools

import jax.numpy as jnp

from rlkl import settings
from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.errors import SettingsError, nearest
from rlkl.penalties import estimators, top_k
from rlkl.penalties.expected_gradient import TAILS, expected_gradient, formula

OVER_VOCABULARY = ("full", "top_k")  # estimators that sum over tokens at each visited state
SAMPLED = (*OVER_VOCABULARY, "score", *estimators.REGISTRY)  # the estimators of sampled algorithms
ESTIMATORS = ("exact", *SAMPLED)
PLACES = {"exact": "loss", "full": "loss", "top_k": "loss", "score": "reward", "k1": "reward"}  # default placements


def divergence(penalty: settings.PenaltySettings) -> Divergence | None:
    """The registered divergence of a penalty; None without a penalty."""
    return None if penalty.divergence == "none" else REGISTRY[penalty.divergence]


def parameters(penalty: settings.PenaltySettings, dtype) -> Params:
    """The traced parameters of the penalty's divergence."""
    first, second = penalty.weights
    return Params(jnp.asarray(penalty.alpha, dtype), (jnp.asarray(first, dtype), jnp.asarray(second, dtype)))


def default(kind: str, name: str, horizon: int) -> tuple[str, str]:
    """The default estimator and placement: unbiased, and of low variance.

    kind: the gradients of the algorithm: "exact", "sampled", or "scaled" (advantages are multiplied by a factor, which would
    change the effective coefficient of a penalty in the loss). name: the divergence.
    """
    if kind == "exact":
        return "exact", "loss"
    if horizon == 1 and kind == "sampled":
        return "full", "loss"
    if name in REGISTRY and REGISTRY[name].root:
        return "exact", "loss"
    return ("k1" if name == "kl_pi_ref" else "score"), "reward"


def resolve_penalty(kind: str, penalty: settings.PenaltySettings, horizon: int) -> settings.PenaltySettings:
    """Fill in the unset settings of a penalty; raises `SettingsError` for bad combinations and for biased gradients."""
    estimator = estimators.ALIASES.get(penalty.estimator, penalty.estimator)
    default_estimator, default_placement = default(kind, penalty.divergence, horizon)
    allowed = (
        ("exact",) if kind == "exact" or penalty.sampler == "exact" else ESTIMATORS if penalty.sampler is None else SAMPLED
    )
    if kind == "exact" and penalty.sampler in ("reference", "policy"):
        raise SettingsError("penalty.sampler", penalty.sampler, "is of sampled algorithms; exact gradients sample nothing")
    if penalty.sampler == "reference":
        default_estimator, default_placement, allowed = "full", "loss", ("full", "k1")
    if penalty.sampler == "exact":
        default_estimator, default_placement = "exact", "loss"
    _among("penalty.estimator", estimator, allowed)
    estimator = estimator or default_estimator
    if estimator != default_estimator and penalty.sampler != "reference":
        default_placement = PLACES.get(estimator, "loss")
    only = {"exact": ("loss",), "score": ("reward",)}.get(estimator, ("reward", "loss"))
    _among("penalty.placement", penalty.placement, ("loss",) if penalty.sampler == "reference" else only)
    one_term = estimator == "score" or horizon == 1
    filled = dataclasses.replace(
        penalty,
        estimator=estimator,
        placement=penalty.placement or default_placement,
        level=penalty.level or ("sequence" if one_term else "token"),
        credit=penalty.credit or "reward_to_go",
        top_k_of=penalty.top_k_of or ("reference" if estimator == "top_k" else None),
        top_k_tail=penalty.top_k_tail or ("bucket" if estimator == "top_k" else None),
        sampler=penalty.sampler or ("exact" if estimator == "exact" else "policy"),
    )
    _check(filled, horizon)
    _check_top_k(filled)
    _check_limits(filled, kind)
    descended = expected_gradient(filled, horizon, kind == "scaled")
    if descended.kind != "exact" and not penalty.allow_biased:
        wanted = formula({filled.divergence: 1.0})
        rule = f"in the {filled.placement} it descends {descended.says}, not {wanted}; penalty.allow_biased=true runs it"
        raise SettingsError("penalty.estimator", filled.estimator, rule)
    return filled


def _among(key: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SettingsError(key, value, nearest(value, allowed))


def _check(penalty: settings.PenaltySettings, horizon: int) -> None:
    """Raise `SettingsError` for settings that cannot be combined."""
    sampled = penalty.estimator in estimators.REGISTRY
    div = divergence(penalty)
    if penalty.estimator == "score" and div is not None and div.root:
        rule = f"is a mean over samples, and {div.formula} is none; exact, or full on a bandit, can train under it"
        raise SettingsError("penalty.estimator", "score", rule)
    in_loss = penalty.placement == "loss"
    _among("penalty.gradient_estimator", penalty.gradient_estimator, tuple(estimators.REGISTRY))
    if penalty.gradient != "naive" and not (sampled and in_loss):
        rule = "is the gradient of a sampled estimator (" + ", ".join(estimators.REGISTRY) + ") in the loss"
        raise SettingsError("penalty.gradient", penalty.gradient, rule)
    if penalty.level == "sequence" and horizon > 1 and penalty.estimator in OVER_VOCABULARY:
        rule = f"{penalty.estimator} sums over the vocabulary of each token; its level is token"
        raise SettingsError("penalty.level", "sequence", rule)
    if penalty.level == "token" and horizon > 1 and penalty.estimator == "score":
        raise SettingsError("penalty.level", "token", "score is the weight of the whole sequence; its level is sequence")
    if penalty.credit == "immediate" and (penalty.level == "sequence" or not penalty.placement == "reward"):
        raise SettingsError("penalty.credit", "immediate", "is of each token's own term in the reward (level=token)")
    if penalty.sampler == "reference" and ((penalty.level == "sequence" and horizon > 1) or penalty.credit == "immediate"):
        raise SettingsError("penalty.sampler", "reference", "reads the reference's sequences token by token")
    if penalty.sampler == "reference" and (penalty.future_kl or penalty.gradient != "naive"):
        raise SettingsError("penalty.sampler", "reference", "goes with gradient=naive and future_kl=false")
    if penalty.future_kl and not (in_loss and penalty.level == "token" and penalty.estimator != "exact"):
        raise SettingsError("penalty.future_kl", True, "adds to a term in the loss, token by token")
    if penalty.sampler == "reference" and penalty.divergence != "kl_ref_pi":
        raise SettingsError("penalty.sampler", "reference", "is of KL(pi_ref‖pi) alone (penalty=forward_kl)")


def _check_top_k(penalty: settings.PenaltySettings) -> None:
    """Raise `SettingsError` for options of estimator=top_k that are missing or have no effect, and for other divergences."""
    if penalty.estimator != "top_k":
        for key in ("top_k", "top_k_of", "top_k_tail"):
            if getattr(penalty, key) is not None:
                raise SettingsError(f"penalty.{key}", getattr(penalty, key), "is of estimator=top_k")
    elif penalty.top_k is None:
        raise SettingsError("penalty.top_k", "null", "estimator=top_k needs the number of tokens that it sums over")
    elif penalty.divergence not in top_k.DIRECTIONS:
        rule = "is of KL(pi‖pi_ref) and KL(pi_ref‖pi) alone (penalty=reverse_kl, penalty=forward_kl)"
        raise SettingsError("penalty.estimator", "top_k", rule)


def _check_limits(penalty: settings.PenaltySettings, kind: str) -> None:
    """Raise `SettingsError` for a clamp, a truncation or an importance correction that would have no effect."""
    has_log_ratios = penalty.sampler == "policy" and penalty.estimator not in OVER_VOCABULARY
    if penalty.clamp is not None and not has_log_ratios:
        raise SettingsError(
            "penalty.clamp", penalty.clamp, "is of estimators that read sampled log-ratios (k1, k2, k3, abs, score)"
        )
    if penalty.importance_correction != "none" and kind == "exact":
        rule = "is of sampled algorithms; exact gradients sample nothing"
        raise SettingsError("penalty.importance_correction", penalty.importance_correction, rule)
    if penalty.truncation is not None and penalty.importance_correction == "none" and not weighs(penalty):
        rule = "there is no importance weight to truncate (estimator=score of KL(pi_ref‖pi), or importance_correction, has one)"
        raise SettingsError("penalty.truncation", penalty.truncation, rule)
    _check_weights(penalty, kind)


def _check_weights(penalty: settings.PenaltySettings, kind: str) -> None:
    """Raise `SettingsError` for limits of importance weights, or masks, that contradict each other or have no effect."""
    least, most = penalty.importance_min, penalty.truncation
    if penalty.importance_correction == "none":
        if least is not None:
            raise SettingsError("penalty.importance_min", least, "there is no importance weight (importance_correction=none)")
        if penalty.importance_limit != "truncate":
            rule = "there is no importance weight (importance_correction=none)"
            raise SettingsError("penalty.importance_limit", penalty.importance_limit, rule)
    if penalty.importance_limit == "mask" and least is None and most is None:
        raise SettingsError("penalty.importance_limit", "mask", "needs a limit: penalty.truncation, penalty.importance_min")
    if least is not None and most is not None and not least < most:
        raise SettingsError("penalty.importance_min", least, f"must be below penalty.truncation={most:g}")
    if penalty.kl_mask != "none" and kind == "exact":
        raise SettingsError("penalty.kl_mask", penalty.kl_mask, "is of sampled algorithms; exact gradients sample nothing")
    if (penalty.kl_mask == "none") != (penalty.kl_mask_limit is None):
        set_key, missing = ("kl_mask_limit", "kl_mask") if penalty.kl_mask == "none" else ("kl_mask", "kl_mask_limit")
        rule = f"goes with penalty.{missing}, which is not set"
        raise SettingsError(f"penalty.{set_key}", getattr(penalty, set_key), rule)


def weighs(penalty: settings.PenaltySettings) -> bool:
    """Whether the penalty weights the policy's samples by pi_ref/pi."""
    return penalty.divergence == "kl_ref_pi" and penalty.estimator == "score"


def combinations(name: str, horizon: int) -> list[settings.PenaltySettings]:
    """Every valid combination of settings for a sampled penalty with divergence `name`, biased ones included."""
    on_bandits = (("sequence",), ("reward_to_go",))
    levels, credits = on_bandits if horizon == 1 else (("token", "sequence"), ("reward_to_go", "immediate"))
    gradients = ("naive", "unbiased", "straight_through")
    valid = []
    for sampler, estimator, placement, level, credit, gradient, future_kl in itertools.product(
        ("policy", "reference"), SAMPLED, ("reward", "loss"), levels, credits, gradients, (False, True)
    ):
        candidate = settings.PenaltySettings(
            name, estimator=estimator, placement=placement, level=level, credit=credit, gradient=gradient, future_kl=future_kl,
            sampler=sampler, allow_biased=True,
        )  # fmt: skip
        repeats_naive = gradient == "straight_through" and estimator == candidate.gradient_estimator
        with contextlib.suppress(SettingsError):
            resolved = resolve_penalty("sampled", candidate, horizon)
            valid += [] if repeats_naive else [resolved]
    return valid


def top_k_combinations(name: str, horizon: int, k: int) -> list[settings.PenaltySettings]:
    """The placements, sources and tails of estimator=top_k."""
    ways = itertools.product(("loss", "reward"), ("reference", "policy"), TAILS)
    return [
        resolve_penalty(
            "sampled",
            settings.PenaltySettings(
                name, estimator="top_k", placement=placement, top_k=k, top_k_of=source, top_k_tail=tail, allow_biased=True
            ),
            horizon,
        )
        for placement, source, tail in ways
    ]
