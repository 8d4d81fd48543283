"""Losses of a training step: pure functions of settings, an objective and a batch, whichever way the batch was made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import algorithms, divergences, exact, policies
from rlkl.divergences import Params
from rlkl.exact import Objective
from rlkl.penalties import estimators, importance, terms
from rlkl.policies import AnyPolicy, cast
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, float_of
from rlkl.settings import STEERED, PenaltySettings, Settings
from rlkl.training import exact_losses, reward_shaping

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


def gather(
    settings: Settings, objective: Objective, sampler: AnyPolicy | None, policy: AnyPolicy, key: PRNGKeyArray
) -> Gathered:
    """A batch for the policy to learn from, drawn from it, or from a `sampler` of its own (`rollout.staleness`), its
    log-probabilities rounded where `rollout.log_prob_dtype` says so."""
    automaton, reference = objective.task.automaton, objective.reference
    if settings.rollout.log_prob_dtype is not None:
        sampler = policies.rounded(policy if sampler is None else sampler, settings.rollout.log_prob_dtype)
    if sampler is None:
        return Gathered(*sampling.sample_with_positions(key, automaton, policy, reference, settings.batch_size), None)
    batch = sampling.sample(key, automaton, sampler, settings.batch_size)
    reported = jax.lax.stop_gradient(scoring.token_log_probability(sampler, batch))
    return Gathered(batch, scoring.positions(automaton, policy, reference, batch), reported)


def experience(
    settings: Settings,
    objective: Objective,
    positions: Positions,
    batch: Batch,
    baseline: Float[Array, ""],
    reported: Float[Array, "N T"] | None = None,
) -> Experience:
    """The advantages of a batch, its importance weights where the sampler `reported` log-probabilities of its own, and what is
    logged."""
    penalty, beta = settings.penalty, objective.beta
    positions = jax.lax.stop_gradient(positions)
    log_pi = positions.at_tokens(positions.log_pi, batch)
    penalty_terms = terms.make_terms(penalty, log_pi.dtype)
    cost, later = penalty_terms.in_reward(positions, batch), penalty_terms.future_kl(positions, batch)
    rewards = exact.sequence_rewards(objective.task, batch, log_pi.dtype)
    if reward_shaping.by_batch(settings.reward_shaping, objective.task):
        log_ref = jnp.sum(positions.at_tokens(positions.log_ref, batch), axis=1)
        rewards = reward_shaping.on_batch(settings, beta, rewards, jnp.sum(log_pi, axis=1), log_ref, batch)
    if penalty.credit == "reward_to_go":
        cost = algorithms.returns_to_go(cost)
    cost = cost + algorithms.returns_to_go(later) - later
    returns = algorithms.returns_to_go(rewards) - beta * cost
    algorithm = algorithms.REGISTRY[settings.algorithm.name]
    advantages = algorithm.advantage(returns, batch, baseline)
    effective = jnp.full((), jnp.nan, log_pi.dtype)
    if algorithm.factor is not None:
        scaled = penalty.placement == "loss"
        effective = beta / algorithm.factor(returns, batch) if scaled else jnp.asarray(beta, effective.dtype)
    clamped, truncated = terms.saturation(penalty, positions, batch)
    weight = None
    if reported is not None:
        weight, cut = importance.weights(penalty, log_pi, reported, batch)
        truncated = truncated if cut is None else cut
    u = terms.log_ratio(positions, batch)
    kl = {name: jnp.sum(batch.weight * jnp.sum(estimators.REGISTRY[name](u), axis=1)) for name in LOGGED}
    reward, steered_by = jnp.sum(batch.weight * returns[:, 0]), _steering(penalty, positions, batch)
    return Experience(log_pi, advantages, weight, BatchStats(reward, kl, steered_by, effective, clamped, truncated))


def surrogate(
    settings: Settings, beta: Float[Array, ""] | float, positions: Positions, batch: Batch, learned: Experience
) -> Float[Array, ""]:
    """Loss of a sampled step: the algorithm's loss of each token and the penalty's, aggregated alike."""
    algorithm, log_pi = settings.algorithm, positions.at_tokens(positions.log_pi, batch)
    if algorithms.REGISTRY[algorithm.name].clipped:
        per_token = algorithms.clipped_loss(log_pi, learned.log_pi, learned.advantages, algorithm.clip)
    else:
        per_token = algorithms.score_loss(log_pi, learned.advantages)
    per_token = per_token + beta * terms.make_terms(settings.penalty, log_pi.dtype).in_loss(positions, batch)
    if algorithm.entropy_coef is not None:
        entropy = exact.mean(jnp.exp(positions.log_pi), -positions.log_pi)
        per_token = per_token - algorithm.entropy_coef * jnp.where(batch.mask, entropy[positions.row], 0.0)
    if learned.weight is not None:
        per_token = learned.weight * per_token
    return algorithms.aggregate(algorithm.loss_aggregation, per_token, batch)


def loss(
    settings: Settings,
    objective: Objective,
    policy: AnyPolicy,
    baseline: Float[Array, ""],
    key: PRNGKeyArray,
    sampler: AnyPolicy | None = None,
) -> tuple[Array, BatchStats]:
    """Loss of a step of one epoch, and what is logged of its batch; the objective's leaves are in the training dtype."""
    if algorithms.gradient_kind(settings.algorithm.name) == "exact":
        value = exact_losses.loss(settings.algorithm, objective, policy)
        steered = settings.penalty.controller in STEERED
        steered_by = exact_losses.steering_kl(objective, policy) if steered else jnp.nan
        return value, empty_stats(-value, jnp.asarray(steered_by, value.dtype))
    batch, positions, reported = gather(settings, objective, sampler, policy, key)
    learned = experience(settings, objective, positions, batch, baseline, reported)
    value = surrogate(settings, objective.beta, positions, batch, learned)
    return value + off_batch_penalty(settings, objective, policy, key), learned.seen


def _steering(penalty: PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, ""]:
    """The batch's KL(pi‖pi_ref) with the expectation over each next token taken (Amini et al. 2025, "Better estimation of the
    Kullback-Leibler divergence between language models", arXiv 2504.10637), where a controller goes by it; else NaN."""
    if penalty.controller not in STEERED:
        return jnp.full((), jnp.nan, positions.log_pi.dtype)
    rows = estimators.full(divergences.REGISTRY["kl_pi_ref"], Params(), positions.log_pi, positions.log_ref)
    return jnp.sum(batch.weight * jnp.sum(jnp.where(batch.mask, rows[positions.row], 0.0), axis=1))


def off_batch_penalty(
    settings: Settings, objective: Objective, policy: AnyPolicy, key: PRNGKeyArray
) -> Float[Array, ""] | float:
    """Penalty that does not come from the policy's batch: exact, or estimated on samples of the reference; else 0."""
    automaton, div, reference = objective.task.automaton, objective.divergence, objective.reference
    if div is None or settings.penalty.sampler == "policy":
        return 0.0
    if settings.penalty.sampler == "exact":
        params = cast(objective.params, float_of(policy))
        return objective.beta * exact.between(automaton, div, params, policy, reference)
    batch = sampling.sample(jax.random.fold_in(key, REFERENCE), automaton, reference, settings.batch_size)
    at = scoring.positions(automaton, policy, reference, batch)
    return objective.beta * terms.from_reference(settings.penalty, at, batch)
