"""Every way in which a penalty may enter a sampled gradient, against the exact gradient: the training's own losses, on a batch
that holds every sequence with its probability (or on a large sample, where there are too many)."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import descent, divergences, exact, losses, penalty, rollout, settings
from rlkl.divergences import REGISTRY, Divergence
from rlkl.job import Run
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollout import Batch

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
SAME = 1e-8  # of the larger norm: gradients that agree to this are one
SAMPLES = 4096  # sequences, where there are too many to list


class Row(NamedTuple):
    """One way, for one divergence. value: the estimate's mean, and exact_value; relative_error and cosine of its expected
    gradient against the exact one's (NaN where that is zero); variance: of a batch's gradient, summed over parameters,
    without a baseline; stderr: of the expected gradient (its norm) where it was sampled, else 0. descends: what was
    measured; declared: what `rlkl.descent` says."""

    divergence: str
    estimator: str
    placement: str
    level: str
    credit: str
    gradient: str
    future_kl: bool
    sampler: str
    value: float
    exact_value: float
    relative_error: float
    cosine: float
    variance: float
    stderr: float
    descends: str
    declared: str


class Measured(NamedTuple):
    """A term's mean, its expected gradient by the policy's parameters, and the gradient's variance of one sequence."""

    value: Float[Array, ""]
    gradient: Float[Array, " P"]
    variance: Float[Array, ""]


def audit(run: Run, policy: AnyPolicy, key: PRNGKeyArray, directions: tuple[str, ...] = DIRECTIONS) -> Iterator[Row]:
    """A row for every combination and direction. Needs x64 enabled; `run` says the task, the reference and the batch size."""
    task, automaton = run.task, run.task.automaton
    listed = rollout.is_enumerable(automaton)
    own_key, their_key = jax.random.split(key)
    own, theirs = (_batch(automaton, p, k) for p, k in ((policy, own_key), (run.reference, their_key)))
    known = dict(_known(run, policy, own)) if listed else {}
    size = run.settings.batch_size or 64
    for name in directions:
        target = _exact(run, policy, REGISTRY[name]) if listed or isinstance(policy, Policy) else None
        for chosen in penalty.combinations(name, automaton.horizon):
            batch = theirs if chosen.sampler == "reference" else own
            found = _measure(dataclasses.replace(run, settings=_settings(run, chosen), task=_unrewarded(task)), policy, batch)
            error, cosine = _against(found.gradient, None if target is None else target.gradient)
            stderr = 0.0 if listed else math.sqrt(max(0.0, float(found.variance)) / SAMPLES)
            declared = descent.of(chosen, automaton.horizon).says
            seen = _recognise(np.asarray(found.gradient), known) if listed else "not compared: estimated"
            yield Row(
                name, str(chosen.estimator), str(chosen.placement), str(chosen.level), str(chosen.credit), chosen.gradient,
                chosen.future_kl, chosen.sampler, float(found.value), math.nan if target is None else float(target.value),
                error, cosine, max(0.0, float(found.variance)) / size, stderr, seen, declared,
            )  # fmt: skip


def _settings(run: Run, chosen: settings.Penalty) -> settings.Settings:
    """The run's, with this penalty at coefficient 1 and the plainest algorithm: no baseline, no aggregation."""
    plain = settings.Algorithm("reinforce", loss_aggregation=settings.AGGREGATIONS[0])
    at_one = dataclasses.replace(chosen, beta=1.0, alpha=run.settings.penalty.alpha, weights=run.settings.penalty.weights)
    return dataclasses.replace(run.settings, penalty=at_one, algorithm=plain)


def _unrewarded(task):
    return dataclasses.replace(task, reward=jnp.zeros_like(jnp.asarray(task.reward)), typicality=jnp.zeros(()))


def _batch(automaton, policy: AnyPolicy, key) -> Batch:
    if not rollout.is_enumerable(automaton):
        return rollout.walk(rollout.uniforms(key, automaton, policy, SAMPLES), automaton, policy)
    listed = rollout.enumerate_all(automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (listed.tokens, listed.states, listed.mask))
    return Batch(tokens, states, mask, jnp.exp(rollout.log_probability(policy, listed)), listed.size)


def _measure(run: Run, policy: AnyPolicy, batch: Batch) -> Measured:
    """The training's own loss, sequence by sequence, weighted by their probabilities."""
    return _measured(run, policy, *batch[:4])


@jax.jit
def _measured(run: Run, policy: AnyPolicy, tokens, states, mask, weight) -> Measured:
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)

    def of_one(one):
        single = Batch(*(x[None] for x in one), jnp.ones((1,), weight.dtype), 2)
        value, gradient = jax.value_and_grad(lambda p: _term(run, eqx.combine(p, rest), single), has_aux=True)(trainable)
        return value[1], ravel_pytree(gradient)[0]

    values, gradients = jax.lax.map(of_one, (tokens, states, mask), batch_size=256)
    mean = weight @ gradients
    squares = jnp.sum(weight * jnp.sum(jnp.square(gradients), axis=1))
    return Measured(weight @ values, mean, squares - jnp.sum(jnp.square(mean)))


def _term(run: Run, policy: AnyPolicy, batch: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What a step descends of the penalty alone, and the estimate's value."""
    chosen = run.settings.penalty
    at = rollout.positions(run.task.automaton, policy, run.reference, batch)
    if chosen.sampler == "reference":
        value = penalty.from_reference(chosen, at, batch)
        return value, value
    terms = penalty.make(chosen, at.log_pi.dtype)
    learned = losses.experience(run, at, batch, jnp.zeros((), at.log_pi.dtype))
    if chosen.estimator == "score":  # its value is f(t)/t, of which it is no part itself
        u = jnp.sum(penalty.log_ratio(at, batch))
        div = REGISTRY[chosen.divergence]
        value = jnp.exp(-u) * div.both(u, penalty.parameters(chosen, u.dtype))[0]
    else:
        value = jnp.sum(terms.in_reward(at, batch)) + jnp.sum(terms.in_loss(at, batch))
    return losses.surrogate(run, at, batch, learned), value


def _exact(run: Run, policy: AnyPolicy, div: Divergence) -> Measured:
    value, gradient = _gradient(policy, lambda p: _divergence(run, p, div))
    return Measured(value, gradient, jnp.zeros(()))


def _gradient(policy: AnyPolicy, of) -> tuple[Any, Any]:
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: of(eqx.combine(p, rest))))(trainable)
    return value, ravel_pytree(gradient)[0]


def _divergence(run: Run, policy: AnyPolicy, div: Divergence) -> Float[Array, ""]:
    """D between the distributions of whole sequences."""
    params = penalty.parameters(run.settings.penalty, jnp.float64)
    return exact.between(run.task.automaton, div, params, policy, run.reference)


def _known(run: Run, policy: AnyPolicy, own: Batch) -> Iterator[tuple[str, np.ndarray]]:
    """The gradients that one may turn out to be, by name: every divergence's, twice the total variation's, the difference of
    the KLs, and on several tokens each one's semi-gradient and its sum over the policy's own states."""
    whole = {name: np.asarray(_exact(run, policy, div).gradient) for name, div in REGISTRY.items()}
    for name, gradient in whole.items():
        yield descent.formula({name: 1.0}), gradient
    yield descent.formula({"total_variation": 2.0}), 2.0 * whole["total_variation"]
    difference = {"kl_pi_ref": 1.0, "kl_ref_pi": -1.0}
    yield descent.formula(difference), whole["kl_pi_ref"] - whole["kl_ref_pi"]
    if run.task.automaton.horizon == 1:
        return
    params, weight = penalty.parameters(run.settings.penalty, jnp.float64), jax.lax.stop_gradient(own.weight)
    semi = {
        name: np.asarray(_gradient(policy, lambda p, div=div: _per_token(run, p, div, params, weight, own))[1])
        for name, div in REGISTRY.items()
    }
    for name, gradient in semi.items():
        yield descent.semi({name: 1.0}).says, gradient
    yield descent.semi({"total_variation": 2.0}).says, 2.0 * semi["total_variation"]
    yield descent.semi(difference).says, semi["kl_pi_ref"] - semi["kl_ref_pi"]
    if isinstance(policy, Policy) and isinstance(run.reference, Policy):
        for name, div in REGISTRY.items():
            summed = np.asarray(_gradient(policy, lambda p, div=div: _own_states(run, p, div, params))[1])
            yield descent.own_states(name), summed
            yield descent.later_alone(name).says, summed - semi[name]


def _per_token(run: Run, policy: AnyPolicy, div: Divergence, params, weight, own: Batch) -> Float[Array, ""]:
    at = rollout.positions(run.task.automaton, policy, run.reference, own)
    rows = divergences.exact(div, params, at.log_pi, at.log_ref)
    return jnp.sum(weight[:, None] * jnp.where(own.mask, rows[at.row], 0.0))


def _own_states(run: Run, policy: AnyPolicy, div: Divergence, params) -> Float[Array, ""]:
    log_pi, log_ref = table_of(policy), table_of(run.reference)
    return exact.visited(exact.occupancy(run.task.automaton, log_pi), divergences.exact(div, params, log_pi, log_ref))


def _against(gradient, target) -> tuple[float, float]:
    if target is None:
        return math.nan, math.nan
    scale, norm = float(jnp.linalg.norm(target)), float(jnp.linalg.norm(gradient))
    if scale == 0.0:
        return math.nan, math.nan
    cosine = float(gradient @ target) / (scale * norm) if norm > SAME * scale else math.nan
    return float(jnp.linalg.norm(gradient - target)) / scale, cosine


def _recognise(gradient: np.ndarray, known: dict[str, np.ndarray]) -> str:
    """The first name whose gradient this is."""
    scale = max(float(np.linalg.norm(each)) for each in known.values())
    if np.linalg.norm(gradient) <= SAME * scale:
        return "nothing: its expected gradient is zero"
    for name, each in known.items():
        if np.linalg.norm(gradient - each) <= SAME * max(np.linalg.norm(each), np.linalg.norm(gradient)):
            return name
    return "the gradient of no divergence"
