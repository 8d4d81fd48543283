"""Every way in which a penalty may enter a sampled gradient, against the exact gradient: the training's own losses, on a batch
that holds every sequence with its probability (or on a large sample, where there are too many)."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import policies, settings
from rlkl.diagnostics.audit import known_gradients
from rlkl.diagnostics.audit.known_gradients import SAME
from rlkl.divergences import REGISTRY
from rlkl.penalties import options, terms
from rlkl.penalties.expected_gradient import NO_DIVERGENCE, expected_gradient
from rlkl.policies import AnyPolicy, Policy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all, is_enumerable
from rlkl.training import sampled_losses, spec
from rlkl.training.spec import Run

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")
SAMPLES = 4096  # sequences, where there are too many to list
TRUNCATION = 1.0  # of importance weights, in the rows that show what it does


class AuditRow(NamedTuple):
    """One way, for one divergence. rollout: what differs the sampler from the policy ("" where nothing does), and correction
    its importance weights. value: the estimate's mean, and exact_value; relative_error and cosine of its expected
    gradient against the exact one's (NaN where that is zero); variance: of a batch's gradient, summed over parameters,
    without a baseline; stderr: of the expected gradient (its norm) where it was sampled, else 0. descends: what was
    measured; declared: what `penalties.expected_gradient` says."""

    divergence: str
    estimator: str
    placement: str
    level: str
    credit: str
    gradient: str
    future_kl: bool
    sampler: str
    rollout: str
    correction: str
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


class Way(NamedTuple):
    """A penalty, the sequences that it is read on, and, where their sampler was not the policy, what it reported of each token
    and what it is called."""

    penalty: settings.PenaltySettings
    batch: Batch
    reported: Float[Array, "N T"] | None = None
    rollout: str = ""


def audit(
    run: Run,
    policy: AnyPolicy,
    key: PRNGKeyArray,
    directions: tuple[str, ...] = DIRECTIONS,
    older: AnyPolicy | None = None,
) -> Iterator[AuditRow]:
    """A row for every combination and direction, and, given an `older` policy, for samples of it, and of one that was rounded
    to bfloat16, under every importance correction. Needs x64 enabled; `run` says the task, the reference and the batch size."""
    task, automaton = run.task, run.task.automaton
    listed = is_enumerable(automaton)
    own_key, their_key = jax.random.split(key)
    own, theirs = (_batch(automaton, p, k) for p, k in ((policy, own_key), (run.reference, their_key)))
    known = known_gradients.gradients_by_name(run, policy, own) if listed else {}
    size = run.settings.batch_size or 64
    for name in directions:
        target = known_gradients.exact_gradient(run, policy, REGISTRY[name]) if listed or isinstance(policy, Policy) else None
        combinations = options.combinations(name, automaton.horizon)
        ways = [Way(chosen, theirs if chosen.sampler == "reference" else own) for chosen in combinations]
        ways += [] if older is None else _off_policy(automaton, name, policy, older, own, own_key)
        for way in ways:
            chosen = way.penalty
            audited = dataclasses.replace(run, settings=_settings(run, chosen), task=_unrewarded(task))
            found = _measured(audited, policy, *way.batch[:4], way.reported)
            error, cosine = _against(found.gradient, None if target is None else target.gradient)
            stderr = 0.0 if listed else math.sqrt(max(0.0, float(found.variance)) / SAMPLES)
            declared = _declared(way, automaton.horizon)
            seen = known_gradients.name_of(np.asarray(found.gradient), known) if listed else "not compared: estimated"
            most = "" if chosen.truncation is None else f"at most {chosen.truncation:g}"
            correction = ", ".join(filter(None, (chosen.importance_correction.replace("none", ""), most)))
            yield AuditRow(
                name, str(chosen.estimator), str(chosen.placement), str(chosen.level), str(chosen.credit), chosen.gradient,
                chosen.future_kl, str(chosen.sampler), way.rollout, correction, float(found.value),
                math.nan if target is None else float(target.value),
                error, cosine, max(0.0, float(found.variance)) / size, stderr, seen, declared,
            )  # fmt: skip


def _off_policy(automaton, name: str, policy: AnyPolicy, older: AnyPolicy, own: Batch, key) -> Iterator[Way]:
    """The divergence's own weight of the score, on what a sampler that is not the policy draws."""
    chosen = options.resolve_penalty("scaled", settings.PenaltySettings(name), automaton.horizon)
    samplers = {"stale": older, "in bfloat16": policies.rounded(policy, "bfloat16")}
    for said, sampler in samplers.items():
        batch = _batch(automaton, sampler, key)
        reported = scoring.token_log_probability(sampler, batch)
        for correction in ("none", "sequence") if automaton.horizon == 1 else ("none", "token", "sequence"):
            yield Way(dataclasses.replace(chosen, importance_correction=correction), batch, reported, said)
        if sampler is older:
            cut = dataclasses.replace(chosen, importance_correction="sequence", truncation=TRUNCATION)
            yield Way(cut, batch, reported, said)
    if options.weighs(chosen):
        yield Way(dataclasses.replace(chosen, truncation=TRUNCATION), own)


def _declared(way: Way, horizon: int) -> str:
    found, chosen = expected_gradient(way.penalty, horizon), way.penalty
    corrected = way.reported is None or (chosen.importance_correction != "none" and "bfloat16" not in way.rollout)
    whole = horizon == 1 or chosen.importance_correction != "token"
    return found.says if corrected and whole and chosen.truncation is None else NO_DIVERGENCE


def _settings(run: Run, chosen: settings.PenaltySettings) -> settings.Settings:
    """The run's, with this penalty at coefficient 1 and the plainest algorithm: no baseline, no aggregation."""
    plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0])
    own = run.settings.penalty
    clamp = own.clamp if chosen.sampler == "policy" else None
    at_one = dataclasses.replace(chosen, beta=1.0, alpha=own.alpha, weights=own.weights, clamp=clamp)
    return dataclasses.replace(run.settings, penalty=at_one, algorithm=plain)


def _unrewarded(task):
    nothing = jnp.zeros_like(jnp.asarray(task.reward))
    return dataclasses.replace(task, reward=nothing, typicality=jnp.zeros(()), reward_model=None)


def _batch(automaton, policy: AnyPolicy, key) -> Batch:
    """Every sequence with the probability that it is drawn with, or a large sample."""
    if not is_enumerable(automaton):
        return sampling.walk(sampling.uniforms(key, automaton, policy, SAMPLES), automaton, policy)
    listed = enumerate_all(automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (listed.tokens, listed.states, listed.mask))
    return Batch(tokens, states, mask, jnp.exp(scoring.drawn_log_probability(policy, listed)), listed.size)


@jax.jit
def _measured(run: Run, policy: AnyPolicy, tokens, states, mask, weight, reported=None) -> Measured:
    """The training's own loss, sequence by sequence, weighted by their probabilities."""
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)

    def of_one(one):
        tokens, states, mask, *told = (x[None] for x in one)
        single = Batch(tokens, states, mask, jnp.ones((1,), weight.dtype), 2)
        term = lambda p: _term(run, eqx.combine(p, rest), single, *told)  # noqa: E731
        value, gradient = jax.value_and_grad(term, has_aux=True)(trainable)
        return value[1], ravel_pytree(gradient)[0]

    values, gradients = jax.lax.map(
        of_one, (tokens, states, mask) if reported is None else (tokens, states, mask, reported), batch_size=256
    )
    mean = weight @ gradients
    squares = jnp.sum(weight * jnp.sum(jnp.square(gradients), axis=1))
    return Measured(weight @ values, mean, squares - jnp.sum(jnp.square(mean)))


def _term(run: Run, policy: AnyPolicy, batch: Batch, reported=None) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What a step descends of the penalty alone, and the estimate's value."""
    chosen, objective = run.settings.penalty, spec.objective(run)
    at = scoring.positions(run.task.automaton, policy, run.reference, batch)
    if chosen.sampler == "reference":
        value = terms.from_reference(chosen, at, batch)
        return value, value
    made = terms.make_terms(chosen, at.log_pi.dtype)
    learned = sampled_losses.experience(run.settings, objective, at, batch, jnp.zeros((), at.log_pi.dtype), reported)
    if chosen.estimator == "score":  # its value is f(t)/t, of which it is no part itself
        u = jnp.sum(terms.log_ratio(at, batch))
        div = REGISTRY[chosen.divergence]
        value = jnp.exp(-u) * div.both(u, options.parameters(chosen, u.dtype))[0]
    else:
        value = jnp.sum(made.in_reward(at, batch)) + jnp.sum(made.in_loss(at, batch))
    return sampled_losses.surrogate(run.settings, objective.beta, at, batch, learned), value


def _against(gradient, target) -> tuple[float, float]:
    if target is None:
        return math.nan, math.nan
    scale, norm = float(jnp.linalg.norm(target)), float(jnp.linalg.norm(gradient))
    if scale == 0.0:
        return math.nan, math.nan
    cosine = float(gradient @ target) / (scale * norm) if norm > SAME * scale else math.nan
    return float(jnp.linalg.norm(gradient - target)) / scale, cosine
