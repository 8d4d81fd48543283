"""What a step descends: pure functions of a run, a policy and a batch, whichever way the batch was made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import algorithms, divergences, exact, policies, settings
from rlkl.divergences import Params
from rlkl.penalties import estimators, importance, options, terms
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, float_of
from rlkl.training import exact_losses, reward_shaping
from rlkl.training.spec import Run

LOGGED = ("k1", "k2", "k3")  # estimates of KL(pi‖pi_ref) that every batch is logged with
REFERENCE = 2**31 - 3  # purpose of a key; steps count from 0


class BatchStats(NamedTuple):
    """What is logged of a batch: NaN where there is nothing to log.

    reward: the mean return. kl: the mean k1, k2 and k3. steered_by: the KL(pi‖pi_ref) that a controller goes by: the batch's,
    summed over each next token instead of read off the one that was drawn (k1's noise of a batch is half of a target of .1
    nat; k3 is low where KL is large), or the exact one beside exact gradients; NaN where nothing is steered.
    beta_effective: the coefficient that the penalty is worth beside the unbiased advantages, where they are scaled. clamped,
    truncated: the shares of log-ratios and of importance weights that the settings' limits changed.
    """

    reward: Float[Array, ""]
    kl: dict[str, Float[Array, ""]]
    steered_by: Float[Array, ""]
    beta_effective: Float[Array, ""]
    clamped: Float[Array, ""]
    truncated: Float[Array, ""]


def empty_stats(reward: Float[Array, ""], steered_by: Float[Array, ""]) -> BatchStats:
    """What is logged without a batch."""
    none = jnp.full((), jnp.nan, reward.dtype)
    return BatchStats(reward, dict.fromkeys(LOGGED, none), steered_by, none, none, none)


class Gathered(NamedTuple):
    """A batch, the policy's and the reference's rows along it, and each token's log-probability as the sampler reported it;
    None where the sampler is the policy itself."""

    batch: Batch
    positions: Positions
    reported: Float[Array, "N T"] | None


class Experience(NamedTuple):
    """What a sampled step learns from, besides its batch: held fixed while the policy moves. weight: importance weights; None
    where all are 1."""

    log_pi: Float[Array, "N T"]  # of the tokens, under the policy before the step
    advantages: Float[Array, "N T"]
    weight: Float[Array, "N T"] | None
    seen: BatchStats


def gather(run: Run, sampler: AnyPolicy | None, policy: AnyPolicy, key: PRNGKeyArray) -> Gathered:
    """A batch for the policy to learn from, drawn from it, or from a `sampler` of its own (`rollout.staleness`), its
    log-probabilities rounded where `rollout.log_prob_dtype` says so."""
    chosen, automaton = run.settings, run.task.automaton
    if chosen.rollout.log_prob_dtype is not None:
        sampler = policies.rounded(policy if sampler is None else sampler, chosen.rollout.log_prob_dtype)
    if sampler is None:
        return Gathered(*sampling.sample_with_positions(key, automaton, policy, run.reference, chosen.batch_size), None)
    batch = sampling.sample(key, automaton, sampler, chosen.batch_size)
    reported = jax.lax.stop_gradient(scoring.token_log_probability(sampler, batch))
    return Gathered(batch, scoring.positions(automaton, policy, run.reference, batch), reported)


def experience(
    run: Run, positions: Positions, batch: Batch, baseline: Float[Array, ""], reported: Float[Array, "N T"] | None = None
) -> Experience:
    """The advantages of a batch, its importance weights where the sampler `reported` log-probabilities of its own, and what is
    logged."""
    chosen, task = run.settings, run.task
    positions = jax.lax.stop_gradient(positions)
    log_pi = positions.at(positions.log_pi, batch)
    made, beta = terms.make_terms(chosen.penalty, log_pi.dtype), chosen.penalty.beta
    taken, later = made.in_reward(positions, batch), made.later(positions, batch)
    earned = exact.sequence_rewards(task, batch, log_pi.dtype)
    if reward_shaping.by_batch(chosen.reward_shaping, task):
        log_ref = jnp.sum(positions.at(positions.log_ref, batch), axis=1)
        earned = reward_shaping.on_batch(chosen, earned, jnp.sum(log_pi, axis=1), log_ref, batch)
    if chosen.penalty.credit == "reward_to_go":
        taken = algorithms.returns_to_go(taken)
    taken = taken + algorithms.returns_to_go(later) - later
    returns = algorithms.returns_to_go(earned) - beta * taken
    algorithm = algorithms.REGISTRY[chosen.algorithm.name]
    advantages = algorithm.advantage(returns, batch, baseline)
    none = jnp.full((), jnp.nan, log_pi.dtype)
    worth = none
    if algorithm.factor is not None:
        worth = beta / algorithm.factor(returns, batch) if chosen.penalty.placement == "loss" else jnp.asarray(beta, none.dtype)
    clamped, truncated = terms.saturation(chosen.penalty, positions, batch)
    weight = None
    if reported is not None:
        weight, cut = importance.weights(chosen.penalty, log_pi, reported, batch)
        truncated = truncated if cut is None else cut
    u = terms.log_ratio(positions, batch)
    kl = {name: jnp.sum(batch.weight * jnp.sum(estimators.REGISTRY[name](u), axis=1)) for name in LOGGED}
    seen = BatchStats(jnp.sum(batch.weight * returns[:, 0]), kl, _steering(run, positions, batch), worth, clamped, truncated)
    return Experience(log_pi, advantages, weight, seen)


def surrogate(run: Run, positions: Positions, batch: Batch, learned: Experience) -> Float[Array, ""]:
    """What a sampled step descends: the algorithm's loss of each token and the penalty's, aggregated alike."""
    chosen = run.settings
    log_pi = positions.at(positions.log_pi, batch)
    if algorithms.REGISTRY[chosen.algorithm.name].clipped:
        per_token = algorithms.clipped_loss(log_pi, learned.log_pi, learned.advantages, chosen.algorithm.clip)
    else:
        per_token = algorithms.score_loss(log_pi, learned.advantages)
    per_token = per_token + chosen.penalty.beta * terms.make_terms(chosen.penalty, log_pi.dtype).in_loss(positions, batch)
    if chosen.algorithm.entropy_coef is not None:
        entropy = exact.mean(jnp.exp(positions.log_pi), -positions.log_pi)
        per_token = per_token - chosen.algorithm.entropy_coef * jnp.where(batch.mask, entropy[positions.row], 0.0)
    if learned.weight is not None:
        per_token = learned.weight * per_token
    return algorithms.aggregate(chosen.algorithm.loss_aggregation, per_token, batch)


def loss(
    run: Run, policy: AnyPolicy, baseline: Float[Array, ""], key: PRNGKeyArray, sampler: AnyPolicy | None = None
) -> tuple[Array, BatchStats]:
    """What a step of one epoch descends, and what is logged of its batch; the run's leaves are in the training dtype."""
    if algorithms.gradient_kind(run.settings.algorithm.name) == "exact":
        value = exact_losses.loss(run, policy)
        return value, empty_stats(-value, jnp.asarray(exact_losses.steering(run, policy), value.dtype))
    batch, positions, reported = gather(run, sampler, policy, key)
    learned = experience(run, positions, batch, baseline, reported)
    return surrogate(run, positions, batch, learned) + off_batch_penalty(run, policy, key), learned.seen


def _steering(run: Run, positions: Positions, batch: Batch) -> Float[Array, ""]:
    """The batch's KL(pi‖pi_ref) with the expectation over each next token taken (Amini et al. 2025, "Better estimation of the
    Kullback-Leibler divergence between language models", arXiv 2504.10637), where a controller goes by it; else NaN."""
    if run.settings.penalty.controller not in settings.STEERED:
        return jnp.full((), jnp.nan, positions.log_pi.dtype)
    rows = estimators.full(divergences.REGISTRY["kl_pi_ref"], Params(), positions.log_pi, positions.log_ref)
    return jnp.sum(batch.weight * jnp.sum(jnp.where(batch.mask, rows[positions.row], 0.0), axis=1))


def off_batch_penalty(run: Run, policy: AnyPolicy, key: PRNGKeyArray) -> Float[Array, ""] | float:
    """The penalty that is not read along the batch: the exact one, or the one along sequences of the reference; else 0."""
    chosen, automaton = run.settings, run.task.automaton
    div = options.divergence(chosen.penalty)
    if div is None or chosen.penalty.sampler == "policy":
        return 0.0
    if chosen.penalty.sampler == "exact":
        params = options.parameters(chosen.penalty, float_of(policy))
        return chosen.penalty.beta * exact.between(automaton, div, params, policy, run.reference)
    batch = sampling.sample(jax.random.fold_in(key, REFERENCE), automaton, run.reference, chosen.batch_size)
    at = scoring.positions(automaton, policy, run.reference, batch)
    return chosen.penalty.beta * terms.from_reference(chosen.penalty, at, batch)
