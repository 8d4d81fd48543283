"""Exact values, by dynamic programming over an automaton or by enumeration: no sampling, differentiable.

Dynamic programs are for policies of (position, state), given as tables of log-probabilities; where the sequences are few
enough to list, any policy is a bandit over them. `jax.grad` of these values is the exact policy gradient, the future-KL
term included. Nats, per sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import divergences
from rlkl.divergences import Divergence, Params
from rlkl.exact.methods import evaluation_method, has_exact_divergence
from rlkl.exact.objective import Objective
from rlkl.policies import AnyPolicy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, at_last, enumerate_all
from rlkl.tasks.automaton import Automaton, Task


class Values(NamedTuple):
    """Exact values of a policy on a task: scalars, per sequence.

    reward includes the typicality reward; typicality is E[log pi_ref(y)], length E[tokens] and length_ref the reference's
    E[tokens]. divergence is NaN where `has_exact_divergence` says that no dynamic program gives it. gold_reward: None where the
    task has no gold reward.
    """

    reward: Float[Array, ""]
    divergence: Float[Array, ""]
    kl_pi_ref: Float[Array, ""]
    kl_ref_pi: Float[Array, ""]
    entropy: Float[Array, ""]
    typicality: Float[Array, ""]
    length: Float[Array, ""]
    length_ref: Float[Array, ""]
    gold_reward: Float[Array, ""] | None = None


def occupancy(automaton: Automaton, log_pi: Float[Array, "T D V"]) -> Float[Array, "T D"]:
    """Probability of standing in each decision state at each position."""
    following = jnp.asarray(automaton.inner_next.ravel())
    start = jnp.zeros((automaton.decisions,), log_pi.dtype).at[automaton.start].set(1.0)

    def step(at, rows):
        flow = at[:, None] * jnp.exp(rows)
        after = jax.ops.segment_sum(flow.ravel(), following, automaton.decisions + 1)[:-1]
        return after, after

    _, later = jax.lax.scan(step, start, log_pi[:-1])
    return jnp.concatenate([start[None], later])


def outcome_probabilities(automaton: Automaton, log_pi: Float[Array, "T D V"]) -> Float[Array, " S"]:
    """Probability of ending in each state."""
    at = occupancy(automaton, log_pi)
    flow = jnp.where(automaton.ends, at[:, :, None] * jnp.exp(log_pi), 0.0)
    into = np.broadcast_to(np.maximum(automaton.next_state, 0), flow.shape)
    return jax.ops.segment_sum(flow.ravel(), jnp.asarray(into.ravel()), automaton.states)


def token_rewards(task: Task, dtype) -> Float[Array, "T D V"]:
    """Reward of each token: its end state's reward where it ends the sequence, and the typicality reward."""
    automaton = task.automaton
    final = jnp.asarray(task.reward, dtype)[np.maximum(automaton.next_state, 0)]
    log_ref, weight = jnp.asarray(task.log_reference, dtype), jnp.asarray(task.typicality, dtype)
    typical = jnp.where(weight == 0.0, 0.0, weight * log_ref)
    return jnp.where(automaton.ends, final[None], 0.0) + jnp.where(automaton.legal, typical, 0.0)[None]


def power_divergence(
    automaton: Automaton,
    div: Divergence,
    params: Params,
    log_pi: Float[Array, "T D V"],
    log_ref: Float[Array, "T D V"],
) -> Float[Array, ""]:
    """D of a divergence that is affine in sum_y pi(y)^a pi_ref(y)^(1-a), by a backward recursion over tokens.

    From a state on D is the next token's, plus that of each state it leads to times pi^a pi_ref^(1-a) of the token. (The sum
    itself, less 1, would round off every D below 1e-16.)
    """
    following, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)
    a = div.limit("chain", params, log_pi.dtype)
    both = (log_pi > -jnp.inf) & (log_ref > -jnp.inf)
    exponent = a * jnp.where(both, log_pi, 0.0) + (1.0 - a) * jnp.where(both, log_ref, 0.0)
    weight = jnp.where(both, jnp.exp(exponent), 0.0)  # where one of them is zero the row is infinite, or its limit is all

    def step(ahead, inputs):
        weights, rows, end = inputs
        onward = jnp.where(end, 0.0, jnp.append(ahead, jnp.zeros((), ahead.dtype))[following])
        return rows + jnp.sum(times_or_zero(weights, onward), axis=-1), None

    rows = divergences.exact(div, params, log_pi, log_ref)
    last = jnp.zeros((automaton.decisions,), log_pi.dtype)
    first, _ = jax.lax.scan(step, last, (weight, rows, ends), reverse=True)
    return first[automaton.start]


def sequence_divergence(
    automaton: Automaton, div: Divergence, params: Params, log_pi: Float[Array, "T D V"], log_ref: Float[Array, "T D V"]
) -> Float[Array, ""]:
    """D between the distributions of whole sequences."""
    if automaton.horizon == 1:
        return divergences.exact(div, params, log_pi[0, automaton.start], log_ref[0, automaton.start])
    if div.chain == "both":
        of = lambda name: sequence_divergence(automaton, divergences.REGISTRY[name], params, log_pi, log_ref)  # noqa: E731
        first, second = (jnp.asarray(weight, log_pi.dtype) for weight in params.weights)
        return times_or_zero(first, of("kl_pi_ref")) + times_or_zero(second, of("kl_ref_pi"))
    if div.chain in ("policy", "reference"):
        at = occupancy(automaton, log_pi if div.chain == "policy" else log_ref)
        return visited(at, divergences.exact(div, params, log_pi, log_ref))
    if div.chain is None:
        if not has_exact_divergence(automaton, div):
            return jnp.full((), jnp.nan, log_pi.dtype)
        listed = enumerate_all(automaton)
        of = lambda table: jnp.sum(scoring.along(table, listed), axis=1)  # noqa: E731
        return divergences.exact(div, params, of(log_pi), of(log_ref))
    return power_divergence(automaton, div, params, log_pi, log_ref)


def times_or_zero(weight: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """weight * value, and 0 where the weight is 0, even if the value is infinite; safe to differentiate."""
    return jnp.where(weight == 0.0, 0.0, weight * jnp.where(weight == 0.0, 0.0, value))


def visited(occupancy: Float[Array, "T D"], rows: Float[Array, "T D"]) -> Float[Array, ""]:
    """The sum of a row's quantity over states, weighted by occupancy; rows that are never visited may be infinite."""
    return jnp.sum(times_or_zero(occupancy, rows))


def mean(probability: Float[Array, "*rows V"], values: Float[Array, "*rows V"]) -> Float[Array, "*rows"]:
    """The mean over the last axis; values of probability zero may be infinite."""
    return jnp.sum(times_or_zero(probability, values), axis=-1)


def objective_value(objective: Objective, log_pi: Float[Array, "T D V"]) -> Float[Array, ""]:
    """J of a table policy (log_pi), beside a table reference."""
    task, div = objective.task, objective.divergence
    at = occupancy(task.automaton, log_pi)
    reward = visited(at, mean(jnp.exp(log_pi), token_rewards(task, log_pi.dtype)))
    if div is None:
        return reward
    divergence = sequence_divergence(task.automaton, div, objective.params, log_pi, table_of(objective.reference))
    return objective.value(reward, divergence)


def values(objective: Objective, log_pi: Float[Array, "T D V"]) -> Values:
    """Every exact value of a table policy (log_pi), beside a table reference."""
    task, div, params, log_ref = objective.task, objective.measured, objective.params, table_of(objective.reference)
    automaton = task.automaton
    at, at_ref = occupancy(automaton, log_pi), occupancy(automaton, log_ref)
    pi, gold_reward = jnp.exp(log_pi), None
    if task.gold is not None:
        gold_reward = mean(outcome_probabilities(automaton, log_pi), jnp.asarray(task.gold, log_pi.dtype))
    both = {
        "kl_pi_ref": visited(at, divergences.exact(divergences.REGISTRY["kl_pi_ref"], params, log_pi, log_ref)),
        "kl_ref_pi": visited(at_ref, divergences.exact(divergences.REGISTRY["kl_ref_pi"], params, log_pi, log_ref)),
    }
    return Values(
        reward=visited(at, mean(pi, token_rewards(task, log_pi.dtype))),
        divergence=both[div.name] if div.name in both else sequence_divergence(automaton, div, params, log_pi, log_ref),
        **both,
        entropy=visited(at, mean(pi, -log_pi)),
        typicality=visited(at, mean(pi, log_ref)),
        length=jnp.sum(at),
        length_ref=jnp.sum(at_ref),
        gold_reward=gold_reward,
    )


def between(automaton: Automaton, div: Divergence, params: Params, policy: AnyPolicy, reference: AnyPolicy) -> Float[Array, ""]:
    """D between the whole sequences of two policies: by dynamic program where both are tables, else over all sequences."""
    if evaluation_method(automaton, (policy, reference), div) == "dynamic program":
        return sequence_divergence(automaton, div, params, table_of(policy), table_of(reference))
    listed = enumerate_all(automaton)
    return divergences.exact(div, params, *(scoring.log_probability(p, listed) for p in (policy, reference)))


def entropy(automaton: Automaton, policy: AnyPolicy) -> Float[Array, ""]:
    """H(pi) of whole sequences: by dynamic program for a table, else over all sequences."""
    if evaluation_method(automaton, (policy,)) == "dynamic program":
        log_pi = table_of(policy)
        return visited(occupancy(automaton, log_pi), mean(jnp.exp(log_pi), -log_pi))
    log_pi = scoring.log_probability(policy, enumerate_all(automaton))
    return mean(jnp.exp(log_pi), -log_pi)


def sequence_rewards(task: Task, batch: Batch, dtype) -> Float[Array, "N T"]:
    """Reward of each token of a batch, without any penalty; a reward model's score goes to the last token."""
    earned = scoring.along(token_rewards(task, dtype), batch)
    if task.reward_model is None:
        return earned
    model = jax.tree.map(lambda x: jnp.asarray(x, dtype), task.reward_model)
    scores = jax.vmap(model)(jnp.asarray(batch.tokens), jnp.asarray(batch.mask))
    return earned + at_last(batch, scores)


def enumerated_objective(
    objective: Objective, listed: Batch, log_pi: Float[Array, " N"], log_ref: Float[Array, " N"]
) -> Float[Array, ""]:
    """J of any policy, as a bandit over all sequences, whose log-probabilities under it and the reference are given."""
    reward = mean(jnp.exp(log_pi), jnp.sum(sequence_rewards(objective.task, listed, log_pi.dtype), axis=1))
    if objective.divergence is None:
        return reward
    return objective.value(reward, divergences.exact(objective.divergence, objective.params, log_pi, log_ref))


def enumerated_values(objective: Objective, listed: Batch, log_pi: Float[Array, " N"], log_ref: Float[Array, " N"]) -> Values:
    """Every exact value of any policy, as a bandit over all sequences, as for `enumerated_objective`."""
    task, div, params = objective.task, objective.measured, objective.params
    pi = jnp.exp(log_pi)
    length = jnp.sum(jnp.asarray(listed.mask, log_pi.dtype), axis=1)
    of = lambda name: divergences.exact(divergences.REGISTRY[name], params, log_pi, log_ref)  # noqa: E731
    return Values(
        reward=mean(pi, jnp.sum(sequence_rewards(task, listed, log_pi.dtype), axis=1)),
        divergence=divergences.exact(div, params, log_pi, log_ref),
        kl_pi_ref=of("kl_pi_ref"),
        kl_ref_pi=of("kl_ref_pi"),
        entropy=mean(pi, -log_pi),
        typicality=mean(pi, log_ref),
        length=mean(pi, length),
        length_ref=mean(jnp.exp(log_ref), length),
        gold_reward=None if task.gold is None else mean(pi, jnp.asarray(task.gold, pi.dtype)[listed.states[:, -1]]),
    )
