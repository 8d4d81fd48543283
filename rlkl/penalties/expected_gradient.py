"""What a penalty's expected gradient descends: by name, for every way in which one may enter a sampled gradient.

x ~ pi, u = log pi(x)/pi_ref(x). An estimate g(u) in the reward has the expected gradient E[g(u) grad log pi]; differentiated
in the loss with the sample held fixed, E[g'(u) grad log pi]; times the ratio pi/stopped(pi) there, E[(g + g')(u) grad log pi].
Such a weight of the score descends D_f where it is f'(pi/pi_ref) but for a constant. On several tokens that holds for the
log-ratio of the whole sequence; token by token, the effect that a token has on the states that follow is left out unless it is
put back (reward-to-go, future_kl). `rlkl audit` measures all of it.
"""

from typing import Literal, NamedTuple

from rlkl import settings
from rlkl.divergences import REGISTRY

Kind = Literal["exact", "other", "semi", "none", "inert"]


# (estimator, where and how): the divergences, with coefficients, whose slopes make the weight; None: no combination of them.
WEIGHTS: dict[tuple[str, str], dict[str, float] | None] = {
    ("k1", "reward"): {"kl_pi_ref": 1.0},
    ("k2", "reward"): None,
    ("k3", "reward"): {"kl_pi_ref": 1.0, "kl_ref_pi": -1.0},
    ("abs", "reward"): None,
    ("k1", "naive"): {},
    ("k2", "naive"): {"kl_pi_ref": 1.0},
    ("k3", "naive"): {"kl_ref_pi": 1.0},
    ("abs", "naive"): {"total_variation": 2.0},
    ("k1", "unbiased"): {"kl_pi_ref": 1.0},
    ("k2", "unbiased"): None,
    ("k3", "unbiased"): {"kl_pi_ref": 1.0},
    ("abs", "unbiased"): None,
}


NO_DIVERGENCE = "the gradient of no divergence"


class ExpectedGradient(NamedTuple):
    """kind: exact (the divergence that the setting names), other (another one), semi (part of a gradient), none (no
    divergence's), inert (zero). says: in words."""

    kind: Kind
    says: str


def expected_gradient(penalty: settings.PenaltySettings, horizon: int, scaled: bool = False) -> ExpectedGradient:
    """What a resolved setting descends on sequences of `horizon` tokens; scaled: under advantages times a factor."""
    found = _expected_gradient(penalty, horizon)
    if scaled and penalty.placement == "loss" and found.kind != "inert":
        return ExpectedGradient(
            "other" if found.kind == "exact" else found.kind, f"{found.says}, at beta times the advantages' scale"
        )
    return found


def _expected_gradient(penalty: settings.PenaltySettings, horizon: int) -> ExpectedGradient:
    name, estimator, whole = penalty.divergence, penalty.estimator, horizon == 1 or penalty.level == "sequence"
    if name == "none" or estimator in ("exact", "score"):  # but for what clamp and truncation change, which is logged
        return ExpectedGradient("exact", formula({name: 1.0}) if name != "none" else "nothing")
    if penalty.sampler == "reference":
        return _match(name, {"kl_ref_pi": 1.0})
    if estimator == "full":
        return _full(penalty, horizon)
    how = "reward" if penalty.placement == "reward" else "naive" if penalty.gradient == "straight_through" else penalty.gradient
    weight = WEIGHTS[penalty.gradient_estimator if penalty.gradient == "straight_through" else estimator, how]
    if whole or (weight == {} and not penalty.future_kl):
        return _match(name, weight)
    if penalty.placement == "reward" and penalty.credit == "reward_to_go":
        return _match(name, weight if estimator == "k1" else None)
    if penalty.future_kl:  # what is put back is the later tokens' KL(pi‖pi_ref)
        if weight == {}:
            return later_alone("kl_pi_ref")
        return _match(name, weight if weight == {"kl_pi_ref": 1.0} else None)
    return _match(name, None) if weight is None else semi(weight)


def _full(penalty: settings.PenaltySettings, horizon: int) -> ExpectedGradient:
    name, whole = penalty.divergence, {penalty.divergence: 1.0}
    if penalty.placement == "reward":
        return _match(name, {}) if horizon == 1 or penalty.credit == "immediate" else later_alone(name)
    if horizon == 1 or (penalty.future_kl and name == "kl_pi_ref"):
        return _match(name, whole)
    return ExpectedGradient("other", own_states(name)) if penalty.future_kl else semi(whole)


def later_alone(name: str) -> ExpectedGradient:
    """What a token does to the divergence of the tokens after it, without its own."""
    return ExpectedGradient("none", f"the later tokens' {formula({name: 1.0})} alone")


def own_states(name: str) -> str:
    """Each token's divergence, summed over the states that the policy visits: for all but KL(pi‖pi_ref) not the sequences'."""
    return f"{formula({name: 1.0})} summed over the policy's own states"


def semi(weight: dict[str, float]) -> ExpectedGradient:
    """Of each token's divergence, the states held fixed."""
    return ExpectedGradient(
        "semi", f"the semi-gradient of each token's {formula(weight)} (the states that follow are left out)"
    )


def _match(name: str, weight: dict[str, float] | None) -> ExpectedGradient:
    if weight is None:
        return ExpectedGradient("none", NO_DIVERGENCE)
    if not weight:
        return ExpectedGradient("inert", "nothing: its expected gradient is zero")
    return ExpectedGradient("exact" if weight == {name: 1.0} else "other", formula(weight))


def formula(weight: dict[str, float]) -> str:
    """A combination of divergences, as it is shown to people."""
    shown = ""
    for name, factor in weight.items():
        sign = (" + " if factor > 0 else " - ") if shown else ("" if factor > 0 else "-")
        shown += sign + ("" if abs(factor) == 1.0 else f"{abs(factor):g} ") + REGISTRY[name].formula
    return shown
