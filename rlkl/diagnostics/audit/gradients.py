"""Expected gradients of a penalty, by enumeration, against the exact gradient of its divergence."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import exact, policies, settings
from rlkl.penalties import options, terms
from rlkl.policies import AnyPolicy
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton, Task
from rlkl.training import exact_losses, sampled_losses, spec

BANDIT = Automaton(np.arange(1, 11)[None, :], states=11, horizon=1)


class GradientComparison(NamedTuple):
    """An expected gradient against the exact one, for I policies: relative error and cosine (NaN for a zero gradient)."""

    error: Float[Array, " I"]
    cosine: Float[Array, " I"]


def random_automaton(seed: int = 0) -> Automaton:
    """A random automaton of 4 decision states, 3 tokens and horizon 3, with early ends and an illegal token."""
    following = np.random.default_rng(seed).integers(1, 8, size=(4, 3))
    following[0], following[1, 2] = (1, 2, 3), -1
    return Automaton(following, states=8, horizon=3)


def gradients(run_settings: settings.Settings, automaton: Automaton, count: int, seed: int = 0) -> GradientComparison:
    """Compare a penalty's expected gradient with the exact gradient of its divergence, for random policies and references.

    The expected gradient is computed by enumeration, for REINFORCE without a baseline. count: number of policies. Needs x64.
    """
    generator = np.random.default_rng(seed)
    shape = (count, automaton.decisions, automaton.vocabulary)
    log_ref = np.where(automaton.legal, generator.normal(size=shape), -np.inf)
    log_ref -= np.logaddexp.reduce(log_ref, axis=-1, keepdims=True)
    logits = generator.normal(size=(count, automaton.horizon, *shape[1:]))
    if run_settings.algorithm.name != "exact":
        plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0], epochs=1, surrogate="none")
        run_settings = dataclasses.replace(run_settings, algorithm=plain)
    return jax.tree.map(np.asarray, _compare(penalty_run(run_settings, automaton), logits, log_ref))


def penalty_run(run_settings: settings.Settings, automaton: Automaton) -> spec.Run:
    """A run without reward whose loss is the penalty with coefficient 1; `with_reference` sets its reference."""
    algorithm = dataclasses.replace(run_settings.algorithm, entropy_coef=None)
    penalty = dataclasses.replace(run_settings.penalty, beta=1.0)
    run_settings = dataclasses.replace(run_settings, penalty=penalty, algorithm=algorithm)
    with np.errstate(divide="ignore"):
        uniform = np.log(automaton.legal / automaton.legal.sum(axis=1, keepdims=True))
    task = Task(automaton, np.zeros(automaton.states), uniform, np.zeros(()), np.zeros(automaton.vocabulary))
    return spec.make_run(run_settings, task)


def with_reference(run: spec.Run, log_ref: Float[Array, "D V"]) -> spec.Run:
    """The run with this table as its reference."""
    reference = policies.Fixed(log_ref, run.task.automaton.horizon)
    return dataclasses.replace(run, task=dataclasses.replace(run.task, log_reference=log_ref), reference=reference)


@jax.jit
def _compare(run: spec.Run, logits: Float[Array, "I T D V"], log_ref: Float[Array, "I D V"]) -> GradientComparison:
    automaton, penalty = run.task.automaton, run.settings.penalty
    legal = jnp.asarray(automaton.legal)
    div, params = options.divergence(penalty), options.parameters(penalty, jnp.float64)
    assert div is not None

    def compare_one(policy_logits, reference) -> GradientComparison:
        compared_run, sequences = with_reference(run, reference), enumerate_all(automaton)
        source = compared_run.reference if penalty.sampler == "reference" else Tabular(policy_logits, legal)
        batch = with_weight(sequences, jnp.exp(scoring.log_probability(source, sequences)))
        expected = jax.grad(lambda x: loss_and_penalty(compared_run, Tabular(x, legal), batch)[0])(policy_logits)
        target = jax.grad(lambda x: exact.between(automaton, div, params, Tabular(x, legal), compared_run.reference))(
            policy_logits
        )
        norm, target_norm = jnp.linalg.norm(expected.ravel()), jnp.linalg.norm(target.ravel())
        cosine = jnp.where(norm > 1e-9 * target_norm, jnp.vdot(expected, target) / (norm * target_norm), jnp.nan)
        return GradientComparison(jnp.linalg.norm((expected - target).ravel()) / target_norm, cosine)

    return jax.vmap(compare_one)(logits, log_ref)


def with_weight(batch: Batch, weight: Float[Array, " N"]) -> Batch:
    """The batch with these weights, as jax arrays; no gradient flows to the weights."""
    tokens, states, mask = (jnp.asarray(x) for x in (batch.tokens, batch.states, batch.mask))
    return Batch(tokens, states, mask, jax.lax.stop_gradient(weight), batch.size)


def loss_and_penalty(
    run: spec.Run, policy: AnyPolicy, batch: Batch, reported: Float[Array, "N T"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss of a training step on this batch, and the mean of the penalty's terms.

    reported: the tokens' log-probabilities by the batch's sampler, where that was not the policy.
    """
    penalty, objective = run.settings.penalty, spec.objective(run)
    if penalty.sampler == "exact":
        if run.settings.algorithm.name == "exact":
            value = jnp.asarray(exact_losses.exact_loss(objective, policy))
        else:
            value = jnp.asarray(sampled_losses.off_batch_penalty(run.settings, objective, policy, jax.random.key(0)))
        return value, value
    positions = scoring.positions(run.task.automaton, policy, run.reference, batch)
    if penalty.sampler == "reference":
        value = terms.from_reference(penalty, positions, batch)
        return value, value
    penalty_terms = terms.make_terms(penalty, positions.log_pi.dtype)
    value = jnp.sum(
        batch.weight * jnp.sum(penalty_terms.in_reward(positions, batch) + penalty_terms.in_loss(positions, batch), axis=1)
    )
    zero = jnp.zeros((), positions.log_pi.dtype)
    experience = sampled_losses.experience(run.settings, objective, positions, batch, zero, reported)
    return sampled_losses.surrogate(run.settings, objective.beta, positions, batch, experience), value
