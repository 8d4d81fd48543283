"""The divergence whose gradient the expected gradient of a penalty is, for each estimator and placement.

x ~ pi, u = log pi(x)/pi_ref(x). The expected gradient of an estimator g(u) is
- in the reward: E[g(u) grad log pi];
- in the loss, differentiated with the sample fixed: E[g'(u) grad log pi];
- in the loss, multiplied by pi/stop_gradient(pi): E[(g + g')(u) grad log pi].
It is the gradient of D_f if the weight of grad log pi equals f'(pi/pi_ref) up to a constant. For sequences this holds with the
log-ratio of the whole sequence. With the log-ratios of single tokens, the effect of a token on later states is missing, unless
reward-to-go credit or future_kl adds it. `rlkl audit` measures all of this.
"""

from typing import Literal, NamedTuple

from rlkl import settings
from rlkl.divergences import REGISTRY

Kind = Literal["exact", "other", "semi", "none", "inert"]


# (estimator, placement or gradient) -> coefficients of the divergences whose slopes add up to the weight; None: there are none.
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


# Of penalty.top_k_tail: what is summed over the top k at each state. With the tail dropped it is no divergence.
TAILS = {
    "dropped": "{} without the terms outside the top k",
    "renormalised": "{} of both restricted to the top k",
    "bucket": "{} with all tokens outside the top k merged",
}

NO_DIVERGENCE = "the gradient of no divergence"


class ExpectedGradient(NamedTuple):
    """What an expected gradient descends: its kind, and its description in words.

    kind: exact (the named divergence), other (another divergence), semi (a semi-gradient: part of a gradient), none (no
    divergence's gradient), inert (zero).
    """

    kind: Kind
    says: str


def expected_gradient(penalty: settings.PenaltySettings, horizon: int, scaled: bool = False) -> ExpectedGradient:
    """What a resolved penalty descends on sequences of `horizon` tokens. scaled: advantages are multiplied by a factor."""
    unscaled = _expected_gradient(penalty, horizon)
    if scaled and penalty.placement == "loss" and unscaled.kind != "inert":
        return ExpectedGradient(
            "other" if unscaled.kind == "exact" else unscaled.kind, f"{unscaled.says}, at beta times the advantages' scale"
        )
    return unscaled


def _expected_gradient(penalty: settings.PenaltySettings, horizon: int) -> ExpectedGradient:
    name, estimator, whole = penalty.divergence, penalty.estimator, horizon == 1 or penalty.level == "sequence"
    if name == "none" or estimator in ("exact", "score"):  # ignores the effects of clamp and truncation, which are logged
        return ExpectedGradient("exact", formula({name: 1.0}) if name != "none" else "nothing")
    if penalty.sampler == "reference":
        return _match(name, {"kl_ref_pi": 1.0})
    if estimator == "full":
        return _full(penalty, horizon)
    if estimator == "top_k":
        return _top_k(penalty, horizon)
    how = "reward" if penalty.placement == "reward" else "naive" if penalty.gradient == "straight_through" else penalty.gradient
    weight = WEIGHTS[penalty.gradient_estimator if penalty.gradient == "straight_through" else estimator, how]
    if whole or (weight == {} and not penalty.future_kl):
        return _match(name, weight)
    if penalty.placement == "reward" and penalty.credit == "reward_to_go":
        return _match(name, weight if estimator == "k1" else None)
    if penalty.future_kl:  # future_kl adds the later tokens' KL(pi‖pi_ref)
        if weight == {}:
            return later_alone(formula({"kl_pi_ref": 1.0}))
        return _match(name, weight if weight == {"kl_pi_ref": 1.0} else None)
    return _match(name, None) if weight is None else semi(weight)


def _full(penalty: settings.PenaltySettings, horizon: int) -> ExpectedGradient:
    name, whole = penalty.divergence, {penalty.divergence: 1.0}
    if penalty.placement == "reward":
        return _match(name, {}) if horizon == 1 or penalty.credit == "immediate" else later_alone(formula(whole))
    if horizon == 1 or (penalty.future_kl and name == "kl_pi_ref"):
        return _match(name, whole)
    return ExpectedGradient("other", own_states(formula(whole))) if penalty.future_kl else semi(whole)


def _top_k(penalty: settings.PenaltySettings, horizon: int) -> ExpectedGradient:
    """Over k tokens; with k at least the size of the vocabulary it is that of `full`, which settings do not tell."""
    name, tail = penalty.divergence, str(penalty.top_k_tail)
    says = TAILS[tail].format(formula({name: 1.0}))
    if penalty.top_k == 1 and tail == "renormalised":  # both are 1 on a single token
        return _match(name, {})
    if penalty.placement == "reward":
        return _match(name, {}) if horizon == 1 or penalty.credit == "immediate" else later_alone(says)
    if tail == "dropped":
        return _match(name, None)
    if horizon == 1:
        return ExpectedGradient("other", says)
    return ExpectedGradient("other", own_states(says)) if penalty.future_kl else with_states_fixed(says)


def later_alone(says: str) -> ExpectedGradient:
    """The effect of a token on the divergence of later tokens, without its own term. says: name of that divergence."""
    return ExpectedGradient("none", f"the later tokens' {says} alone")


def own_states(says: str) -> str:
    """Name of the sum of token divergences over visited states. Only for KL(pi‖pi_ref) is it the divergence of sequences."""
    return f"{says} summed over the policy's own states"


def semi(weight: dict[str, float]) -> ExpectedGradient:
    """The gradient of each token's divergence with the visited states held fixed."""
    return with_states_fixed(formula(weight))


def with_states_fixed(says: str) -> ExpectedGradient:
    """That gradient, of the divergence of this name."""
    return ExpectedGradient("semi", f"the semi-gradient of each token's {says} (the states that follow are left out)")


def _match(name: str, weight: dict[str, float] | None) -> ExpectedGradient:
    if weight is None:
        return ExpectedGradient("none", NO_DIVERGENCE)
    if not weight:
        return ExpectedGradient("inert", "nothing: its expected gradient is zero")
    return ExpectedGradient("exact" if weight == {name: 1.0} else "other", formula(weight))


def formula(weight: dict[str, float]) -> str:
    """The formula of a linear combination of divergences."""
    text = ""
    for name, factor in weight.items():
        sign = (" + " if factor > 0 else " - ") if text else ("" if factor > 0 else "-")
        text += sign + ("" if abs(factor) == 1.0 else f"{abs(factor):g} ") + REGISTRY[name].formula
    return text


OTHER_REFERENCES = {"uniform": "uniform", "start": "pi_0"}  # in formulas, by `reference.penalising`


def against(penalising: str, gradient: ExpectedGradient) -> ExpectedGradient:
    """What a penalty descends whose reference is not the graded one, from what it descends against that one.

    penalising: `reference.penalising`. Against the policy itself every log-ratio is 0, and so is every estimator and its
    expected gradient (on the policy's samples, in the first update on a batch).
    """
    if penalising == "graded" or gradient.kind == "inert":
        return gradient
    if penalising == "policy":
        return _match("", {})
    kind: Kind = "other" if gradient.kind == "exact" else gradient.kind
    return ExpectedGradient(kind, gradient.says.replace("pi_ref", OTHER_REFERENCES[penalising]))
