"""Training as pure functions: a run's first state, and its advance by one chunk of steps. No input or output."""

from dataclasses import fields
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl import algorithms, divergences, exact, metrics, oracle, penalty, policies, rollout, settings
from rlkl.policies import Policy
from rlkl.tasks.automaton import Task

for _cls in (settings.Policy, settings.Algorithm, settings.Penalty, settings.Optimizer, settings.Settings):
    _data = [f.name for f in fields(_cls) if f.metadata.get("traced") or f.name in settings.GROUPS]
    jax.tree_util.register_dataclass(_cls, _data, [f.name for f in fields(_cls) if f.name not in _data])

ROWS = 10  # logged rows a chunk
GRID, ZOOMS = 65, 8  # of the search for a family's best member: its box shrinks 16-fold a time


class Run(eqx.Module):
    """What is trained: everything traced is a leaf, everything static is in the tree's structure.

    code: the registered functions behind the settings' names, so that a plugin that was edited is compiled anew.
    """

    settings: settings.Settings
    task: Task
    reference: Policy
    code: tuple = eqx.field(static=True)


def make(chosen: settings.Settings, task: Task) -> Run:
    """The run of resolved settings on a task whose own reference it is graded against."""
    family, advantage = policies.REGISTRY[chosen.policy.name], algorithms.ADVANTAGES.get(chosen.algorithm.name)
    reference = policies.Fixed(task.log_reference, task.automaton.horizon)
    return Run(chosen, task, reference, (penalty.divergence(chosen.penalty), family, advantage))


class State(NamedTuple):
    """Where a run stands. `step` stops counting at the first step that is not finite, and nothing moves after it."""

    policy: Policy
    optimizer: optax.OptState
    baseline: Float[Array, ""]
    key: PRNGKeyArray
    step: Int[Array, ""]
    gradient_norm: Float[Array, ""]
    batch_reward: Float[Array, ""]


class Row(NamedTuple):
    """One logged row."""

    step: Int[Array, ""]
    report: metrics.Report
    beta: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    batch_reward: Float[Array, ""]


class Outcomes(NamedTuple):
    """Probabilities of the end states that can be reached, in state order."""

    reward: Float[Array, " E"]
    reference: Float[Array, " E"]
    policy: Float[Array, " E"]
    optimum: Float[Array, " E"]


def cast(tree: Any, dtype) -> Any:
    """Every floating-point leaf in `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree)


def optimizer(chosen: settings.Optimizer, steps: int) -> optax.GradientTransformation:
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


def support(run: Run) -> Array:
    """Bool["D V"]: the tokens that the policy may take."""
    legal = jnp.asarray(run.task.automaton.legal)
    return legal & (run.task.log_reference > -jnp.inf) if run.settings.policy.support == "reference" else legal


def prepare(run: Run) -> tuple[State, oracle.Optimum, Row]:
    """A run's first state, the optimum that grades it, and its row at step 0."""
    chosen, dtype = run.settings, jnp.dtype(run.settings.dtype)
    at_start, onward = jax.random.split(jax.random.key(chosen.seed))
    low = cast(run, dtype)
    build = policies.REGISTRY[chosen.policy.name].build
    policy = build(low.settings.policy, low.task, support(run), at_start, dtype)
    slots = optimizer(low.settings.optimizer, chosen.steps).init(eqx.filter(policy, eqx.is_inexact_array))
    zero = jnp.zeros((), dtype)
    state = State(policy, slots, zero, onward, jnp.zeros((), jnp.int32), zero, zero)
    params = penalty.parameters(chosen.penalty, jnp.float64)
    best = oracle.solve(run.task, penalty.divergence(chosen.penalty), params, chosen.penalty.beta, run.reference.table())
    return state, best, observe(run, best, state)


def observe(run: Run, optimum: oracle.Optimum, state: State) -> Row:
    """Grade a state, in float64."""
    chosen = run.settings.penalty
    params = penalty.parameters(chosen, jnp.float64)
    log_pi = cast(state.policy, jnp.float64).table()
    report = metrics.evaluate(run.task, log_pi, run.reference.table(), penalty.divergence(chosen), params, chosen.beta, optimum)
    return Row(state.step, report, chosen.beta, state.gradient_norm, state.batch_reward)


def loss(run: Run, policy: Policy, baseline: Float[Array, ""], key: PRNGKeyArray) -> tuple[Array, Array]:
    """What a step descends, and the reward of its batch; the run's leaves are in the training dtype."""
    chosen, log_pi, log_ref = run.settings, policy.table(), run.reference.table()
    div, params = penalty.divergence(chosen.penalty), penalty.parameters(chosen.penalty, log_pi.dtype)
    beta = chosen.penalty.beta
    if chosen.algorithm.name == "exact":
        value = algorithms.exact_loss(run.task, div, params, beta, log_pi, log_ref)
        return value, -value
    batch = rollout.draw(key, run.task.automaton, jax.lax.stop_gradient(log_pi), chosen.batch_size)
    positions = rollout.positions(run.task.automaton, log_pi, log_ref, batch)
    terms = penalty.make(chosen.penalty, log_pi.dtype)
    ratio = jax.lax.stop_gradient(positions.at(positions.log_pi, batch) - positions.at(positions.log_ref, batch))
    rewards = algorithms.token_rewards(run.task, batch, log_pi.dtype) - beta * terms.in_reward(ratio, batch.mask)
    returns = algorithms.returns_to_go(rewards)
    advantages = algorithms.ADVANTAGES[chosen.algorithm.name](returns, batch, baseline)
    penalised = beta * jnp.sum(batch.weight * jnp.sum(terms.in_loss(positions, batch), axis=1))
    return algorithms.score_loss(positions, batch, advantages) + penalised, jnp.sum(batch.weight * returns[:, 0])


def step(run: Run, state: State) -> State:
    """One update; if anything in it is not finite, no update and no count."""
    chosen = run.settings
    trainable, rest = eqx.partition(state.policy, eqx.is_inexact_array)

    def of(parameters):
        return loss(run, eqx.combine(parameters, rest), _unbiased(state, chosen), jax.random.fold_in(state.key, state.step))

    (value, earned), gradient = jax.value_and_grad(of, has_aux=True)(trainable)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes the dtypes of its counts and rates
        updates, slots = optimizer(chosen.optimizer, chosen.steps).update(gradient, state.optimizer, trainable)
        moved = optax.apply_updates(trainable, updates)
    finite = jnp.isfinite(value) & jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((gradient, moved))]).all()
    decay = chosen.algorithm.baseline_decay
    after = State(
        policy=eqx.combine(moved, rest),
        optimizer=slots,
        baseline=decay * state.baseline + (1.0 - decay) * earned,
        key=state.key,
        step=state.step + 1,
        gradient_norm=optax.tree.norm(gradient),
        batch_reward=earned,
    )
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)


def _unbiased(state: State, chosen: settings.Settings) -> Float[Array, ""]:
    """The moving average of the batches' returns, its start at zero corrected for; 0 before the first."""
    seen = 1.0 - chosen.algorithm.baseline_decay ** state.step.astype(state.baseline.dtype)
    return jnp.where(state.step == 0, 0.0, state.baseline / jnp.where(seen > 0.0, seen, 1.0))


def advance(run: Run, optimum: oracle.Optimum, state: State, start: Int[Array, ""]) -> tuple[State, Row]:
    """The next ROWS logged rows from step `start` on; steps past the run's last are not taken."""
    low, chosen = cast(run, jnp.dtype(run.settings.dtype)), run.settings

    def row(state, first):
        count = jnp.clip(chosen.steps - first, 0, chosen.log_every)
        state = jax.lax.fori_loop(0, count, lambda _, state: step(low, state), state)
        return state, observe(run, optimum, state)

    return jax.lax.scan(row, state, start + chosen.log_every * jnp.arange(ROWS, dtype=start.dtype))


def close(run: Run, optimum: oracle.Optimum, state: State) -> tuple[exact.Values, Outcomes]:
    """What the optimum is worth, and how often each end state is reached under reference, policy and optimum."""
    automaton, log_ref, chosen = run.task.automaton, run.reference.table(), run.settings.penalty
    at = automaton.outcomes
    tables = (log_ref, cast(state.policy, jnp.float64).table(), optimum.log_pi)
    ends = Outcomes(run.task.reward[at], *(exact.outcome_probabilities(automaton, table)[at] for table in tables))
    div = penalty.divergence(chosen) or divergences.REGISTRY["kl_pi_ref"]
    return exact.values(run.task, div, penalty.parameters(chosen, jnp.float64), optimum.log_pi, log_ref), ends


def best_in_family(run: Run) -> Float[Array, ""]:
    """The largest objective that a restricted family reaches, by a grid over its box that zooms in on its best cell."""
    family, chosen = policies.REGISTRY[run.settings.policy.name], run.settings.penalty
    div, params = penalty.divergence(chosen), penalty.parameters(chosen, jnp.float64)
    log_ref, allowed = run.reference.table(), support(run)
    assert family.box is not None
    assert family.at is not None
    member = family.at
    low, high = family.box(run.task)
    ticks = jnp.linspace(0.0, 1.0, GRID)
    unit = jnp.stack(jnp.meshgrid(*[ticks] * low.size, indexing="ij"), axis=-1).reshape(-1, low.size)

    def worth(vector):
        return exact.objective(run.task, div, params, chosen.beta, member(run.task, allowed, vector).table(), log_ref)

    def zoom(_, box):
        low, high = box
        grid = low[None, :] + unit * (high - low)[None, :]
        best = grid[jnp.argmax(jax.lax.map(worth, grid, batch_size=256))]
        reach = 2.0 * (high - low) / (GRID - 1)
        return best - reach, best + reach

    low, high = jax.lax.fori_loop(0, ZOOMS, zoom, (low, high))
    return worth(0.5 * (low + high))
