"""The training loop as pure functions: a run's first state, one training step, and one chunk of logged rows."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl.exact import Objective, optimal_policy
from rlkl.penalties import controllers, mismatch
from rlkl.policies import AnyPolicy, tempered
from rlkl.policies.base import cast, number_dtype
from rlkl.rollouts import scoring, threefry
from rlkl.settings import SCHEDULES, OptimizerSettings, ReferenceSettings, Settings
from rlkl.training import reward_shaping, sampled_losses, spec
from rlkl.training.observe import Row, observe
from rlkl.training.spec import Run, first_policy
from rlkl.training.state import State

ROWS = 10  # logged rows in a chunk


def optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """The optax optimiser with its learning-rate schedule, which falls to zero over the last `decay` share of the steps."""
    rate, decay_steps = settings.learning_rate, max(1, round(settings.decay * steps))
    if settings.schedule == "linear":
        rate = optax.linear_schedule(rate, 0.0, decay_steps, steps - decay_steps)
    elif settings.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(1.0, decay_steps)

        def rate(count):
            peak = settings.learning_rate
            return peak * cosine(jnp.maximum(count - (steps - decay_steps), 0)).astype(peak.dtype)

    method = optax.adam(rate, settings.b1, settings.b2) if settings.name == "adam" else optax.sgd(rate)
    return method if settings.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), method)


def start(run: Run) -> State:
    """The state of a run at step 0."""
    settings, dtype = run.settings, number_dtype(run.settings.dtype)
    init_key, train_key = jax.random.split(threefry.key(settings.seed))
    policy, staleness = first_policy(run, init_key), settings.rollout.staleness
    zero = jnp.zeros((), dtype)
    return State(
        policy=policy,
        anchor=_first_anchor(run, init_key),
        stale_policies=jax.tree.map(lambda x: jnp.stack([x] * staleness), policy) if staleness else None,
        optimizer=optimizer(cast(settings.optimizer, dtype), settings.steps).init(eqx.filter(policy, eqx.is_inexact_array)),
        baseline=zero,
        key=jax.random.key_data(train_key),
        step=jnp.zeros((), jnp.int32),
        gradient_norm=zero,
        batch_stats=sampled_losses.empty_stats(zero, zero)._replace(mismatch=mismatch.empty(settings.rollout, dtype)),
        beta=jnp.asarray(settings.penalty.beta, dtype),
        controller_kl=zero,
        stopped=None if settings.stop_kl is None else jnp.asarray(False),
    )


def _first_anchor(run: Run, key: PRNGKeyArray) -> AnyPolicy | None:
    """The reference of the penalty at step 0, where the state keeps it; else None."""
    settings = run.settings.reference
    if settings.penalising == "start":
        return first_policy(run, key)
    return None if settings.update == "none" else first_policy(run, key, "reference")


class UpdateResult(NamedTuple):
    """The parameters and optimiser after one update.

    stats: what the loss function returned beside its value. finite: whether the loss, the gradient and so the parameters are.
    """

    trainable: Any
    optimizer: optax.OptState
    gradient_norm: Float[Array, ""]
    stats: Any
    finite: Bool[Array, ""]


def _update(run: Run, trainable, optimizer_state, loss_function) -> UpdateResult:
    """Take one optimiser step on `loss_function(parameters) -> (loss, statistics)`."""
    settings = run.settings
    (value, stats), gradient = jax.value_and_grad(loss_function, has_aux=True)(trainable)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
        method = optimizer(settings.optimizer, settings.steps * settings.algorithm.epochs)
        updates, optimizer_state = method.update(gradient, optimizer_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    norm = optax.tree.norm(gradient)
    # No update is much larger than this: Adam's are of the order of the learning rate, and all others at most of its product
    # with the norm. While the square is finite, no parameter overflows, and neither does Adam's second moment.
    largest = settings.optimizer.learning_rate * jnp.maximum(norm, 1.0)
    finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(jnp.square(largest))
    return UpdateResult(trainable, optimizer_state, norm, stats, finite)


def step(run: Run, state: State, logged: Bool[Array, ""] | bool = True) -> State:
    """Take one training step: a batch (or an exact gradient) and its updates.

    Where the loss or the gradient is not finite, or the update could leave parameters that are not, the state stays as it was.
    logged: whether the step's statistics are logged; those that only the log reads are NaN where not.
    """
    settings, objective = run.settings, training_objective(run, state)
    stale_index = state.step % max(1, settings.rollout.staleness)
    sampler = None if settings.rollout.dropout is None else state.policy
    if state.stale_policies is not None:
        sampler = jax.tree.map(lambda x: x[stale_index], state.stale_policies)
    trainable, rest = eqx.partition(state.policy, eqx.is_inexact_array)
    baseline, key = _corrected_baseline(state, settings), jax.random.fold_in(threefry.wrap(state.key), state.step)
    if settings.algorithm.epochs == 1:

        def step_loss(parameters):
            policy = sampled_losses.with_dropout(settings, eqx.combine(parameters, rest), key)
            return sampled_losses.loss(settings, objective, policy, baseline, key, sampler, logged)

        result = _update(run, trainable, state.optimizer, step_loss)
        batch_stats = result.stats
    else:
        old_policy = sampled_losses.with_dropout(settings, state.policy, key)
        rollout = sampled_losses.gather(settings, objective, sampler, old_policy, key)
        batch, old_positions, sampler_log_pi, mismatched, zero_std = rollout
        experience = sampled_losses.experience(
            settings, objective, old_positions, batch, baseline, sampler_log_pi, logged, zero_std
        )
        experience = experience._replace(batch_stats=experience.batch_stats._replace(mismatch=mismatched))

        def policy_of(parameters):
            return sampled_losses.with_dropout(settings, eqx.combine(parameters, rest), key)

        def positions_of(parameters):
            return scoring.positions(objective.task.automaton, policy_of(parameters), objective.reference, batch)

        def epoch_loss(parameters):
            value = sampled_losses.surrogate(settings, objective.beta, positions_of(parameters), batch, experience)
            penalty = sampled_losses.off_batch_penalty(settings, objective, policy_of(parameters), key)
            return value + penalty, None

        def epoch(_, carry):
            previous, _ = carry
            result = _update(run, previous.trainable, previous.optimizer, epoch_loss)
            return result._replace(finite=previous.finite & result.finite), previous.trainable

        zero = jnp.zeros_like(state.gradient_norm)
        before = UpdateResult(trainable, state.optimizer, zero, None, jnp.asarray(True))
        result, last = jax.lax.fori_loop(0, settings.algorithm.epochs, epoch, (before, trainable))
        touched = sampled_losses.touched(settings, lambda: positions_of(last), batch, experience, logged)
        batch_stats = experience.batch_stats._replace(touched=touched)
    decay = settings.algorithm.baseline_decay
    controller_kl, divisor = controllers.average(state.controller_kl, batch_stats.controller_kl, state.step)
    policy = eqx.combine(result.trainable, rest)
    if settings.penalty.controller in SCHEDULES:
        beta = controllers.scheduled(settings.penalty, state.step + 1, settings.steps)
    else:
        beta = controllers.after(settings.penalty, state.beta, controller_kl / divisor, settings.batch_size)
    stale_policies = None
    if state.stale_policies is not None:
        stale_policies = jax.tree.map(lambda old, new: old.at[stale_index].set(new), state.stale_policies, state.policy)
    after = State(
        policy=policy,
        anchor=_updated_anchor(settings.reference, state, policy),
        stale_policies=stale_policies,
        optimizer=result.optimizer,
        baseline=decay * state.baseline + (1.0 - decay) * batch_stats.reward,
        key=state.key,
        step=state.step + 1,
        gradient_norm=result.gradient_norm,
        batch_stats=batch_stats,
        beta=beta,
        controller_kl=controller_kl,
        stopped=state.stopped,
    )
    return jax.tree.map(lambda new, old: jnp.where(result.finite, new, old), after, state)


def steps(run: Run, state: State, count: Int[Array, ""] | int) -> State:
    """Take `count` training steps, of which the last one is logged."""
    return jax.lax.fori_loop(0, count, lambda i, state: step(run, state, i == count - 1), state)


def _updated_anchor(settings: ReferenceSettings, state: State, policy: AnyPolicy) -> AnyPolicy | None:
    """The reference of the penalty after this step, where the state keeps it; else None.

    Every `sync_steps`, `reset` replaces it by the policy, and `ema` moves its parameters towards the policy's by `mixup_alpha`
    (Gorbatovski et al. 2024, "Learn your reference model", arXiv 2404.09656).
    """
    if state.anchor is None or settings.update == "none":
        return state.anchor
    share = settings.mixup_alpha if settings.update == "ema" else None
    due = (state.step + 1) % settings.sync_steps == 0

    def updated(old, new):
        if share is not None and jnp.issubdtype(old.dtype, jnp.inexact):
            new = share * new + (1.0 - share) * old
        return jnp.where(due, new, old)

    return jax.tree.map(updated, state.anchor, policy)


def training_objective(run: Run, state: State) -> Objective:
    """The objective of one training step: with the state's beta, the reference of the penalty, and the shaped reward."""
    settings, reference = run.settings, run.reference if state.anchor is None else state.anchor
    if settings.reference.penalising == "uniform":
        reference = spec.uniform(run)
    elif settings.reference.penalising == "policy":
        reference = jax.lax.stop_gradient(state.policy)
    if settings.reference.temperature is not None:
        reference = tempered(reference, settings.reference.temperature)
    objective = spec.objective(run, state.beta)
    objective = dataclasses.replace(objective, reference=reference, params=cast(objective.params, state.beta.dtype))
    return reward_shaping.shaped(settings.reward_shaping, objective)


def _corrected_baseline(state: State, settings: Settings) -> Float[Array, ""]:
    """The moving average of the batches' returns, corrected for its start at zero (as in Adam); 0 before the first batch."""
    divisor = 1.0 - settings.algorithm.baseline_decay ** state.step.astype(state.baseline.dtype)
    return jnp.where(state.step == 0, 0.0, state.baseline / jnp.where(divisor > 0.0, divisor, 1.0))


def advance(run: Run, optimum: optimal_policy.Optimum, state: State, start: Int[Array, ""]) -> tuple[State, Row]:
    """Train for one chunk from step `start`: the state after it, and its ROWS logged rows on a leading axis.

    Past the run's last step, nothing is trained and the rows repeat the last one.
    """
    cast_run, settings = cast(run, jnp.dtype(run.settings.dtype)), run.settings

    def log_interval(state, first_step):
        count = jnp.clip(settings.steps - first_step, 0, settings.log_every)
        count = count if state.stopped is None else jnp.where(state.stopped, 0, count)
        state = steps(cast_run, state, count)
        new_row = observe(run, optimum, state)
        if state.stopped is not None:
            state = state._replace(stopped=state.stopped | (new_row.report.values.kl_pi_ref > settings.stop_kl))
        return state, new_row

    return jax.lax.scan(log_interval, state, start + settings.log_every * jnp.arange(ROWS, dtype=start.dtype))
