"""Match a measured gradient to the exact gradients of known divergences."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from rlkl import divergences, exact
from rlkl.diagnostics.audit import score_weights
from rlkl.diagnostics.audit.score_weights import Sequences
from rlkl.divergences import REGISTRY, Divergence, f_divergences
from rlkl.penalties import expected_gradient, options
from rlkl.policies import AnyPolicy
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, joint_log_probability
from rlkl.tasks.automaton import Automaton
from rlkl.training.spec import Run

SAME = 1e-8  # relative difference below which two gradients count as equal


class Exact(NamedTuple):
    """The exact divergence of a policy from its reference, and its gradient in the policy's parameters."""

    value: Float[Array, ""]
    gradient: Float[Array, " P"]


def exact_gradient(run: Run, policy: AnyPolicy, div: Divergence) -> Exact:
    """The exact divergence between the distributions of whole sequences, and its gradient."""
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: _divergence(run, eqx.combine(p, rest), div)))(trainable)
    return Exact(value, ravel_pytree(gradient)[0])


def _divergence(run: Run, policy: AnyPolicy, div: Divergence) -> Float[Array, ""]:
    """The exact divergence between the distributions of whole sequences."""
    params = options.parameters(run.settings.penalty, jnp.float64)
    return exact.between(run.task.automaton, div, params, policy, run.reference)


def gradients_by_name(run: Run, policy: AnyPolicy, batch: Batch) -> dict[str, np.ndarray]:
    """The known gradients that a measured one is matched to, by name.

    These are the gradients of every f-divergence, of twice the total variation and of the difference of the two KLs. On
    sequences there are also the semi-gradient of each, and for each divergence the gradient of its sum over visited states.
    batch: every sequence, weighted by its probability under the policy.
    """
    params = options.parameters(run.settings.penalty, jnp.float64)
    sequences = sequences_of(run, policy, batch)
    weights = {each.says: each.weights for each in score_weights.known(sequences, params)}
    is_table = exact.evaluation_method(run.task.automaton, (policy, run.reference)) == "dynamic program"
    if run.task.automaton.horizon > 1 and is_table:
        positions = scoring.positions(run.task.automaton, policy, run.reference, batch)
        for name in f_divergences():
            div = REGISTRY[name]
            rows = divergences.exact(div, params, positions.log_pi, positions.log_ref)
            later = score_weights.later_tokens(sequences, np.asarray(positions.at_positions(rows, batch)))
            weights[expected_gradient.own_states(div.formula)] = weights[expected_gradient.semi({name: 1.0}).says] + later
            weights[expected_gradient.later_alone(div.formula).says] = later
    stacked = np.stack(list(weights.values())) * prompt_weights(run.task.automaton, batch)[:, None]
    gradients = weighted_scores(policy, batch, jnp.asarray(stacked))
    return dict(zip(weights, np.asarray(gradients), strict=True))


def gradient_on(run: Run, policy: AnyPolicy, batch: Batch, name: str, part: Bool[Array, " N"]) -> Float[Array, " P"]:
    """The gradient of a divergence's terms of the sequences that are in `part`, which is held fixed.

    batch: every sequence, weighted by its probability under the policy. Of all sequences it is the divergence's gradient.
    """
    params = options.parameters(run.settings.penalty, jnp.float64)
    weights = score_weights.whole(sequences_of(run, policy, batch), params, (name,))[name]
    weights = weights * prompt_weights(run.task.automaton, batch)[:, None]
    return weighted_scores(policy, batch, jnp.where(part[:, None], weights, 0.0)[None])[0]


def prompt_weights(automaton: Automaton, batch: Batch) -> Float[np.ndarray, " N"]:
    """The probability of each sequence's prompt; 1 on a task without prompts."""
    return np.exp(np.asarray(joint_log_probability(automaton, batch, jnp.zeros(len(batch.tokens)))))


@jax.jit
def _token_log_probabilities(policy: AnyPolicy, reference: AnyPolicy, batch: Batch) -> tuple[Float[Array, "N T"], ...]:
    return scoring.token_log_probability(policy, batch), scoring.token_log_probability(reference, batch)


def sequences_of(run: Run, policy: AnyPolicy, batch: Batch) -> Sequences:
    """The sequences of a batch that are drawn from the policy."""
    log_pi, log_ref = map(np.asarray, _token_log_probabilities(policy, run.reference, batch))
    return Sequences(log_pi, log_ref, log_pi, np.asarray(batch.mask))


@jax.jit
def weighted_scores(policy: AnyPolicy, batch: Batch, weights: Float[Array, "K N T"]) -> Float[Array, "K P"]:
    """The sum of the tokens' scores with each of the weights, by the policy's parameters."""
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    _, pull_back = jax.vjp(lambda p: scoring.token_log_probability(eqx.combine(p, rest), batch), trainable)
    return jax.lax.map(lambda each: ravel_pytree(pull_back(each)[0])[0], weights)


def name_of(gradient: np.ndarray, candidates: dict[str, np.ndarray]) -> str:
    """The first name whose gradient equals the measured one."""
    scale = max(float(np.linalg.norm(each)) for each in candidates.values())
    if np.linalg.norm(gradient) <= SAME * scale:
        return "nothing: its expected gradient is zero"
    for name, each in candidates.items():
        if np.linalg.norm(gradient - each) <= SAME * max(np.linalg.norm(each), np.linalg.norm(gradient)):
            return name
    return expected_gradient.NO_DIVERGENCE
