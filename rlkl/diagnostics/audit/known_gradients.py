"""Match a measured gradient to the exact gradients of known divergences."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from rlkl import divergences, exact
from rlkl.divergences import REGISTRY, Divergence
from rlkl.penalties import expected_gradient, options
from rlkl.policies import AnyPolicy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch
from rlkl.training.spec import Run

SAME = 1e-8  # relative difference below which two gradients count as equal


class Exact(NamedTuple):
    """The exact divergence of a policy from its reference, and its gradient in the policy's parameters."""

    value: Float[Array, ""]
    gradient: Float[Array, " P"]


def exact_gradient(run: Run, policy: AnyPolicy, div: Divergence) -> Exact:
    """The exact divergence between the distributions of whole sequences, and its gradient."""
    value, gradient = _gradient(policy, lambda p: _divergence(run, p, div))
    return Exact(value, gradient)


def _gradient(policy: AnyPolicy, function) -> tuple[Any, Any]:
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: function(eqx.combine(p, rest))))(trainable)
    return value, ravel_pytree(gradient)[0]


def _divergence(run: Run, policy: AnyPolicy, div: Divergence) -> Float[Array, ""]:
    """The exact divergence between the distributions of whole sequences."""
    params = options.parameters(run.settings.penalty, jnp.float64)
    return exact.between(run.task.automaton, div, params, policy, run.reference)


def gradients_by_name(run: Run, policy: AnyPolicy, batch: Batch) -> dict[str, np.ndarray]:
    """The known gradients that a measured one is matched to, by name.

    These are the gradients of every divergence, of twice the total variation and of the difference of the two KLs. On sequences
    there are also the semi-gradient of each, and for each divergence the gradient of its sum over visited states.
    batch: every sequence, weighted by its probability under the policy.
    """
    return dict(_known_gradients(run, policy, batch))


def _known_gradients(run: Run, policy: AnyPolicy, batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
    whole = {name: np.asarray(exact_gradient(run, policy, div).gradient) for name, div in REGISTRY.items()}
    for name, gradient in whole.items():
        yield expected_gradient.formula({name: 1.0}), gradient
    yield expected_gradient.formula({"total_variation": 2.0}), 2.0 * whole["total_variation"]
    difference = {"kl_pi_ref": 1.0, "kl_ref_pi": -1.0}
    yield expected_gradient.formula(difference), whole["kl_pi_ref"] - whole["kl_ref_pi"]
    if run.task.automaton.horizon == 1:
        return
    params, weight = options.parameters(run.settings.penalty, jnp.float64), jax.lax.stop_gradient(batch.weight)
    semi = {
        name: np.asarray(_gradient(policy, lambda p, div=div: _per_token(run, p, div, params, weight, batch))[1])
        for name, div in REGISTRY.items()
    }
    for name, gradient in semi.items():
        yield expected_gradient.semi({name: 1.0}).says, gradient
    yield expected_gradient.semi({"total_variation": 2.0}).says, 2.0 * semi["total_variation"]
    yield expected_gradient.semi(difference).says, semi["kl_pi_ref"] - semi["kl_ref_pi"]
    if exact.evaluation_method(run.task.automaton, (policy, run.reference)) == "dynamic program":
        for name, div in REGISTRY.items():
            summed = np.asarray(_gradient(policy, lambda p, div=div: _own_states(run, p, div, params))[1])
            yield expected_gradient.own_states(name), summed
            yield expected_gradient.later_alone(name).says, summed - semi[name]


def _per_token(run: Run, policy: AnyPolicy, div: Divergence, params, weight, batch: Batch) -> Float[Array, ""]:
    """The token divergences summed along the sequences, whose weights are fixed."""
    positions = scoring.positions(run.task.automaton, policy, run.reference, batch)
    rows = divergences.exact(div, params, positions.log_pi, positions.log_ref)
    return jnp.sum(weight[:, None] * positions.at_positions(rows, batch))


def _own_states(run: Run, policy: AnyPolicy, div: Divergence, params) -> Float[Array, ""]:
    """The token divergences summed over the states that the policy visits."""
    log_pi, log_ref = table_of(policy), table_of(run.reference)
    return exact.visited(exact.occupancy(run.task.automaton, log_pi), divergences.exact(div, params, log_pi, log_ref))


def name_of(gradient: np.ndarray, candidates: dict[str, np.ndarray]) -> str:
    """The first name whose gradient equals the measured one."""
    scale = max(float(np.linalg.norm(each)) for each in candidates.values())
    if np.linalg.norm(gradient) <= SAME * scale:
        return "nothing: its expected gradient is zero"
    for name, each in candidates.items():
        if np.linalg.norm(gradient - each) <= SAME * max(np.linalg.norm(each), np.linalg.norm(gradient)):
            return name
    return expected_gradient.NO_DIVERGENCE
