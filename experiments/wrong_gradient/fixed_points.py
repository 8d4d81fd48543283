"""Where a way of penalising leads without sampling noise: its expected gradient, descended to the end.

The expected gradient is that of the training's own loss on a batch that holds every sequence with its probability. A fixed
point of it need not be the optimum of anything.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rlkl.penalties import terms
from rlkl.policies import AnyPolicy
from rlkl.rollouts import batch, scoring
from rlkl.rollouts.batch import Batch
from rlkl.training import sampled_losses, spec
from rlkl.training.spec import Run

STEPS, RATE, DECAY = 4000, 0.1, 0.5  # of Adam: the rate falls to zero over the last half
FAR = 300.0  # nats by which a sequence may fall behind the reference before a descent has run away


class Reached(NamedTuple):
    """The policy that a descent ended at, the norm of its expected gradient there, the steps taken (fewer than STEPS where it
    ran away), and log pi/pi_ref of the sequence that fell behind most."""

    policy: AnyPolicy
    gradient_norm: Float[Array, ""]
    steps: Int[Array, ""]
    least: Float[Array, ""]


def expected_loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """A function whose gradient is the expected gradient of a step of `run` (reinforce without a baseline), reward included."""
    chosen, automaton = run.settings, run.task.automaton
    own = _listed(run, policy)
    at = scoring.positions(automaton, policy, run.reference, own)
    objective = spec.objective(run)
    learned = sampled_losses.experience(chosen, objective, at, own, jnp.zeros((), at.log_pi.dtype))
    value = sampled_losses.surrogate(chosen, objective.beta, at, own, learned)
    if chosen.penalty.sampler == "reference":
        theirs = _listed(run, run.reference)
        there = scoring.positions(automaton, policy, run.reference, theirs)
        value += chosen.penalty.beta * terms.from_reference(chosen.penalty, there, theirs)
    elif chosen.penalty.sampler == "exact":
        value += sampled_losses.off_batch_penalty(chosen, objective, policy, jax.random.key(0))  # nothing is drawn
    return value


def _listed(run: Run, policy: AnyPolicy) -> Batch:
    """Every sequence, with its probability held fixed."""
    listed = batch.enumerate_all(run.task.automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (listed.tokens, listed.states, listed.mask))
    return Batch(tokens, states, mask, jax.lax.stop_gradient(jnp.exp(scoring.log_probability(policy, listed))), listed.size)


@jax.jit
def descend(run: Run, policy: AnyPolicy) -> Reached:
    """Follow the expected gradient from `policy` until the rate has fallen to zero, or it has run away. Needs x64 enabled."""
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    falling = round(DECAY * STEPS)
    method = optax.adam(optax.linear_schedule(RATE, 0.0, falling, STEPS - falling), b2=0.99)
    gradient = jax.grad(lambda p: expected_loss(run, eqx.combine(p, rest)))

    def goes_on(held):
        parameters, _, count = held
        return (count < STEPS) & (_least(run, eqx.combine(parameters, rest)) > -FAR)

    def step(held):
        parameters, slots, count = held
        with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
            updates, slots = method.update(gradient(parameters), slots, parameters)
            return optax.apply_updates(parameters, updates), slots, count + 1

    first = (trainable, method.init(trainable), jnp.zeros((), jnp.int32))
    parameters, _, count = jax.lax.while_loop(goes_on, step, first)
    policy = eqx.combine(parameters, rest)
    return Reached(policy, optax.tree.norm(gradient(parameters)), count, _least(run, policy))


def _least(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    listed = batch.enumerate_all(run.task.automaton)
    return jnp.min(scoring.log_probability(policy, listed) - scoring.log_probability(run.reference, listed))
