"""Known gradients of KLs over the k most likely tokens, from their derivatives by hand.

The gradient of a state's KL is `sum_v pi(v) slope(v) grad log pi(v)`; the score weights of sequences follow from the slopes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.penalties.expected_gradient import TAILS, later_alone, with_states_fixed
from rlkl.settings import PenaltySettings


class Rows(NamedTuple):
    """The KL over the top k of each row, and its slope at each token."""

    value: Float[np.ndarray, " R"]
    slope: Float[np.ndarray, "R V"]


def rows(penalty: PenaltySettings, pi: Float[np.ndarray, "R V"], ref: Float[np.ndarray, "R V"]) -> Rows:
    """Values and slopes of the KL with the tail renormalised or in a bucket. pi, ref: probabilities of the next token."""
    places = np.argsort(-(pi if penalty.top_k_of == "policy" else ref), axis=1, kind="stable")[:, : penalty.top_k]
    inside = np.zeros(pi.shape, bool)
    np.put_along_axis(inside, places, True, axis=1)
    mass, ref_mass = (np.sum(each, axis=1, where=inside, keepdims=True) for each in (pi, ref))
    renormalised = penalty.top_k_tail == "renormalised"
    if renormalised:
        p, q = (np.where(inside, each / total, 0.0) for each, total in ((pi, mass), (ref, ref_mass)))
        merged = (p, q)
    else:
        p, q = pi, ref
        merged = tuple(np.where(inside, each, np.sum(each, axis=1, where=~inside, keepdims=True)) for each in (pi, ref))
    ratio = np.divide(*merged, out=np.ones_like(pi), where=(merged[0] > 0.0) & (merged[1] > 0.0))
    if penalty.divergence == "kl_ref_pi":
        value, slope = -np.sum(q * np.log(ratio), axis=1), -1.0 / ratio
    else:
        value, slope = np.sum(p * np.log(ratio), axis=1), np.log(ratio)
    if renormalised:  # by the rows' own logits, and none of the other tokens'
        slope = np.where(inside, (slope - np.sum(p * slope, axis=1, keepdims=True)) / mass, 0.0)
    return Rows(value, slope)


def names(penalty: PenaltySettings, formula: str, horizon: int) -> tuple[str, str]:
    """The names of the gradient with the visited states held fixed, and of the later tokens' alone."""
    says = TAILS[str(penalty.top_k_tail)].format(formula)
    return (says if horizon == 1 else with_states_fixed(says).says), later_alone(says).says
