"""A reference of one's own: the policy's family, trained by maximum likelihood on sequences of the task's model."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import policies, settings
from rlkl.evaluation import metrics
from rlkl.policies import AnyPolicy, Fixed
from rlkl.policies.base import cast
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
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
    model = Fixed(jnp.asarray(task.log_reference), task.automaton.horizon)
    return Fitted(trained, *metrics.distance(task.automaton, model, trained, keys[3], metrics.LAST_SAMPLES))


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


def legal_windows(tokens: np.ndarray, task: Task) -> Batch:
    """The sequences (Int["N T"]) that the task's automaton admits, as a batch of equal weights."""
    automaton, states = task.automaton, task.automaton.walk(tokens)
    admitted = (states >= 0).all(axis=1)  # an illegal token leads to -1
    tokens, states = tokens[admitted], states[admitted]
    weight = np.full(len(tokens), 1.0 / max(1, len(tokens)))
    return Batch(tokens.astype(np.int32), states, states[:, :-1] < automaton.decisions, weight, len(tokens))
