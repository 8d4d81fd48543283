"""Exact values of policies, by dynamic programming over an automaton or by enumeration of all sequences.

On a task with several prompts a value is the mean over prompts, by their weights, of the value given the prompt. Dynamic
programs are for table policies: tables of log-probabilities by position and state. Where the sequences are few enough to
enumerate, any policy is a bandit over them. Nothing is sampled, and all is differentiable: `jax.grad` of these values is the
exact policy gradient, the KL of later tokens included. Values are in nats per sequence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlkl import divergences
from rlkl.divergences import Divergence, Params
from rlkl.exact.by_prompt import average, rows_at_start, split_sequences, sum_states
from rlkl.exact.methods import evaluation_method, has_exact_divergence
from rlkl.exact.objective import Objective
from rlkl.policies import AnyPolicy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, at_last_token, enumerate_all, joint_log_probability
from rlkl.tasks.automaton import Automaton, Task


class Values(NamedTuple):
    """Values of a policy on a task: scalars, or a number for each prompt, in nats per sequence.

    reward includes the typicality reward. divergence is D, NaN where `has_exact_divergence` says that it is not known exactly.
    typicality is E[log pi_ref(y)]. length and length_ref are the expected numbers of tokens under the policy and the reference.
    gold_reward is None where the task has no gold reward.
    """

    reward: Float[Array, "*P"]
    divergence: Float[Array, "*P"]
    kl_pi_ref: Float[Array, "*P"]
    kl_ref_pi: Float[Array, "*P"]
    entropy: Float[Array, "*P"]
    typicality: Float[Array, "*P"]
    length: Float[Array, "*P"]
    length_ref: Float[Array, "*P"]
    gold_reward: Float[Array, "*P"] | None = None


def occupancy(automaton: Automaton, log_pi: Float[Array, "T D V"]) -> Float[Array, "T D"]:
    """The probability that a policy is in each decision state at each position."""
    following = jnp.asarray(automaton.inner_next.ravel())
    start = jnp.asarray(automaton.initial, log_pi.dtype)

    def step(visits, rows):
        flow = visits[:, None] * jnp.exp(rows)
        next_visits = jax.ops.segment_sum(flow.ravel(), following, automaton.decisions + 1)[:-1]
        return next_visits, next_visits

    _, later = jax.lax.scan(step, start, log_pi[:-1])
    return jnp.concatenate([start[None], later])


def outcome_probabilities(automaton: Automaton, log_pi: Float[Array, "T D V"]) -> Float[Array, " S"]:
    """The probability that a sequence of the policy ends in each state."""
    visits = occupancy(automaton, log_pi)
    flow = jnp.where(automaton.ends, visits[:, :, None] * jnp.exp(log_pi), 0.0)
    end_states = np.broadcast_to(np.maximum(automaton.next_state, 0), flow.shape)
    return jax.ops.segment_sum(flow.ravel(), jnp.asarray(end_states.ravel()), automaton.states)


def token_rewards(task: Task, dtype) -> Float[Array, "T D V"]:
    """The reward of each token: the end state's reward where the token ends the sequence, plus the typicality reward."""
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
) -> Float[Array, "*P"]:
    """D, for each prompt, of a divergence that is affine in sum_y pi(y)^a pi_ref(y)^(1-a), by a backward recursion over tokens.

    D from a state on is the divergence of the next token's distributions, plus, for each token, pi^a pi_ref^(1-a) times D from
    the state that it leads to. Subtracting 1 from the sum itself would lose every D below 1e-16 to rounding.
    """
    following, ends = jnp.asarray(automaton.inner_next), jnp.asarray(automaton.ends)
    a = div.limit("chain", params, log_pi.dtype)
    in_both = (log_pi > -jnp.inf) & (log_ref > -jnp.inf)
    exponent = a * jnp.where(in_both, log_pi, 0.0) + (1.0 - a) * jnp.where(in_both, log_ref, 0.0)
    weight = jnp.where(in_both, jnp.exp(exponent), 0.0)  # elsewhere `rows` already holds f's limit, finite or not

    def step(next_divergence, inputs):
        weights, rows, end = inputs
        later = jnp.where(end, 0.0, jnp.append(next_divergence, jnp.zeros((), next_divergence.dtype))[following])
        return rows + jnp.sum(times_or_zero(weights, later), axis=-1), None

    rows = divergences.exact(div, params, log_pi, log_ref)
    last = jnp.zeros((automaton.decisions,), log_pi.dtype)
    first, _ = jax.lax.scan(step, last, (weight, rows, ends), reverse=True)
    return rows_at_start(automaton, first)


def sequence_divergence(
    automaton: Automaton, div: Divergence, params: Params, log_pi: Float[Array, "T D V"], log_ref: Float[Array, "T D V"]
) -> Float[Array, ""]:
    """D between the distributions of whole sequences; NaN where `has_exact_divergence` says that it is not known exactly."""
    return average(automaton, prompt_divergences(automaton, div, params, log_pi, log_ref))


def prompt_divergences(
    automaton: Automaton, div: Divergence, params: Params, log_pi: Float[Array, "T D V"], log_ref: Float[Array, "T D V"]
) -> Float[Array, "*P"]:
    """D, for each prompt, between the distributions of whole sequences; NaN as for `sequence_divergence`."""
    if automaton.horizon == 1:
        return divergences.exact(div, params, *(rows_at_start(automaton, table[0]) for table in (log_pi, log_ref)))
    if div.chain == "both":
        directions = (divergences.REGISTRY[name] for name in ("kl_pi_ref", "kl_ref_pi"))
        kls = (prompt_divergences(automaton, kl, params, log_pi, log_ref) for kl in directions)
        weights = (jnp.asarray(weight, log_pi.dtype) for weight in params.weights)
        first, second = (times_or_zero(weight, kl) for weight, kl in zip(weights, kls, strict=True))
        return first + second
    if isinstance(div.chain, tuple):
        parts = [
            weight * prompt_divergences(automaton, divergences.REGISTRY[name], params, log_pi, log_ref)
            for name, weight in div.chain
        ]
        return jnp.sum(jnp.stack(parts), axis=0)
    if div.chain in ("policy", "reference"):
        visits = occupancy(automaton, log_pi if div.chain == "policy" else log_ref)
        return visited_by_prompt(automaton, visits, divergences.exact(div, params, log_pi, log_ref))
    if div.chain is None:
        if not has_exact_divergence(automaton, div):
            return rows_at_start(automaton, jnp.full((automaton.decisions,), jnp.nan, log_pi.dtype))
        sequences = enumerate_all(automaton)
        totals = (jnp.sum(scoring.entries_along(table, sequences), axis=1) for table in (log_pi, log_ref))
        return divergences.exact(div, params, *(split_sequences(automaton, total, -jnp.inf) for total in totals))
    return power_divergence(automaton, div, params, log_pi, log_ref)


def times_or_zero(weight: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """weight * value, but 0 where the weight is 0, even if the value is infinite. Its gradient is finite there, too."""
    return jnp.where(weight == 0.0, 0.0, weight * jnp.where(weight == 0.0, 0.0, value))


def visited(occupancy: Float[Array, "T D"], rows: Float[Array, "T D"]) -> Float[Array, ""]:
    """The expected sum along a sequence of a quantity of each state, which may be infinite in states that are never visited."""
    return jnp.sum(times_or_zero(occupancy, rows))


def visited_by_prompt(automaton: Automaton, occupancy: Float[Array, "T D"], rows: Float[Array, "T D"]) -> Float[Array, "*P"]:
    """As `visited`, for each prompt."""
    if automaton.prompts == 1:
        return visited(occupancy, rows)
    return sum_states(automaton, jnp.sum(times_or_zero(occupancy, rows), axis=0))


def mean(probability: Float[Array, "*rows V"], values: Float[Array, "*rows V"]) -> Float[Array, "*rows"]:
    """The expectation of `values` over the last axis; a value of probability zero may be infinite."""
    return jnp.sum(times_or_zero(probability, values), axis=-1)


def objective_value(objective: Objective, log_pi: Float[Array, "T D V"]) -> Float[Array, ""]:
    """J = E[r] - beta D of a table policy (log_pi), where the reference is a table, too."""
    task, div = objective.task, objective.divergence
    visits = occupancy(task.automaton, log_pi)
    reward = visited(visits, mean(jnp.exp(log_pi), token_rewards(task, log_pi.dtype)))
    if div is None:
        return reward
    divergence = sequence_divergence(task.automaton, div, objective.params, log_pi, table_of(objective.reference))
    return objective.value(reward, divergence)


def values(objective: Objective, log_pi: Float[Array, "T D V"]) -> Values:
    """All exact values of a table policy (log_pi), where the reference is a table, too."""
    return jax.tree.map(lambda x: average(objective.task.automaton, x), prompt_values(objective, log_pi))


def prompt_values(objective: Objective, log_pi: Float[Array, "T D V"]) -> Values:
    """The values of `values`, for each prompt."""
    task, div, params, log_ref = objective.task, objective.measured, objective.params, table_of(objective.reference)
    automaton = task.automaton
    visits, visits_ref = occupancy(automaton, log_pi), occupancy(automaton, log_ref)
    pi, gold_reward = jnp.exp(log_pi), None
    if task.gold is not None:
        golds = times_or_zero(outcome_probabilities(automaton, log_pi), jnp.asarray(task.gold, log_pi.dtype))
        gold_reward = sum_states(automaton, golds)
    rows = {name: divergences.exact(divergences.REGISTRY[name], params, log_pi, log_ref) for name in ("kl_pi_ref", "kl_ref_pi")}
    kls = {
        "kl_pi_ref": visited_by_prompt(automaton, visits, rows["kl_pi_ref"]),
        "kl_ref_pi": visited_by_prompt(automaton, visits_ref, rows["kl_ref_pi"]),
    }
    return Values(
        reward=visited_by_prompt(automaton, visits, mean(pi, token_rewards(task, log_pi.dtype))),
        divergence=kls[div.name] if div.name in kls else prompt_divergences(automaton, div, params, log_pi, log_ref),
        **kls,
        entropy=visited_by_prompt(automaton, visits, mean(pi, -log_pi)),
        typicality=visited_by_prompt(automaton, visits, mean(pi, log_ref)),
        length=_lengths(automaton, visits),
        length_ref=_lengths(automaton, visits_ref),
        gold_reward=gold_reward,
    )


def _lengths(automaton: Automaton, visits: Float[Array, "T D"]) -> Float[Array, "*P"]:
    """The expected number of tokens, for each prompt."""
    return jnp.sum(visits) if automaton.prompts == 1 else sum_states(automaton, jnp.sum(visits, axis=0))


def between(automaton: Automaton, div: Divergence, params: Params, policy: AnyPolicy, reference: AnyPolicy) -> Float[Array, ""]:
    """D between the distributions of sequences of two policies, by dynamic program where possible, else by enumeration."""
    if evaluation_method(automaton, (policy, reference), div) == "dynamic program":
        return sequence_divergence(automaton, div, params, table_of(policy), table_of(reference))
    sequences = enumerate_all(automaton)
    totals = (scoring.log_probability(each, sequences) for each in (policy, reference))
    return divergences.exact(div, params, *(joint_log_probability(automaton, sequences, total) for total in totals))


def entropy(automaton: Automaton, policy: AnyPolicy) -> Float[Array, ""]:
    """The entropy of a policy's distribution of sequences, by dynamic program for a table, else by enumeration."""
    if evaluation_method(automaton, (policy,)) == "dynamic program":
        log_pi = table_of(policy)
        return visited(occupancy(automaton, log_pi), mean(jnp.exp(log_pi), -log_pi))
    sequences = enumerate_all(automaton)
    log_pi = scoring.log_probability(policy, sequences)
    return mean(jnp.exp(joint_log_probability(automaton, sequences, log_pi)), -log_pi)


def sequence_rewards(task: Task, batch: Batch, dtype) -> Float[Array, "N T"]:
    """The reward of each token of a batch, without any penalty. A reward model's score is added at the last token."""
    rewards = scoring.entries_along(token_rewards(task, dtype), batch)
    if task.reward_model is None:
        return rewards
    model = jax.tree.map(lambda x: jnp.asarray(x, dtype), task.reward_model)
    scores = jax.vmap(model)(jnp.asarray(batch.tokens), jnp.asarray(batch.mask))
    return rewards + at_last_token(batch, scores)


def enumerated_objective(
    objective: Objective, sequences: Batch, log_pi: Float[Array, " N"], log_ref: Float[Array, " N"]
) -> Float[Array, ""]:
    """J of any policy, from its and the reference's log-probabilities of all sequences (`enumerate_all`)."""
    automaton = objective.task.automaton
    log_pi, log_ref = (joint_log_probability(automaton, sequences, each) for each in (log_pi, log_ref))
    reward = mean(jnp.exp(log_pi), jnp.sum(sequence_rewards(objective.task, sequences, log_pi.dtype), axis=1))
    if objective.divergence is None:
        return reward
    return objective.value(reward, divergences.exact(objective.divergence, objective.params, log_pi, log_ref))


def enumerated_values(
    objective: Objective, sequences: Batch, log_pi: Float[Array, " N"], log_ref: Float[Array, " N"]
) -> Values:
    """All exact values of any policy, from its and the reference's log-probabilities of all sequences (`enumerate_all`)."""
    of_prompts = enumerated_prompt_values(objective, sequences, log_pi, log_ref)
    return jax.tree.map(lambda x: average(objective.task.automaton, x), of_prompts)


def enumerated_prompt_values(
    objective: Objective, sequences: Batch, log_pi: Float[Array, " N"], log_ref: Float[Array, " N"]
) -> Values:
    """The values of `enumerated_values`, for each prompt."""
    task, div, params = objective.task, objective.measured, objective.params
    reward = jnp.sum(sequence_rewards(task, sequences, log_pi.dtype), axis=1)
    length = jnp.sum(jnp.asarray(sequences.mask, log_pi.dtype), axis=1)
    gold = None if task.gold is None else jnp.asarray(task.gold, log_pi.dtype)[sequences.states[:, -1]]
    log_pi, log_ref = (split_sequences(task.automaton, each, -jnp.inf) for each in (log_pi, log_ref))
    reward, length = (split_sequences(task.automaton, each, 0.0) for each in (reward, length))
    pi = jnp.exp(log_pi)
    return Values(
        reward=mean(pi, reward),
        divergence=divergences.exact(div, params, log_pi, log_ref),
        kl_pi_ref=divergences.exact(divergences.REGISTRY["kl_pi_ref"], params, log_pi, log_ref),
        kl_ref_pi=divergences.exact(divergences.REGISTRY["kl_ref_pi"], params, log_pi, log_ref),
        entropy=mean(pi, -log_pi),
        typicality=mean(pi, log_ref),
        length=mean(pi, length),
        length_ref=mean(jnp.exp(log_ref), length),
        gold_reward=None if gold is None else mean(pi, split_sequences(task.automaton, gold, 0.0)),
    )
