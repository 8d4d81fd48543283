"""Training as pure functions: a run's first state, and its advance by one chunk of steps. No input or output."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rlkl import algorithms, settings
from rlkl.evaluation import metrics
from rlkl.exact import Objective, optimal_policy
from rlkl.penalties import controllers
from rlkl.policies import AnyPolicy, tempered
from rlkl.policies.base import cast
from rlkl.rollouts import scoring, threefry
from rlkl.settings import SCHEDULES
from rlkl.training import reward_shaping, spec
from rlkl.training.sampled_losses import BatchStats, empty_stats, experience, gather, loss, off_batch_penalty, surrogate
from rlkl.training.spec import Run, first_policy

ROWS = 10  # logged rows a chunk
ORACLE, GRADING = 1, 2**31 - 1  # purposes of keys; steps count from 0


class State(NamedTuple):
    """The training state of a run. `step` stops counting at the first step that is not finite, and nothing moves after it.

    anchor: the reference that penalises, where it moves (`reference.update`). stopped: whether KL(pi‖pi_ref) went beyond
    `stop_kl`, where there is such a limit: nothing moves after it either. older: the last `rollout.staleness` policies, on
    a leading axis, step t's in place t mod staleness.
    """

    policy: AnyPolicy
    anchor: AnyPolicy | None
    older: AnyPolicy | None
    optimizer: optax.OptState
    baseline: Float[Array, ""]
    key: PRNGKeyArray
    step: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    seen: BatchStats
    beta: Float[Array, ""]
    steered_by: Float[Array, ""]
    stopped: Bool[Array, ""] | None


class Row(NamedTuple):
    """One logged row; seen: of the last batch; kl_pi_anchor: KL(pi‖the reference that penalises), where that one moves."""

    step: Int[Array, ""]
    report: metrics.Report
    beta: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    seen: BatchStats
    kl_pi_anchor: Float[Array, ""] | None


def optimizer(chosen: settings.OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """optax's optimiser and schedule; `decay` of the steps, the last ones, bring the rate to zero."""
    rate, falling = chosen.learning_rate, max(1, round(chosen.decay * steps))
    if chosen.schedule == "linear":
        rate = optax.linear_schedule(rate, 0.0, falling, steps - falling)
    elif chosen.schedule == "cosine":
        fall = optax.cosine_decay_schedule(1.0, falling)
        top = chosen.learning_rate
        rate = lambda count: top * fall(jnp.maximum(count - (steps - falling), 0)).astype(top.dtype)  # noqa: E731
    method = optax.adam(rate, chosen.b1, chosen.b2) if chosen.name == "adam" else optax.sgd(rate)
    return method if chosen.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(chosen.max_grad_norm), method)


def start(run: Run) -> State:
    """A run's first state."""
    chosen, dtype = run.settings, jnp.dtype(run.settings.dtype)
    at_start, onward = jax.random.split(jax.random.key(chosen.seed))
    policy, stale = first_policy(run, at_start), chosen.rollout.staleness
    anchor = None if chosen.reference.update == "none" else first_policy(run, at_start, "reference")
    older = jax.tree.map(lambda x: jnp.stack([x] * stale), policy) if stale else None
    slots = optimizer(cast(chosen.optimizer, dtype), chosen.steps).init(eqx.filter(policy, eqx.is_inexact_array))
    zero = jnp.zeros((), dtype)
    beta = jnp.asarray(chosen.penalty.beta, dtype)
    count, stopped = jnp.zeros((), jnp.int32), None if chosen.stop_kl is None else jnp.asarray(False)
    return State(policy, anchor, older, slots, zero, onward, count, zero, empty_stats(zero, zero), beta, zero, stopped)


def prepare(run: Run, state: State) -> tuple[optimal_policy.Optimum, Row]:
    """The optimum that grades a run, and its row at step 0.

    The state comes as an input: XLA's CPU backend (jaxlib 0.10.2) misreads a network whose zero head is a constant of the
    program that evaluates it.
    """
    best = optimum_at(run, jnp.asarray(run.settings.penalty.beta, jnp.float64))
    return best, observe(run, best, state)


def optimum_at(run: Run, beta: Float[Array, ""]) -> optimal_policy.Optimum:
    """The optimum that grades a run at this coefficient."""
    objective, key = spec.objective(run, beta), jax.random.key(ORACLE)
    best = optimal_policy.solve(objective, run.typical, key)
    if run.task.gold is None:
        return best
    flat = jnp.zeros_like(jnp.asarray(run.task.typicality))
    golden = dataclasses.replace(run.task, reward=run.task.gold, typicality=flat, reward_model=None)
    gold = optimal_policy.solve(dataclasses.replace(objective, task=golden), False, key)
    return best._replace(gold_objective=gold.objective, gold_stderr=gold.stderr)


def coefficient(run: Run, state: State) -> Float[Array, ""]:
    """The penalty's coefficient, in float64: the setting itself unless a controller moves it."""
    chosen = run.settings.penalty
    return jnp.asarray(chosen.beta if chosen.controller == "fixed" else state.beta, jnp.float64)


def observe(run: Run, optimum: optimal_policy.Optimum, state: State) -> Row:
    """Grade a state, in float64; where it has to be sampled, its sequences are drawn anew at each step. Where a controller
    moves the coefficient, the optimum is found anew too."""
    beta = coefficient(run, state)
    optimum = optimum if run.settings.penalty.controller == "fixed" else optimum_at(run, beta)
    policy = cast(state.policy, jnp.float64)
    key = jax.random.fold_in(jax.random.fold_in(state.key, GRADING), state.step)
    return row(run, state, metrics.evaluate(spec.objective(run, beta), policy, optimum, key), key)


def row(run: Run, state: State, report: metrics.Report, key: PRNGKeyArray) -> Row:
    """A state's row, given its report; `key` is for the distance to a moving reference, where that has to be sampled."""
    to_anchor = None
    if state.anchor is not None:
        policy, anchor = cast((state.policy, state.anchor), jnp.float64)
        to_anchor, error = metrics.distance(run.task.automaton, policy, anchor, key)
        report = report._replace(stderr=report.stderr | {"kl_pi_anchor": error}) if report.stderr else report
    return Row(state.step, report, coefficient(run, state), state.gradient_norm, state.seen, to_anchor)


class Moved(NamedTuple):
    """The outcome of one update: parameters, optimiser, the gradient's norm, the batch, and whether all of it is finite."""

    trainable: Any
    optimizer: optax.OptState
    gradient_norm: Float[Array, ""]
    seen: BatchStats
    finite: Bool[Array, ""]


def _update(run: Run, trainable, slots, of) -> Moved:
    """One step of the optimiser down `of(parameters) -> (loss, seen)`."""
    chosen = run.settings
    (value, seen), gradient = jax.value_and_grad(of, has_aux=True)(trainable)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
        updates, slots = optimizer(chosen.optimizer, chosen.steps * epochs(run)).update(gradient, slots, trainable)
        moved = optax.apply_updates(trainable, updates)
    finite = jnp.isfinite(value) & jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((gradient, moved))]).all()
    return Moved(moved, slots, optax.tree.norm(gradient), seen, finite)


def epochs(run: Run) -> int:
    """Number of updates on each batch."""
    algorithm = algorithms.REGISTRY.get(run.settings.algorithm.name)
    return run.settings.algorithm.epochs if algorithm is not None and algorithm.clipped else 1


def step(run: Run, state: State) -> State:
    """Take one training step: a batch (or an exact gradient) and its updates.

    If the loss, the gradient or the parameters are not finite, the state stays as it was.
    """
    chosen, objective = run.settings, training_objective(run, state)
    slot = state.step % max(1, chosen.rollout.staleness)
    sampler = None if state.older is None else jax.tree.map(lambda x: x[slot], state.older)
    trainable, rest = eqx.partition(state.policy, eqx.is_inexact_array)
    baseline, key = _unbiased(state, chosen), threefry.fold_in(state.key, state.step)
    if epochs(run) == 1:

        def step_loss(parameters):
            return loss(chosen, objective, eqx.combine(parameters, rest), baseline, key, sampler)

        after = _update(run, trainable, state.optimizer, step_loss)
    else:
        batch, before, reported = gather(chosen, objective, sampler, state.policy, key)
        learned = experience(chosen, objective, before, batch, baseline, reported)

        def epoch_loss(parameters):
            policy = eqx.combine(parameters, rest)
            positions = scoring.positions(objective.task.automaton, policy, objective.reference, batch)
            value = surrogate(chosen, objective.beta, positions, batch, learned)
            return value + off_batch_penalty(chosen, objective, policy, key), learned.seen

        def epoch(_, moved):
            after = _update(run, moved.trainable, moved.optimizer, epoch_loss)
            return after._replace(finite=moved.finite & after.finite)

        zero = jnp.zeros_like(state.gradient_norm)
        unmoved = Moved(trainable, state.optimizer, zero, learned.seen, jnp.asarray(True))
        after = jax.lax.fori_loop(0, epochs(run), epoch, unmoved)
    decay = chosen.algorithm.baseline_decay
    steered_by, seen_part = controllers.average(state.steered_by, after.seen.steered_by, state.step)
    policy = eqx.combine(after.trainable, rest)
    if chosen.penalty.controller in SCHEDULES:
        beta = controllers.scheduled(chosen.penalty, state.step + 1, chosen.steps)
    else:
        beta = controllers.after(chosen.penalty, state.beta, steered_by / seen_part, chosen.batch_size)
    reached = State(
        policy=policy,
        anchor=_synchronised(chosen.reference, state, policy),
        older=jax.tree.map(lambda held, new: held.at[slot].set(new), state.older, state.policy)
        if sampler is not None
        else None,
        optimizer=after.optimizer,
        baseline=decay * state.baseline + (1.0 - decay) * after.seen.reward,
        key=state.key,
        step=state.step + 1,
        gradient_norm=after.gradient_norm,
        seen=after.seen,
        beta=beta,
        steered_by=steered_by,
        stopped=state.stopped,
    )
    return jax.tree.map(lambda new, old: jnp.where(after.finite, new, old), reached, state)


def _synchronised(chosen: settings.ReferenceSettings, state: State, policy: AnyPolicy) -> AnyPolicy | None:
    """The anchor after this step: every `sync_steps`, `reset` makes it the policy, `ema` moves its parameters towards the
    policy's by `mixup_alpha` (Gorbatovski et al. 2024, "Learn your reference model", arXiv 2404.09656)."""
    if state.anchor is None:
        return None
    share = chosen.mixup_alpha if chosen.update == "ema" else None
    due = (state.step + 1) % chosen.sync_steps == 0

    def moved(old, new):
        if share is not None and jnp.issubdtype(old.dtype, jnp.inexact):
            new = share * new + (1.0 - share) * old
        return jnp.where(due, new, old)

    return jax.tree.map(moved, state.anchor, policy)


def training_objective(run: Run, state: State) -> Objective:
    """The objective as one training step sees it: the state's beta, the reference that penalises, and the shaped reward."""
    chosen, reference = run.settings, run.reference if state.anchor is None else state.anchor
    if chosen.reference.temperature is not None:
        reference = tempered(reference, chosen.reference.temperature)
    objective = dataclasses.replace(spec.objective(run, state.beta), reference=reference)
    return reward_shaping.shaped(chosen.reward_shaping, objective)


def _unbiased(state: State, chosen: settings.Settings) -> Float[Array, ""]:
    """The bias-corrected moving average of the batches' returns; 0 before the first batch."""
    seen = 1.0 - chosen.algorithm.baseline_decay ** state.step.astype(state.baseline.dtype)
    return jnp.where(state.step == 0, 0.0, state.baseline / jnp.where(seen > 0.0, seen, 1.0))


def advance(run: Run, optimum: optimal_policy.Optimum, state: State, start: Int[Array, ""]) -> tuple[State, Row]:
    """The next ROWS logged rows from step `start` on; steps past the run's last are not taken."""
    low, chosen = cast(run, jnp.dtype(run.settings.dtype)), run.settings

    def chunk(state, first):
        count = jnp.clip(chosen.steps - first, 0, chosen.log_every)
        count = count if state.stopped is None else jnp.where(state.stopped, 0, count)
        state = jax.lax.fori_loop(0, count, lambda _, state: step(low, state), state)
        seen = observe(run, optimum, state)
        if state.stopped is not None:
            state = state._replace(stopped=state.stopped | (seen.report.values.kl_pi_ref > chosen.stop_kl))
        return state, seen

    return jax.lax.scan(chunk, state, start + chosen.log_every * jnp.arange(ROWS, dtype=start.dtype))
