"""The cases of KLs over the k most likely tokens, and their known gradients from derivatives by hand.

The gradient of a state's KL is `sum_v pi(v) slope(v) grad log pi(v)`; the score weights of sequences follow from the slopes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.audit import known_gradients, score_weights
from rlkl.diagnostics.audit.cases import AuditCase
from rlkl.divergences import REGISTRY
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import TAILS, expected_gradient, later_alone, with_states_fixed
from rlkl.policies import AnyPolicy
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch
from rlkl.settings import PenaltySettings
from rlkl.training.spec import Run

TOP_K = 2  # number of tokens


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
        merged_p, merged_q = p, q
    else:
        p, q = pi, ref
        merged_p, merged_q = (np.where(inside, each, np.sum(each, axis=1, where=~inside, keepdims=True)) for each in (p, q))
    ratio = np.divide(merged_p, merged_q, out=np.ones_like(pi), where=(merged_p > 0.0) & (merged_q > 0.0))
    if penalty.divergence == "kl_ref_pi":
        value, slope = -np.sum(q * np.log(ratio), axis=1), -1.0 / ratio
    else:
        value, slope = np.sum(p * np.log(ratio), axis=1), np.log(ratio)
    if renormalised:  # by the rows' own logits, and none of the other tokens'
        slope = np.where(inside, (slope - np.sum(p * slope, axis=1, keepdims=True)) / mass, 0.0)
    return Rows(value, slope)


def known(run: Run, policy: AnyPolicy, batch: Batch, penalty: PenaltySettings) -> dict[str, np.ndarray]:
    """The gradient of a KL over the top k with the visited states held fixed, and the effect of a token on later ones alone.

    There is none where the tail is dropped. batch: every sequence, weighted by its probability under the policy.
    """
    if penalty.top_k_tail == "dropped":
        return {}
    automaton, sequences = run.task.automaton, known_gradients.sequences_of(run, policy, batch)
    positions = scoring.positions(automaton, policy, run.reference, batch)
    value, slope = rows(penalty, *(np.exp(np.asarray(each)) for each in positions[:2]))
    at_tokens = np.asarray(positions.at_tokens(jnp.asarray(slope), batch))
    of_states = np.exp(sequences.log_pi.sum(axis=1))[:, None] * at_tokens
    later = score_weights.later_tokens(sequences, np.asarray(positions.at_positions(jnp.asarray(value), batch)))
    stacked = np.stack([of_states, later]) * known_gradients.prompt_weights(automaton, batch)[:, None]
    gradients = np.asarray(known_gradients.weighted_scores(policy, batch, jnp.asarray(stacked)))
    says = TAILS[str(penalty.top_k_tail)].format(REGISTRY[penalty.divergence].formula)
    names = (says if automaton.horizon == 1 else with_states_fixed(says).says, later_alone(says).says)
    return dict(zip(names, gradients, strict=True))


def cases(run: Run, name: str, policy: AnyPolicy, policy_batch: Batch) -> Iterator[AuditCase]:
    """The cases of the `TOP_K` most likely tokens: each tail and source in the loss, and one in the reward.

    There are none where no state has tokens enough for the sum over k of them to differ from the sum over all.
    """
    automaton = run.task.automaton
    if automaton.legal.sum(axis=1).max() < TOP_K + 2:  # a bucket of one token is that token
        return
    for penalty in options.top_k_combinations(name, automaton.horizon, TOP_K):
        if penalty.placement == "loss" or (penalty.top_k_of, penalty.top_k_tail) == ("reference", "bucket"):
            by_name = known(run, policy, policy_batch, penalty) if automaton.is_enumerable else {}
            yield AuditCase(penalty, policy_batch, expected_gradient(penalty, automaton.horizon).says, policy, known=by_name)
