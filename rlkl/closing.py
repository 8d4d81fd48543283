"""A finished run graded in full: where its sequences end, what they are like on the way, how far they are from the optimum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact, metrics, policies
from rlkl.divergences import Params
from rlkl.exact import optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.job import Run, support
from rlkl.metrics import LAST_SAMPLES
from rlkl.penalties import options
from rlkl.policies import AnyPolicy, Fixed, Policy, table_of
from rlkl.policies.base import cast
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, enumerate_all, is_enumerable, laid_out
from rlkl.tasks.automaton import Task
from rlkl.training import Row, State, coefficient, optimum_at, row

CLOSING, DECODING = 2**31 - 2, 2**31 - 4  # purposes of keys; steps count from 0
TOP = (1, 5)  # of the reference's likeliest tokens
GRID, ZOOMS = 65, 8  # of the search for a family's best member: its box shrinks 16-fold a time


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
    """What a policy does along its sequences.

    alive: probability that position t is read; entropy_at, kl_at: mean entropy of the next token there, and its
    KL(pi||pi_ref), in nats (NaN where no sequence gets so far); top_mass: the mass on the reference's TOP likeliest tokens,
    per token read, and top_stderr its standard error where the sequences are a sample.
    """

    alive: Float[Array, " T"]
    entropy_at: Float[Array, " T"]
    kl_at: Float[Array, " T"]
    top_mass: Float[Array, " K"]
    top_stderr: Float[Array, " K"]


class Seen(NamedTuple):
    """Rows of a policy and its reference at each position, what each weighs, and where sequences end: a table's decision
    states with their occupancy (K = D), or sequences with their probabilities (K = N)."""

    weight: Float[Array, "T K"]
    log_pi: Float[Array, "T K V"]
    log_ref: Float[Array, "T K V"]
    ends: Float[Array, " S"]


class Decoded(NamedTuple):
    """The policy as it is decoded: graded as a policy of its own, and its KL(decoded‖policy) with a standard error (0 where
    exact)."""

    report: metrics.Report
    kl_policy: Float[Array, ""]
    kl_policy_stderr: Float[Array, ""]


class Closing(NamedTuple):
    """What a run is graded by at its end.

    optimum: at the coefficient that the run ended with. last: where rows are sampled, its last row of more samples; else
    None. optimum_values: None where the optimum is no table. details: of reference, policy, and the optimum where it is a
    table, and of the policy as decoded where a rule is set. distances: to the optimum, with standard errors. Of a network whose
    sequences cannot be listed, end states and details are frequencies in LAST_SAMPLES sequences.
    """

    optimum: Optimum
    last: Row | None
    optimum_values: exact.Values | None
    outcomes: Outcomes
    details: dict[str, Detail]
    distances: dict[str, tuple[Float[Array, ""], Float[Array, ""]]]
    decoded: Decoded | None


def close(run: Run, optimum: Optimum, state: State) -> Closing:
    """Grade a run's last state in full."""
    task, chosen, reference = run.task, run.settings.penalty, run.reference
    if chosen.controller != "fixed":
        optimum = optimum_at(run, coefficient(run, state))
    policy = cast(state.policy, jnp.float64)
    keys = jax.random.split(jax.random.fold_in(state.key, CLOSING), 4)
    sampled, last = metrics.known(task, policy, reference, options.divergence(chosen)) == "sampled", None
    if sampled:
        drawn = metrics.sample(task, policy, reference, keys[0], LAST_SAMPLES)
        last = grade(run, optimum, state, drawn, keys[3])
        own = seen_along(task, drawn.own, drawn.here)
    else:
        drawn, own = None, see(task, policy, reference, keys[0])
    base = see(task, reference, reference, keys[1])
    details, values = {"reference": detail(base), "policy": detail(own)}, None
    if optimum.log_pi is not None:
        best = see(task, Fixed(optimum.log_pi, task.automaton.horizon), reference, keys[2])
        details["optimum"], best_ends = detail(best), best.ends
        if isinstance(reference, Policy):
            div = options.divergence(chosen) or divergences.REGISTRY["kl_pi_ref"]
            params = options.parameters(chosen, jnp.float64)
            values = exact.values(task, div, params, optimum.log_pi, reference.table())
    else:
        best_ends = _ends_of_optimum(task, reference, optimum, keys[2])
    at = task.automaton.outcomes
    gold, decoded, ends = None if task.gold is None else task.gold[at], None, None
    if run.settings.decoding.on:
        decoded, cut = decode(run, optimum, state)
        details["decoded"], ends = detail(cut), cut.ends[at]
    earned = task.reward[at] if task.reward_model is None else jnp.full((len(at),), jnp.nan)
    outcomes = Outcomes(earned, base.ends[at], own.ends[at], best_ends[at], gold, ends)
    apart = distances(task, policy, reference, optimum, keys[3], drawn)
    return Closing(optimum, last, values, outcomes, details, apart, decoded)


def decode(run: Run, optimum: Optimum, state: State) -> tuple[Decoded, Seen]:
    """A run's last policy graded under its decoding rules: whether it has collapsed, or is only decoded sharply."""
    task, chosen = run.task, run.settings.penalty
    policy = cast(state.policy, jnp.float64)
    cut, keys = policies.decoded(policy, run.settings.decoding), jax.random.split(jax.random.fold_in(state.key, DECODING), 3)
    div, params, beta = options.divergence(chosen), options.parameters(chosen, jnp.float64), coefficient(run, state)
    report = metrics.evaluate(task, cut, run.reference, div, params, beta, optimum, keys[0], LAST_SAMPLES)
    away, error = metrics.distance(task.automaton, cut, policy, keys[1], LAST_SAMPLES)
    graded = Decoded(report, away, jnp.zeros(()) if error is None else error)
    return graded, see(task, cut, run.reference, keys[2])


def grade(run: Run, optimum: Optimum, state: State, drawn: metrics.Sample, key: PRNGKeyArray) -> Row:
    """The row of a state, from sequences that were drawn already; `key` as in `training.row`."""
    chosen, beta = run.settings.penalty, coefficient(run, state)
    params = options.parameters(chosen, jnp.float64)
    report = metrics.estimate(run.task, drawn, options.divergence(chosen), params, beta, optimum)
    return row(run, state, report, key)


def see(task: Task, policy: AnyPolicy, reference: AnyPolicy, key: PRNGKeyArray) -> Seen:
    """How a policy's rows weigh: exactly where it is a table beside a table, or its sequences can be listed; else sampled."""
    automaton = task.automaton
    if isinstance(policy, Policy) and isinstance(reference, Policy):
        log_pi = policy.table()
        ends = exact.outcome_probabilities(automaton, log_pi)
        return Seen(exact.occupancy(automaton, log_pi), log_pi, reference.table(), ends)
    if not is_enumerable(automaton):
        drawn = metrics.sample(task, policy, reference, key, LAST_SAMPLES)
        return seen_along(task, drawn.own, drawn.here)
    batch = enumerate_all(automaton)
    batch = batch._replace(weight=jnp.exp(scoring.log_probability(policy, batch)))
    return seen_along(task, batch, laid_out(*(scoring.rows_along(p, batch) for p in (policy, reference))))


def seen_along(task: Task, batch: Batch, at: Positions) -> Seen:
    """Positions of a batch that each have a row of their own, as they weigh."""
    weight = jnp.where(batch.mask, jnp.asarray(batch.weight)[:, None], 0.0).T
    log_pi, log_ref = (rows[at.row.T] for rows in (at.log_pi, at.log_ref))
    ends = jax.ops.segment_sum(jnp.asarray(batch.weight), optimal_policy.final_states(batch), task.automaton.states)
    return Seen(weight, log_pi, log_ref, ends)


def detail(seen: Seen) -> Detail:
    """The detail of a policy as it was seen."""
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
    """Where the optimum ends, it being no table: the reference's sequences, weighted by pi*/pi_ref."""
    automaton = task.automaton
    if is_enumerable(automaton):
        batch = enumerate_all(automaton)
        weight = jnp.exp(scoring.log_probability(reference, batch))
    else:
        batch = sampling.draw(key, automaton, reference, optimal_policy.SAMPLES)
        weight = jnp.asarray(batch.weight)
    log_ref = scoring.log_probability(reference, batch)
    share = jnp.exp(optimum.log_probability(batch, log_ref) - log_ref)
    ends = jax.ops.segment_sum(weight * share, optimal_policy.final_states(batch), automaton.states)
    return jnp.where(jnp.isnan(optimum.objective), jnp.nan, ends)


def distances(
    task: Task,
    policy: AnyPolicy,
    reference: AnyPolicy,
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
    automaton, params, zero = task.automaton, Params(), jnp.zeros(())
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
    own = sampling.draw(own_key, automaton, policy, size) if drawn is None else drawn.own
    at = scoring.positions(automaton, policy, reference, own) if drawn is None else drawn.here
    log_pi, log_ref = (jnp.sum(at.at(rows, own), axis=1) for rows in (at.log_pi, at.log_ref))
    missed = jnp.maximum(-jnp.expm1(optimum.log_probability(own, log_ref) - log_pi), 0.0)
    found = {"tv_optimum": (defined(jnp.mean(missed)), error(missed))}
    if optimum.log_pi is not None and isinstance(policy, Policy):
        exactly = exact.sequence_divergence(automaton, kl, params, optimum.log_pi, policy.table())
        return found | {"kl_optimum_pi": (defined(exactly), zero)}
    drawn_from = reference if optimum.log_pi is None else Fixed(optimum.log_pi, automaton.horizon)
    batch = sampling.draw(best_key, automaton, drawn_from, size)
    log_ref = scoring.log_probability(reference, batch)
    best = optimum.log_probability(batch, log_ref)
    share = jnp.exp(best - log_ref) if optimum.log_pi is None else jnp.ones_like(best)
    gap = jnp.where(share > 0.0, share * (jnp.where(share > 0.0, best, 0.0) - scoring.log_probability(policy, batch)), 0.0)
    return found | {"kl_optimum_pi": (defined(jnp.mean(gap)), error(gap))}


def best_in_family(run: Run) -> Float[Array, ""]:
    """The largest objective that a restricted family reaches, by a grid over its box that zooms in on its best cell."""
    family, chosen = policies.REGISTRY[run.settings.policy.name], run.settings.penalty
    div, params = options.divergence(chosen), options.parameters(chosen, jnp.float64)
    log_ref, allowed = table_of(run.reference), support(run)
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
