"""Expected gradients of a penalty on a bandit and on a walk of a few tokens, beside the exact gradient."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import exact, policies, settings
from rlkl.penalties import options, terms
from rlkl.policies import Policy
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton, Task
from rlkl.training import exact_losses, sampled_losses, spec

ARMS = Automaton(np.arange(1, 11)[None, :], states=11, horizon=1)


class Compared(NamedTuple):
    """An expected gradient against the exact one: relative error, and cosine (NaN for a zero gradient)."""

    error: Float[Array, " I"]
    cosine: Float[Array, " I"]


def walkway(seed: int = 0) -> Automaton:
    """A random automaton of 4 decision states, 3 tokens and at most 3 of them, with early ends and an illegal token."""
    following = np.random.default_rng(seed).integers(1, 8, size=(4, 3))
    following[0], following[1, 2] = (1, 2, 3), -1
    return Automaton(following, states=8, horizon=3)


def gradients(chosen: settings.Settings, automaton: Automaton, count: int, seed: int = 0) -> Compared:
    """At `count` random policies beside random references: the penalty's expected gradient by enumeration, under the plainest
    algorithm, and the exact gradient of the divergence that it names. Needs x64."""
    draw = np.random.default_rng(seed)
    shape = (count, automaton.decisions, automaton.vocabulary)
    log_ref = np.where(automaton.legal, draw.normal(size=shape), -np.inf)
    log_ref -= np.logaddexp.reduce(log_ref, axis=-1, keepdims=True)
    logits = draw.normal(size=(count, automaton.horizon, *shape[1:]))
    if chosen.algorithm.name != "exact":
        plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0])
        chosen = dataclasses.replace(chosen, algorithm=plain)
    return jax.tree.map(np.asarray, _compared(_run(chosen, automaton), logits, log_ref))


def _run(chosen: settings.Settings, automaton: Automaton) -> spec.Run:
    """Nothing but the penalty, at coefficient 1; the reference is put in later."""
    alone = dataclasses.replace(chosen.algorithm, entropy_coef=None)
    chosen = dataclasses.replace(chosen, penalty=dataclasses.replace(chosen.penalty, beta=1.0), algorithm=alone)
    with np.errstate(divide="ignore"):
        even = np.log(automaton.legal / automaton.legal.sum(axis=1, keepdims=True))
    task = Task(automaton, np.zeros(automaton.states), even, np.zeros(()), np.zeros(automaton.vocabulary))
    return spec.make_run(chosen, task)


def _beside(run: spec.Run, log_ref: Float[Array, "D V"]) -> spec.Run:
    reference = policies.Fixed(log_ref, run.task.automaton.horizon)
    return dataclasses.replace(run, task=dataclasses.replace(run.task, log_reference=log_ref), reference=reference)


@jax.jit
def _compared(run: spec.Run, logits: Float[Array, "I T D V"], log_ref: Float[Array, "I D V"]) -> Compared:
    legal, chosen = jnp.asarray(run.task.automaton.legal), run.settings.penalty
    div, params = options.divergence(chosen), options.parameters(chosen, jnp.float64)
    assert div is not None

    def one(at, beside) -> Compared:
        held, listed = _beside(run, beside), enumerate_all(run.task.automaton)
        source = held.reference if chosen.sampler == "reference" else Tabular(at, legal)
        batch = _weighted(listed, jnp.exp(scoring.log_probability(source, listed)))
        found = jax.grad(lambda x: _descended(held, Tabular(x, legal), batch)[0])(at)
        between = lambda x: exact.between(held.task.automaton, div, params, Tabular(x, legal), held.reference)  # noqa: E731
        right = jax.grad(between)(at)
        size, norm = jnp.linalg.norm(found.ravel()), jnp.linalg.norm(right.ravel())
        cosine = jnp.where(size > 1e-9 * norm, jnp.vdot(found, right) / (size * norm), jnp.nan)
        return Compared(jnp.linalg.norm((found - right).ravel()) / norm, cosine)

    return jax.vmap(one)(logits, log_ref)


def _weighted(listed: Batch, weight: Float[Array, " N"]) -> Batch:
    tokens, states, mask = (jnp.asarray(x) for x in (listed.tokens, listed.states, listed.mask))
    return Batch(tokens, states, mask, jax.lax.stop_gradient(weight), listed.size)


def _descended(run: spec.Run, policy: Policy, batch: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What a step descends on this batch, and the mean of the penalty's own terms."""
    chosen, objective = run.settings.penalty, spec.objective(run)
    if chosen.sampler == "exact":
        exactly = run.settings.algorithm.name == "exact"
        value = (
            exact_losses.exact_loss(objective, policy)
            if exactly
            else sampled_losses.off_batch_penalty(run.settings, objective, policy, jax.random.key(0))
        )
        return jnp.asarray(value), jnp.asarray(value)
    at = scoring.positions(run.task.automaton, policy, run.reference, batch)
    if chosen.sampler == "reference":
        value = terms.from_reference(chosen, at, batch)
        return value, value
    made = terms.make_terms(chosen, at.log_pi.dtype)
    value = jnp.sum(batch.weight * jnp.sum(made.in_reward(at, batch) + made.in_loss(at, batch), axis=1))
    learned = sampled_losses.experience(run.settings, objective, at, batch, jnp.zeros((), at.log_pi.dtype))
    return sampled_losses.surrogate(run.settings, objective.beta, at, batch, learned), value
