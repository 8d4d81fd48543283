"""The gradient audit: the expected gradient of every penalty configuration against the exact gradient of its divergence.

It uses the losses of training, on a batch of every sequence weighted by its probability or, where there are too many, on a
large sample.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import exact, settings
from rlkl.diagnostics.audit import cases, known_gradients, top_k_cases
from rlkl.diagnostics.audit.cases import SAMPLES
from rlkl.diagnostics.audit.gradients import loss_and_penalty
from rlkl.diagnostics.audit.known_gradients import SAME
from rlkl.divergences import REGISTRY
from rlkl.penalties import options, terms
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.training import describe
from rlkl.training.spec import Run

DIRECTIONS = ("kl_pi_ref", "kl_ref_pi")


class AuditRow(NamedTuple):
    """One row of the audit: a penalty configuration for one divergence.

    reference: the penalty's reference ("" if it is the graded one). rollout: how the sampler differs from the policy ("" if it
    does not). correction: its importance weights. value: the mean of the estimate; exact_value: the exact divergence.
    relative_error, cosine: of the expected gradient against the exact gradient (NaN if that is zero). variance: of a batch's
    gradient, summed over parameters, without a baseline. stderr: norm of the standard error of the expected gradient; 0 if it
    is exact. descends: the measured description; declared: the one of `penalties.expected_gradient` and `audit.cases`.
    """

    divergence: str
    estimator: str
    placement: str
    level: str
    credit: str
    gradient: str
    future_kl: bool
    sampler: str
    reference: str
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
    """The mean of an estimate, its expected gradient, and the variance of its gradient on a single sequence."""

    value: Float[Array, ""]
    gradient: Float[Array, " P"]
    variance: Float[Array, ""]


def audit(
    run: Run,
    policy: AnyPolicy,
    key: PRNGKeyArray,
    directions: tuple[str, ...] = DIRECTIONS,
    older: AnyPolicy | None = None,
) -> Iterator[AuditRow]:
    """The rows of the audit: one for every penalty configuration of each divergence in `directions`.

    With an `older` policy there are also rows for other samplers than the policy, under every importance correction, and for
    other references of the penalty. `run` provides the task, the reference and the batch size. Needs x64.
    """
    automaton = run.task.automaton
    enumerable = automaton.is_enumerable
    is_exact = exact.evaluation_method(automaton, (policy, run.reference)) != "samples"
    policy_key, reference_key = jax.random.split(key)
    policy_batch, reference_batch = (
        sampling.weighted_batch(k, automaton, p, SAMPLES) for p, k in ((policy, policy_key), (run.reference, reference_key))
    )
    known_by_name = known_gradients.gradients_by_name(run, policy, policy_batch) if enumerable else {}
    batch_size = run.settings.batch_size or 64
    for name in directions:
        target = known_gradients.exact_gradient(run, policy, REGISTRY[name]) if is_exact else None
        if REGISTRY[name].root and target is not None:  # its gradient is a multiple of its square's
            known_by_name = {REGISTRY[name].formula: np.asarray(target.gradient), **known_by_name}
        rows = itertools.chain(
            cases.on_policy(run, name, policy, policy_batch, reference_batch),
            top_k_cases.cases(run, name, policy, policy_batch),
        )
        if older is not None:
            others = cases.against_others(run, name, policy, older, policy_batch)
            rows = itertools.chain(rows, cases.off_policy(run, name, policy, older, policy_batch, policy_key), others)
        for case in rows:
            penalty = case.penalty
            alone = penalty_alone(run, penalty)
            alone = alone if case.penalising is None else dataclasses.replace(alone, reference=case.penalising)
            measured = measure(alone, case.policy, case.batch, case.reported)
            error, cosine = _against(measured.gradient, None if target is None else target.gradient)
            stderr = 0.0 if enumerable else math.sqrt(max(0.0, float(measured.variance)) / SAMPLES)
            gradient = np.asarray(measured.gradient)
            known = {**known_by_name, **case.known}
            descends = known_gradients.name_of(gradient, known) if enumerable else "not compared: estimated"
            bound = "" if penalty.truncation is None else f"at most {penalty.truncation:g}"
            correction = ", ".join(filter(None, (penalty.importance_correction.replace("none", ""), bound)))
            yield AuditRow(
                name, describe.estimator(penalty), str(penalty.placement), str(penalty.level), str(penalty.credit),
                penalty.gradient, penalty.future_kl, str(penalty.sampler), case.reference, case.rollout,
                correction, float(measured.value), math.nan if target is None else float(target.value),
                error, cosine, max(0.0, float(measured.variance)) / batch_size, stderr, descends, case.declared,
            )  # fmt: skip


def penalty_alone(run: Run, penalty: settings.PenaltySettings) -> Run:
    """The run with this penalty at coefficient 1 and no reward, under REINFORCE without baseline and aggregation."""
    plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0], epochs=1, surrogate="none")
    run_penalty = run.settings.penalty
    clamp = run_penalty.clamp if penalty.sampler == "policy" else None
    at_one = dataclasses.replace(penalty, beta=1.0, alpha=run_penalty.alpha, weights=run_penalty.weights, clamp=clamp)
    zero = jnp.zeros_like(jnp.asarray(run.task.reward))
    return dataclasses.replace(
        run,
        settings=dataclasses.replace(run.settings, penalty=at_one, algorithm=plain),
        task=dataclasses.replace(run.task, reward=zero, typicality=jnp.zeros(()), reward_model=None),
    )


@jax.jit
def measure(run: Run, policy: AnyPolicy, batch: Batch, reported: Float[Array, "N T"] | None = None) -> Measured:
    """Measure the training loss of each sequence on its own, averaged with the batch's weights.

    reported: the token log-probabilities that another sampler than the policy reports.
    """
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)

    def measure_one(sequence):
        tokens, states, mask, *reported_one = (x[None] for x in sequence)
        single = Batch(tokens, states, mask, jnp.ones((1,), batch.weight.dtype), 2)

        def loss(parameters):
            return _term(run, eqx.combine(parameters, rest), single, *reported_one)

        value, gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
        return value[1], ravel_pytree(gradient)[0]

    sequences = (batch.tokens, batch.states, batch.mask)
    values, gradients = jax.lax.map(measure_one, sequences if reported is None else (*sequences, reported), batch_size=256)
    weight = jnp.asarray(batch.weight)
    mean = weight @ gradients
    squares = jnp.sum(weight * jnp.sum(jnp.square(gradients), axis=1))
    return Measured(weight @ values, mean, squares - jnp.sum(jnp.square(mean)))


def _term(run: Run, policy: AnyPolicy, batch: Batch, reported=None) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The penalty's part of the training loss on a batch of one sequence, and the value of the estimate."""
    penalty = run.settings.penalty
    loss, value = loss_and_penalty(run, policy, batch, reported)
    if penalty.estimator == "score" and penalty.sampler == "policy":  # f'(t) does not estimate the divergence; f(t)/t does
        u = jnp.sum(terms.log_ratio(scoring.positions(run.task.automaton, policy, run.reference, batch), batch))
        value = jnp.exp(-u) * REGISTRY[penalty.divergence].both(u, options.parameters(penalty, u.dtype))[0]
    return loss, value


def _against(gradient, target) -> tuple[float, float]:
    """Relative error and cosine of a gradient against a target; NaN without one."""
    if target is None:
        return math.nan, math.nan
    scale, norm = float(jnp.linalg.norm(target)), float(jnp.linalg.norm(gradient))
    if scale == 0.0:
        return math.nan, math.nan
    cosine = float(gradient @ target) / (scale * norm) if norm > SAME * scale else math.nan
    return float(jnp.linalg.norm(gradient - target)) / scale, cosine
