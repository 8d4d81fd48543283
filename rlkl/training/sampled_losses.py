"""Losses of one training step: pure functions of settings, an objective and a batch, sampled, counted or enumerated."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl import algorithms, divergences, exact, policies, surrogates
from rlkl.divergences import Params
from rlkl.exact import Objective
from rlkl.penalties import estimators, importance, mismatch, terms
from rlkl.penalties.mismatch import Mismatch
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions
from rlkl.settings import STEERED, PenaltySettings, Settings
from rlkl.training import dynamic_sampling, exact_losses, reward_shaping, spec

T = TypeVar("T")
LOGGED = ("k1", "k2", "k3")  # estimates of KL(pi‖pi_ref) that are logged of every batch
# folded into the key of samples from the reference, and of dropout; training folds in its steps, from 0
REFERENCE, DROPOUT = 2**31 - 3, 2**31 - 5


class BatchStats(NamedTuple):
    """What is logged of a batch; NaN where there is nothing to log.

    Only reward and controller_kl are computed in every step: the next steps read them.

    reward: mean return, less the penalty where it is in the reward.
    kl: mean k1, k2 and k3 per sequence, in nats.
    controller_kl: the KL(pi‖pi_ref) in nats that a controller compares with its target. It is exact with exact gradients, else
    estimated by `_controller_kl`: k1's noise in one batch is half of a target of 0.1 nats, and k3 is too low where KL is large.
    beta_effective: where advantages are scaled, the coefficient that the penalty would have beside unscaled ones.
    zero_std: share of groups with equal rewards among those drawn, where the batch has several groups or drops them.
    clamped, truncated: shares of log-ratios and of importance weights that `penalty.clamp` and the weights' limits changed.
    touched: share of the tokens' gradients that the surrogate changed in the last update on the batch.
    mismatch: of policy and sampler; None where the sampler is the policy.
    """

    reward: Float[Array, ""]
    kl: dict[str, Float[Array, ""]]
    controller_kl: Float[Array, ""]
    beta_effective: Float[Array, ""]
    zero_std: Float[Array, ""]
    clamped: Float[Array, ""]
    truncated: Float[Array, ""]
    touched: Float[Array, ""]
    mismatch: Mismatch | None = None


def empty_stats(reward: Float[Array, ""], controller_kl: Float[Array, ""]) -> BatchStats:
    """The statistics of a step without a batch: NaN but for these two."""
    none = jnp.full((), jnp.nan, reward.dtype)
    return BatchStats(reward, dict.fromkeys(LOGGED, none), controller_kl, none, none, none, none, none)


class Rollout(NamedTuple):
    """A batch, and the log-probabilities of policy and reference along it.

    sampler_log_pi: each token's log-probability as the sampler reported it; None where the sampler is the policy itself, and so
    is mismatch. zero_std: share of groups with equal rewards among those drawn; None where nothing depends on it.
    """

    batch: Batch
    positions: Positions
    sampler_log_pi: Float[Array, "N T"] | None
    mismatch: Mismatch | None
    zero_std: Float[Array, ""] | None = None


class Experience(NamedTuple):
    """The targets of a sampled step, which stay fixed while the policy is updated.

    old_log_pi: each token's log-probability under the old policy of the surrogate's ratio (`algorithm.old_log_probs`).
    importance_weight: None where all are 1.
    """

    old_log_pi: Float[Array, "N T"]
    advantages: Float[Array, "N T"]
    importance_weight: Float[Array, "N T"] | None
    batch_stats: BatchStats


def gather(
    settings: Settings, objective: Objective, sampler: AnyPolicy | None, policy: AnyPolicy, key: PRNGKeyArray
) -> Rollout:
    """Sample a batch from the sampler that `rollout` makes of the policy, or of `sampler` where that is not None.

    sampler: an older policy (`rollout.staleness`), or the one without dropout where `policy` has dropout. Groups of equal
    rewards are treated as `algorithm.zero_std` says.
    """
    automaton, reference, rollout = objective.task.automaton, objective.reference, settings.rollout
    size, groups = settings.batch_size, groups_of(settings)
    start = None if groups == 1 else sampling.prompt_starts(key, automaton, groups)
    if not rollout.off_policy and settings.algorithm.zero_std == "keep":
        return Rollout(*sampling.sample_with_positions(key, automaton, policy, reference, size, start), None, None)
    deployed = jax.lax.stop_gradient(policies.deployed(policy if sampler is None else sampler, rollout))
    batch, zero_std = _filtered_batch(settings, objective, deployed.policy, start, key)
    positions = scoring.positions(automaton, policy, reference, batch)
    if not rollout.off_policy:
        return Rollout(batch, positions, None, None, zero_std)
    sampler_log_pi = scoring.token_log_probability(deployed.reported, batch)
    kept_mass = scoring.kept_mass(automaton, policy, deployed.policy, batch) if rollout.truncates else None
    log_pi = positions.at_tokens(positions.log_pi, batch)
    return Rollout(batch, positions, sampler_log_pi, mismatch.measure(log_pi, sampler_log_pi, kept_mass, batch), zero_std)


def _filtered_batch(
    settings: Settings,
    objective: Objective,
    sampler: AnyPolicy,
    start: Int[Array | np.ndarray, " groups"] | None,
    key: PRNGKeyArray,
) -> tuple[Batch, Float[Array, ""] | None]:
    """A batch of the sampler, without groups of equal rewards if `algorithm.zero_std` says so.

    Also returns the share of such groups among those drawn; None where they are kept.
    """
    automaton, size, zero_std = objective.task.automaton, settings.batch_size, settings.algorithm.zero_std
    if zero_std == "resample":

        def draw(key: PRNGKeyArray) -> Batch:
            return sampling.sample(
                key, automaton, sampler, size, sampling.independent_starts(key, automaton, groups_of(settings))
            )

        batch, equal, share = dynamic_sampling.draw_until_unequal(draw, objective.task, key)
        return dynamic_sampling.without_groups(batch, equal), share
    batch = sampling.sample(key, automaton, sampler, size, start)
    if zero_std == "keep":
        return batch, None
    equal = dynamic_sampling.has_equal_rewards(objective.task, batch)
    return dynamic_sampling.without_groups(batch, equal), jnp.mean(equal.astype(batch.weight.dtype))


def groups_of(settings: Settings) -> int:
    """The number of groups in a batch."""
    return 1 if settings.algorithm.group_size is None else settings.batch_size // settings.algorithm.group_size


def with_dropout(settings: Settings, policy: AnyPolicy, key: PRNGKeyArray) -> AnyPolicy:
    """The policy as the trainer evaluates it in one step: with `rollout.dropout` where that is set."""
    if settings.rollout.dropout is None:
        return policy
    return policies.transformer.dropped(policy, settings.rollout.dropout, jax.random.fold_in(key, DROPOUT))


def experience(
    settings: Settings,
    objective: Objective,
    positions: Positions,
    batch: Batch,
    baseline: Float[Array, ""],
    sampler_log_pi: Float[Array, "N T"] | None = None,
    logged: Bool[Array, ""] | bool = True,
    zero_std: Float[Array, ""] | None = None,
) -> Experience:
    """The advantages, importance weights and statistics of a batch.

    baseline: moving average of earlier batches' returns. sampler_log_pi, zero_std: as in `Rollout`. logged: whether the step's
    statistics are logged; those that only the log reads are NaN where not.
    """
    penalty, beta = settings.penalty, objective.beta
    positions = jax.lax.stop_gradient(positions)
    log_pi = positions.at_tokens(positions.log_pi, batch)
    penalty_terms = terms.make_terms(penalty, log_pi.dtype)
    cost, future_kl = penalty_terms.in_reward(positions, batch), penalty_terms.future_kl(positions, batch)
    rewards = exact.sequence_rewards(objective.task, batch, log_pi.dtype)
    if reward_shaping.by_batch(settings.reward_shaping, objective.task):
        log_ref = jnp.sum(positions.at_tokens(positions.log_ref, batch), axis=1)
        rewards = reward_shaping.on_batch(settings, objective.task, beta, rewards, jnp.sum(log_pi, axis=1), log_ref, batch)
    if penalty.credit == "reward_to_go":
        cost = algorithms.returns_to_go(cost)
    cost = cost + algorithms.returns_to_go(future_kl) - future_kl
    returns = algorithms.returns_to_go(rewards) - beta * cost
    advantages = algorithms.advantages(settings.algorithm, returns, batch, baseline)
    importance_weight, limited_weights, old_log_pi = None, None, log_pi
    if sampler_log_pi is not None:
        importance_weight, limited_weights = importance.weights(penalty, log_pi, sampler_log_pi, advantages, batch)
        if settings.algorithm.old_log_probs == "reported":
            old_log_pi = sampler_log_pi

    def statistics() -> BatchStats:
        beta_effective = equal = jnp.full((), jnp.nan, log_pi.dtype)
        factor = algorithms.effective_factor(settings.algorithm, returns, batch)
        if factor is not None:
            beta_effective = beta / factor if penalty.placement == "loss" else jnp.asarray(beta, log_pi.dtype)
        if zero_std is not None:
            equal = zero_std
        elif groups_of(settings) > 1:
            equal = jnp.mean(dynamic_sampling.has_equal_rewards(objective.task, batch).astype(log_pi.dtype))
        clamped, truncated = terms.saturation(penalty, positions, batch)
        truncated = truncated if limited_weights is None else limited_weights
        u = terms.log_ratio(positions, batch)
        sums = jnp.stack([jnp.sum(estimators.REGISTRY[name](u), axis=1) for name in LOGGED])
        kl = dict(zip(LOGGED, jnp.matmul(sums, batch.weight, precision=jax.lax.Precision.HIGHEST), strict=True))
        untouched = jnp.full((), jnp.nan, log_pi.dtype)
        return BatchStats(reward, kl, controller_kl, beta_effective, equal, clamped, truncated, untouched)

    reward, controller_kl = batch.mean(returns[:, 0]), _controller_kl(penalty, positions, batch)
    batch_stats = _if_logged(logged, statistics, empty_stats(reward, controller_kl))
    return Experience(old_log_pi, advantages, importance_weight, batch_stats)


def _if_logged(logged: Bool[Array, ""] | bool, statistics: Callable[[], T], otherwise: T) -> T:
    """The statistics of a logged step, else `otherwise`; they are computed only where they are logged."""
    return statistics() if logged is True else jax.lax.cond(logged, statistics, lambda: otherwise)


def surrogate(
    settings: Settings, beta: Float[Array, ""] | float, positions: Positions, batch: Batch, experience: Experience
) -> Float[Array, ""]:
    """Loss of a sampled step: the algorithm's and the penalty's loss of each token, summed and aggregated."""
    algorithm, log_pi = settings.algorithm, positions.at_tokens(positions.log_pi, batch)
    per_token = surrogates.token_loss(log_pi, experience.old_log_pi, experience.advantages, batch, algorithm).loss
    per_token = per_token + beta * terms.make_terms(settings.penalty, log_pi.dtype).in_loss(positions, batch)
    if algorithm.entropy_coef is not None:
        entropy = exact.mean(jnp.exp(positions.log_pi), -positions.log_pi)
        per_token = per_token - algorithm.entropy_coef * positions.at_positions(entropy, batch)
    if experience.importance_weight is not None:
        per_token = experience.importance_weight * per_token
    return algorithms.aggregate(algorithm.loss_aggregation, per_token, batch)


def touched(
    settings: Settings,
    read_positions: Callable[[], Positions],
    batch: Batch,
    experience: Experience,
    logged: Bool[Array, ""] | bool = True,
) -> Float[Array, ""]:
    """The share of the tokens' gradients that the surrogate changes in an update; NaN without one, or where not logged.

    read_positions: returns the positions of the policy before this update; it is called only where they are needed.
    """
    none = jnp.full((), jnp.nan, experience.old_log_pi.dtype)
    if settings.algorithm.surrogate == "none":
        return none

    def share() -> Float[Array, ""]:
        positions, mask = jax.lax.stop_gradient(read_positions()), jnp.asarray(batch.mask)
        log_pi = positions.at_tokens(positions.log_pi, batch)
        found = surrogates.token_loss(log_pi, experience.old_log_pi, experience.advantages, batch, settings.algorithm).touched
        count = batch.mean(jnp.sum(mask.astype(log_pi.dtype), axis=1))
        return batch.mean(jnp.sum(jnp.where(mask, found, 0.0), axis=1)) / count

    return _if_logged(logged, share, none)


def loss(
    settings: Settings,
    objective: Objective,
    policy: AnyPolicy,
    baseline: Float[Array, ""],
    key: PRNGKeyArray,
    sampler: AnyPolicy | None = None,
    logged: Bool[Array, ""] | bool = True,
) -> tuple[Array, BatchStats]:
    """Loss of a step of one update, and the statistics of its batch; the objective's leaves are in the training dtype.

    logged: as in `experience`.
    """
    if algorithms.gradient_kind(settings.algorithm.name) == "exact":
        value = exact_losses.loss(settings.algorithm, objective, policy, spec.utility_group(settings))
        controlled = settings.penalty.controller in STEERED
        controller_kl = exact_losses.controller_kl(objective, policy) if controlled else jnp.nan
        return value, empty_stats(-value, jnp.asarray(controller_kl, value.dtype))
    batch, positions, sampler_log_pi, mismatched, zero_std = gather(settings, objective, sampler, policy, key)
    targets = experience(settings, objective, positions, batch, baseline, sampler_log_pi, logged, zero_std)
    value = surrogate(settings, objective.beta, positions, batch, targets)
    share = touched(settings, lambda: positions, batch, targets, logged)
    stats = targets.batch_stats._replace(touched=share, mismatch=mismatched)
    return value + off_batch_penalty(settings, objective, policy, key), stats


def _controller_kl(penalty: PenaltySettings, positions: Positions, batch: Batch) -> Float[Array, ""]:
    """Estimate of KL(pi‖pi_ref) on a batch for a controller, summed over the vocabulary at each position; NaN without one
    (Amini et al. 2025, "Better estimation of the Kullback-Leibler divergence between language models", arXiv 2504.10637)."""
    if penalty.controller not in STEERED:
        return jnp.full((), jnp.nan, positions.log_pi.dtype)
    rows = estimators.full(divergences.REGISTRY["kl_pi_ref"], Params(), positions.log_pi, positions.log_ref)
    return batch.mean(jnp.sum(positions.at_positions(rows, batch), axis=1))


def off_batch_penalty(
    settings: Settings, objective: Objective, policy: AnyPolicy, key: PRNGKeyArray
) -> Float[Array, ""] | float:
    """Penalty that does not come from the policy's batch: exact, or estimated on samples of the reference; else 0.

    It is multiplied by beta.
    """
    automaton, div, reference = objective.task.automaton, objective.divergence, objective.reference
    if div is None or settings.penalty.sampler == "policy":
        return 0.0
    if settings.penalty.sampler == "exact":
        return objective.beta * exact.between(automaton, div, objective.params, policy, reference)
    key = jax.random.fold_in(key, REFERENCE)
    start = None if automaton.prompts == 1 else sampling.prompt_starts(key, automaton, groups_of(settings))
    batch = sampling.sample(key, automaton, reference, settings.batch_size, start)
    positions = scoring.positions(automaton, policy, reference, batch)
    return objective.beta * terms.from_reference(settings.penalty, positions, batch)
