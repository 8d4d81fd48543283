"""What a step descends: pure functions of a run, a policy and a batch, whichever way the batch was made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import algorithms, divergences, estimators, exact, metrics, penalty, policies, rollout
from rlkl.divergences import Params
from rlkl.job import Run
from rlkl.policies import AnyPolicy
from rlkl.rollout import Batch, Positions

LOGGED = ("k1", "k2", "k3")  # estimates of KL(pi‖pi_ref) that every batch is logged with
REFERENCE = 2**31 - 3  # purpose of a key; steps count from 0


class Seen(NamedTuple):
    """What is logged of a batch: its mean return, and its mean k1, k2 and k3; and the KL(pi‖pi_ref) that a controller goes by:
    k1's mean, or the exact one beside exact gradients. (k3's would be low where KL is large: its mass lies where pi hardly
    ever draws.)"""

    earned: Float[Array, ""]
    kl: Float[Array, " K"]
    steered_by: Float[Array, ""]


class Experience(NamedTuple):
    """What a sampled step learns from, besides its batch: held fixed while the policy moves."""

    log_pi: Float[Array, "N T"]  # of the tokens, under the policy that drew them
    advantages: Float[Array, "N T"]
    seen: Seen


def exact_loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """-J(pi): by dynamic program where policy and reference are tables, else over all sequences."""
    chosen, task = run.settings.penalty, run.task
    div, beta = penalty.divergence(chosen), chosen.beta
    if metrics.known(task, policy, run.reference, div) == "table":
        table = policies.table_of(policy)
        params = penalty.parameters(chosen, table.dtype)
        return -exact.objective(task, div, params, beta, table, policies.table_of(run.reference))
    listed = rollout.enumerate_all(task.automaton)
    log_pi, log_ref = rollout.log_probability(policy, listed), rollout.log_probability(run.reference, listed)
    return -exact.enumerated_objective(task, div, penalty.parameters(chosen, log_pi.dtype), beta, listed, log_pi, log_ref)


def experience(run: Run, positions: Positions, batch: Batch, baseline: Float[Array, ""]) -> Experience:
    """The advantages of a batch under the policy that drew it, and the mean return."""
    chosen, task = run.settings, run.task
    positions = jax.lax.stop_gradient(positions)
    log_pi = positions.at(positions.log_pi, batch)
    terms, beta = penalty.make(chosen.penalty, log_pi.dtype), chosen.penalty.beta
    taken, later = terms.in_reward(positions, batch), terms.later(positions, batch)
    if chosen.penalty.credit == "reward_to_go":
        taken = algorithms.returns_to_go(taken)
    taken = taken + algorithms.returns_to_go(later) - later
    returns = algorithms.returns_to_go(exact.sequence_rewards(task, batch, log_pi.dtype)) - beta * taken
    advantages = algorithms.REGISTRY[chosen.algorithm.name].advantage(returns, batch, baseline)
    u = penalty.log_ratio(positions, batch)
    logged = [jnp.sum(batch.weight * jnp.sum(estimators.REGISTRY[name](u), axis=1)) for name in LOGGED]
    seen = Seen(jnp.sum(batch.weight * returns[:, 0]), jnp.stack(logged), logged[LOGGED.index("k1")])
    return Experience(log_pi, advantages, seen)


def surrogate(run: Run, positions: Positions, batch: Batch, learned: Experience) -> Float[Array, ""]:
    """What a sampled step descends: the algorithm's loss of each token and the penalty's, aggregated alike."""
    chosen = run.settings
    log_pi = positions.at(positions.log_pi, batch)
    if algorithms.REGISTRY[chosen.algorithm.name].clipped:
        per_token = algorithms.clipped_loss(log_pi, learned.log_pi, learned.advantages, chosen.algorithm.clip)
    else:
        per_token = algorithms.score_loss(log_pi, learned.advantages)
    penalised = chosen.penalty.beta * penalty.make(chosen.penalty, log_pi.dtype).in_loss(positions, batch)
    return algorithms.aggregate(chosen.algorithm.loss_aggregation, per_token + penalised, batch)


def loss(run: Run, policy: AnyPolicy, baseline: Float[Array, ""], key: PRNGKeyArray) -> tuple[Array, Seen]:
    """What a step of one epoch descends, and what is logged of its batch; the run's leaves are in the training dtype."""
    chosen, automaton = run.settings, run.task.automaton
    if chosen.algorithm.name == "exact":
        value = exact_loss(run, policy)
        no_batch = jnp.full((len(LOGGED),), jnp.nan, value.dtype)
        return value, Seen(-value, no_batch, jnp.asarray(_kl(run, policy), value.dtype))
    batch, positions = rollout.drawn(key, automaton, policy, run.reference, chosen.batch_size)
    learned = experience(run, positions, batch, baseline)
    return surrogate(run, positions, batch, learned) + on_reference(run, policy, key), learned.seen


def _kl(run: Run, policy: AnyPolicy) -> Float[Array, ""] | float:
    """KL(pi‖pi_ref) for a controller that goes by exact gradients; NaN where none needs it."""
    if run.settings.penalty.controller == "fixed":
        return jnp.nan
    div = divergences.REGISTRY["kl_pi_ref"]
    return exact.between(run.task.automaton, div, Params(), jax.lax.stop_gradient(policy), run.reference)


def on_reference(run: Run, policy: AnyPolicy, key: PRNGKeyArray) -> Float[Array, ""] | float:
    """The penalty that is read along sequences of the reference; 0 where none is."""
    chosen, automaton = run.settings, run.task.automaton
    if chosen.penalty.sampler != "reference":
        return 0.0
    batch = rollout.draw(jax.random.fold_in(key, REFERENCE), automaton, run.reference, chosen.batch_size)
    at = rollout.positions(automaton, policy, run.reference, batch)
    return chosen.penalty.beta * penalty.from_reference(chosen.penalty, at, batch)
