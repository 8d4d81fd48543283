"""What a policy is like along its sequences, where they end, and how far it is from the optimum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.evaluation import metrics
from rlkl.evaluation.metrics import LAST_SAMPLES
from rlkl.exact import Objective, optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Fixed, Policy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, enumerate_all, is_enumerable, laid_out
from rlkl.tasks.automaton import Task

TOP = (1, 5)  # of the reference's likeliest tokens


class Outcomes(NamedTuple):
    """Probabilities of the end states that can be reached, in state order. reward: NaN where a reward model reads more than
    the end state; gold: the gold reward, and decoded: under the decoding distribution, where there is one."""

    reward: Float[Array, " E"]
    reference: Float[Array, " E"]
    policy: Float[Array, " E"]
    optimum: Float[Array, " E"]
    gold: Float[Array, " E"] | None
    decoded: Float[Array, " E"] | None


class Detail(NamedTuple):
    """Entropy, KL and top-token mass of a policy along its sequences.

    alive: probability that position t is read; entropy_at, kl_at: mean entropy of the next token there, and its
    KL(pi||pi_ref), in nats (NaN where no sequence gets so far); top_mass: the mass on the reference's TOP likeliest tokens,
    per token read, and top_stderr its standard error where the sequences are a sample.
    """

    alive: Float[Array, " T"]
    entropy_at: Float[Array, " T"]
    kl_at: Float[Array, " T"]
    top_mass: Float[Array, " K"]
    top_stderr: Float[Array, " K"]


class WeightedRows(NamedTuple):
    """Rows of a policy and its reference at each position, their weights, and where sequences end: a table's decision
    states with their occupancy (K = D), or sequences with their probabilities (K = N)."""

    weight: Float[Array, "T K"]
    log_pi: Float[Array, "T K V"]
    log_ref: Float[Array, "T K V"]
    ends: Float[Array, " S"]


def weighted_rows(task: Task, policy: AnyPolicy, reference: AnyPolicy, key: PRNGKeyArray) -> WeightedRows:
    """A policy's rows and their weights: exact for two tables and where the sequences can be listed, else sampled."""
    automaton = task.automaton
    if isinstance(policy, Policy) and isinstance(reference, Policy):
        log_pi = policy.table()
        ends = exact.outcome_probabilities(automaton, log_pi)
        return WeightedRows(exact.occupancy(automaton, log_pi), log_pi, reference.table(), ends)
    if not is_enumerable(automaton):
        drawn = metrics.sample(automaton, policy, reference, key, LAST_SAMPLES)
        return weighted_rows_along(task, drawn.own, drawn.here)
    batch = enumerate_all(automaton)
    batch = batch._replace(weight=jnp.exp(scoring.log_probability(policy, batch)))
    return weighted_rows_along(task, batch, laid_out(*(scoring.rows_along(p, batch) for p in (policy, reference))))


def weighted_rows_along(task: Task, batch: Batch, at: Positions) -> WeightedRows:
    """The rows along a batch, each position with the weight of its sequence."""
    weight = jnp.where(batch.mask, jnp.asarray(batch.weight)[:, None], 0.0).T
    log_pi, log_ref = (rows[at.row.T] for rows in (at.log_pi, at.log_ref))
    ends = jax.ops.segment_sum(jnp.asarray(batch.weight), optimal_policy.final_states(batch), task.automaton.states)
    return WeightedRows(weight, log_pi, log_ref, ends)


def detail(seen: WeightedRows) -> Detail:
    """Entropy, KL and top-token mass along the sequences, from weighted rows."""
    weight, pi = seen.weight, jnp.exp(seen.log_pi)
    alive = jnp.sum(weight, axis=1)
    kl = divergences.exact(divergences.REGISTRY["kl_pi_ref"], Params(), seen.log_pi, seen.log_ref)
    sum_of = lambda rows: jnp.sum(jnp.where(weight > 0.0, weight * jnp.where(weight > 0.0, rows, 0.0), 0.0), axis=1)  # noqa: E731
    at = lambda rows: sum_of(rows) / jnp.where(alive > 0.0, alive, jnp.nan)  # noqa: E731

    def mass(k: int):
        likeliest = jax.lax.top_k(seen.log_ref, min(k, seen.log_ref.shape[-1]))[1]
        kept = jnp.sum(jnp.take_along_axis(pi, likeliest, axis=-1), axis=-1)
        share = jnp.sum(sum_of(kept)) / jnp.sum(alive)
        off = jnp.sum(jnp.where(weight > 0.0, weight * (kept - share), 0.0), axis=0)
        return share, jnp.sqrt(jnp.sum(jnp.square(off))) / jnp.sum(alive)

    top = [jnp.stack(pair) for pair in zip(*map(mass, TOP), strict=True)]
    return Detail(alive, at(exact.mean(pi, -seen.log_pi)), at(kl), *top)


def _ends_of_optimum(task: Task, reference: AnyPolicy, optimum: Optimum, key: PRNGKeyArray) -> Float[Array, " S"]:
    """End-state probabilities of an optimum that is no table: the reference's sequences, weighted by pi*/pi_ref."""
    automaton = task.automaton
    if is_enumerable(automaton):
        batch = enumerate_all(automaton)
        weight = jnp.exp(scoring.log_probability(reference, batch))
    else:
        batch = sampling.sample(key, automaton, reference, optimal_policy.SAMPLES)
        weight = jnp.asarray(batch.weight)
    log_ref = scoring.log_probability(reference, batch)
    share = jnp.exp(optimum.log_probability(batch, log_ref) - log_ref)
    ends = jax.ops.segment_sum(weight * share, optimal_policy.final_states(batch), automaton.states)
    return jnp.where(jnp.isnan(optimum.objective), jnp.nan, ends)


def distances(
    objective: Objective,
    policy: AnyPolicy,
    optimum: Optimum,
    key: PRNGKeyArray,
    drawn: metrics.Sample | None = None,
    size: int = LAST_SAMPLES,
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """KL(pi*||pi) and the total variation between pi* and pi, with their standard errors (0 where exact; NaN where the
    optimum is not one policy). `drawn`: sequences of the policy, where there are some already.

    Exact where the sequences can be listed, and KL(pi*||pi) between tables. Total variation is estimated as
    E_pi[(1 - pi*/pi)+]; KL(pi*||pi) from sequences of the optimum, or of the reference weighted by pi*/pi_ref.
    """
    automaton, reference = objective.task.automaton, objective.reference
    params, zero = Params(), jnp.zeros(())
    kl = divergences.REGISTRY["kl_pi_ref"]
    defined = lambda x: jnp.where(optimum.is_none, jnp.nan, x)  # noqa: E731
    if is_enumerable(automaton):
        listed = enumerate_all(automaton)
        log_pi, log_ref = scoring.log_probability(policy, listed), scoring.log_probability(reference, listed)
        best = optimum.log_probability(listed, log_ref)
        apart = 0.5 * jnp.sum(jnp.abs(jnp.exp(log_pi) - jnp.exp(best)))
        return {
            "kl_optimum_pi": (defined(divergences.exact(kl, params, best, log_pi)), zero),
            "tv_optimum": (defined(apart), zero),
        }
    own_key, best_key = jax.random.split(key)
    error = lambda x: jnp.std(x, ddof=1) / jnp.sqrt(jnp.asarray(size, x.dtype))  # noqa: E731
    own = sampling.sample(own_key, automaton, policy, size) if drawn is None else drawn.own
    at = scoring.positions(automaton, policy, reference, own) if drawn is None else drawn.here
    log_pi, log_ref = (jnp.sum(at.at_tokens(rows, own), axis=1) for rows in (at.log_pi, at.log_ref))
    missed = jnp.maximum(-jnp.expm1(optimum.log_probability(own, log_ref) - log_pi), 0.0)
    found = {"tv_optimum": (defined(jnp.mean(missed)), error(missed))}
    if optimum.log_pi is not None and isinstance(policy, Policy):
        exactly = exact.sequence_divergence(automaton, kl, params, optimum.log_pi, policy.table())
        return found | {"kl_optimum_pi": (defined(exactly), zero)}
    drawn_from = reference if optimum.log_pi is None else Fixed(optimum.log_pi, automaton.horizon)
    batch = sampling.sample(best_key, automaton, drawn_from, size)
    log_ref = scoring.log_probability(reference, batch)
    best = optimum.log_probability(batch, log_ref)
    share = jnp.exp(best - log_ref) if optimum.log_pi is None else jnp.ones_like(best)
    gap = jnp.where(share > 0.0, share * (jnp.where(share > 0.0, best, 0.0) - scoring.log_probability(policy, batch)), 0.0)
    return found | {"kl_optimum_pi": (defined(jnp.mean(gap)), error(gap))}
