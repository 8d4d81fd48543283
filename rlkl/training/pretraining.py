"""Pretrain a reference: a policy of the run's family, fitted by maximum likelihood to sequences of the task's model."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import policies
from rlkl.evaluation import metrics
from rlkl.policies import AnyPolicy, Fixed
from rlkl.policies.base import cast
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.settings import ReferenceSettings
from rlkl.tasks.automaton import Task
from rlkl.training.spec import Run, support


class Fitted(NamedTuple):
    """A pretrained reference, and KL(task's model‖reference) in nats per sequence.

    The KL is exact (stderr 0) for tables and where the sequences can be enumerated; else it is estimated on fresh samples.
    """

    policy: AnyPolicy
    kl: Float[Array, ""]
    stderr: Float[Array, ""]


def maximum_likelihood(run: Run, text: Batch | None = None) -> Fitted:
    """Fit a policy by maximum likelihood to `reference.samples` sequences of the task's model, or to those of `text`.

    It starts uniform and is trained with Adam in float32.
    """
    reference, task = run.settings.reference, run.task
    keys = jax.random.split(jax.random.key(reference.seed), 4)
    if text is None:
        sampler = Fixed(cast(task.log_reference, jnp.float32), task.automaton.horizon)
        start = sampling.independent_starts(keys[0], task.automaton, reference.samples)
        text = sampling.walk(_uniform_numbers(keys[0], task, reference.samples), task.automaton, sampler, start)
    trained = cast(_fit(reference, _uniform_policy(run, keys[1]), text, keys[2]), jnp.float64)
    model = Fixed(jnp.asarray(task.log_reference), task.automaton.horizon)
    return Fitted(trained, *metrics.distance(task.automaton, model, trained, keys[3], metrics.LAST_SAMPLES))


def _uniform_numbers(key: PRNGKeyArray, task: Task, size: int) -> Float[Array, "T N"]:
    return jax.random.uniform(key, (task.automaton.horizon, size), jnp.float32)


def _uniform_policy(run: Run, key: PRNGKeyArray) -> AnyPolicy:
    cast_run = cast(run, jnp.float32)
    policy_settings = dataclasses.replace(cast_run.settings.policy, init="uniform")
    family = policies.REGISTRY[run.settings.policy.name]
    return family.build(policy_settings, cast_run.task, support(run), key, jnp.dtype("float32"))


def _fit(settings: ReferenceSettings, start: AnyPolicy, batch: Batch, key: PRNGKeyArray) -> AnyPolicy:
    """Minimise -mean log pi(y) over minibatches; the learning rate falls linearly to zero."""
    trainable, rest = eqx.partition(start, eqx.is_inexact_array)
    method = optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, settings.steps))
    count, size = batch.tokens.shape[0], min(settings.batch_size, batch.tokens.shape[0])

    def loss(parameters, minibatch):
        return -jnp.mean(scoring.log_probability(eqx.combine(parameters, rest), minibatch))

    def step(i, carry):
        parameters, optimizer_state = carry
        rows = jax.random.randint(jax.random.fold_in(key, i), (size,), 0, count)
        minibatch = Batch(*(jnp.asarray(x)[rows] for x in batch[:4]), size)
        gradient = jax.grad(loss)(parameters, minibatch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
            updates, optimizer_state = method.update(gradient, optimizer_state, parameters)
            return optax.apply_updates(parameters, updates), optimizer_state

    trained, _ = jax.lax.fori_loop(0, settings.steps, step, (trainable, method.init(trainable)))
    return eqx.combine(trained, rest)


def legal_windows(tokens: np.ndarray, task: Task) -> Batch:
    """The sequences among `tokens` (Int["N T"]) that are legal in the task, as a batch of equal weights."""
    automaton, states = task.automaton, task.automaton.walk(tokens)
    legal = (states >= 0).all(axis=1)  # an illegal token leads to -1
    tokens, states = tokens[legal], states[legal]
    weight = np.full(len(tokens), 1.0 / max(1, len(tokens)))
    return Batch(tokens.astype(np.int32), states, states[:, :-1] < automaton.decisions, weight, len(tokens))
