"""A reference of one's own: the policy's family, trained by maximum likelihood on sequences of the task's model."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact, policies, settings
from rlkl.divergences import Params
from rlkl.evaluation import metrics
from rlkl.policies import AnyPolicy, Fixed, Policy
from rlkl.policies.base import cast
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, enumerate_all, is_enumerable
from rlkl.tasks.automaton import Task
from rlkl.training.spec import Run, support


class Fitted(NamedTuple):
    """A trained reference, and its KL(model‖reference) to the task's own model, per sequence in nats: exact for tables and
    where the sequences can be listed, else estimated (with its standard error) on sequences that it has not seen."""

    policy: AnyPolicy
    kl: Float[Array, ""]
    stderr: Float[Array, ""]


def maximum_likelihood(run: Run, text: Batch | None = None) -> Fitted:
    """Train by Adam on `reference.samples` sequences of the task's model, or on `text`'s; in float32, from a uniform start."""
    chosen, task = run.settings.reference, run.task
    keys = jax.random.split(jax.random.key(chosen.seed), 4)
    true = Fixed(cast(task.log_reference, jnp.float32), task.automaton.horizon)
    batch = sampling.walk(_uniforms(keys[0], task, chosen.samples), task.automaton, true) if text is None else text
    start = _uniform(run, keys[1])
    trained = cast(_descend(chosen, start, batch, keys[2]), jnp.float64)
    kl, stderr = held_out(task, trained, keys[3])
    return Fitted(trained, kl, stderr)


def _uniforms(key: PRNGKeyArray, task: Task, size: int) -> Float[Array, "T N"]:
    return jax.random.uniform(key, (task.automaton.horizon, size), jnp.float32)


def _uniform(run: Run, key: PRNGKeyArray) -> AnyPolicy:
    low = cast(run, jnp.float32)
    family = policies.REGISTRY[run.settings.policy.name]
    chosen = dataclasses.replace(low.settings.policy, init="uniform")
    return family.build(chosen, low.task, support(run), key, jnp.dtype("float32"))


def _descend(chosen: settings.ReferenceSettings, start: AnyPolicy, batch: Batch, key: PRNGKeyArray) -> AnyPolicy:
    """-mean log pi(y) over minibatches, the learning rate falling linearly to zero."""
    trainable, rest = eqx.partition(start, eqx.is_inexact_array)
    method = optax.adam(optax.linear_schedule(chosen.learning_rate, 0.0, chosen.steps))
    count, size = batch.tokens.shape[0], min(chosen.batch_size, batch.tokens.shape[0])

    def loss(parameters, part):
        return -jnp.mean(scoring.log_probability(eqx.combine(parameters, rest), part))

    def step(i, held):
        parameters, slots = held
        rows = jax.random.randint(jax.random.fold_in(key, i), (size,), 0, count)
        part = Batch(*(jnp.asarray(x)[rows] for x in batch[:4]), size)
        gradient = jax.grad(loss)(parameters, part)
        with jax.numpy_dtype_promotion("standard"):
            updates, slots = method.update(gradient, slots, parameters)
            return optax.apply_updates(parameters, updates), slots

    trained, _ = jax.lax.fori_loop(0, chosen.steps, step, (trainable, method.init(trainable)))
    return eqx.combine(trained, rest)


def held_out(task: Task, model: AnyPolicy, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """KL(task's own model‖model) and its standard error."""
    automaton, kl = task.automaton, divergences.REGISTRY["kl_pi_ref"]
    true, zero = Fixed(jnp.asarray(task.log_reference), automaton.horizon), jnp.zeros(())
    if isinstance(model, Policy):
        return exact.sequence_divergence(automaton, kl, Params(), true.table(), model.table()), zero
    if is_enumerable(automaton):
        listed = enumerate_all(automaton)
        return divergences.exact(kl, Params(), *(scoring.log_probability(p, listed) for p in (true, model))), zero
    batch = sampling.sample(key, automaton, true, metrics.LAST_SAMPLES)
    at = scoring.positions(automaton, true, model, batch)
    rows = divergences.exact(kl, Params(), at.log_pi, at.log_ref)
    of_sequence = jnp.sum(jnp.where(batch.mask, rows[at.row], 0.0), axis=1)
    return jnp.mean(of_sequence), jnp.std(of_sequence, ddof=1) / jnp.sqrt(jnp.asarray(metrics.LAST_SAMPLES, of_sequence.dtype))


def legal_windows(tokens: np.ndarray, task: Task) -> Batch:
    """Given sequences (Int["N T"]) walked through the task's automaton; those that it does not admit are left out."""
    automaton = task.automaton
    states = np.full((len(tokens), automaton.horizon + 1), automaton.start, np.int32)
    admitted = np.ones(len(tokens), bool)
    for t in range(automaton.horizon):
        here = states[:, t]
        inside = here < automaton.decisions
        after = automaton.next_state[np.minimum(here, automaton.decisions - 1), tokens[:, t]]
        admitted &= ~inside | (after >= 0)
        states[:, t + 1] = np.where(inside, after, here)
    tokens, states = tokens[admitted], states[admitted]
    weight = np.full(len(tokens), 1.0 / max(1, len(tokens)))
    return Batch(tokens.astype(np.int32), states, states[:, :-1] < automaton.decisions, weight, len(tokens))
