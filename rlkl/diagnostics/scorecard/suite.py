"""The fixed tasks, starts and coefficients that a penalty is graded on, and how they are run: through training's own steps.

Bandits have ARMS arms, so that all of them and both lost-arm starts run in one program; sequences are few enough to list, so
that every divergence is exact. All rewards lie in [0, 1], so that a coefficient means the same everywhere.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlkl import exact, policies, settings, tasks
from rlkl.exact import bandit_optimum, optimal_policy
from rlkl.penalties.options import divergence, parameters
from rlkl.policies import base
from rlkl.rollouts import batch, scoring
from rlkl.tasks import Task
from rlkl.tasks.bandits import bandit
from rlkl.training import blocks, loop, spec

ARMS = 64
DROPPED = (10.0, 30.0)  # log-ratios that lost-arm starts are short of: seldom drawn, and never


class Size(NamedTuple):
    """How much of it: coefficients, seeds, steps of a run, and policies that gradients are compared on."""

    betas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
    seeds: int = 5
    steps: int = 500
    policies: int = 8


FULL = Size()
SEQUENCES = {"motif": 4, "brackets": 8}  # tokens of each


class Setup(NamedTuple):
    """A task of the suite. start: the logits that a policy starts at; reference: the reference's probability of ending in each
    state; lost: the end state that the start has all but dropped (None: it has not); several: whether several sequences have
    the largest reward, so that there is a proportion to keep."""

    name: str
    task: Task
    start: Float[np.ndarray, "T D V"]
    reference: Float[np.ndarray, " S"]
    lost: int | None = None
    several: bool = False

    @property
    def ends(self) -> Float[np.ndarray, " E"]:
        """The reference's probability of each end state."""
        return self.reference[self.task.automaton.outcomes]

    @property
    def worth(self) -> Float[np.ndarray, " E"]:
        """The reward of each end state."""
        return np.asarray(self.task.reward)[self.task.automaton.outcomes]

    @property
    def first(self) -> float:
        """E[r] of the reference, which is its objective under every divergence."""
        return float(self.ends @ self.worth)


class Reached(NamedTuple):
    """The end of a run: exact values, on the host. kl: KL(pi‖pi_ref); best: the optimal objective, gap: a bound on what it
    leaves (of a bandit; else 0); kept: see `scores.coverage`; ends: where sequences end; steps: those taken, all finite."""

    objective: Float[np.ndarray, "*n"]
    reward: Float[np.ndarray, "*n"]
    kl: Float[np.ndarray, "*n"]
    best: Float[np.ndarray, "*n"]
    gap: Float[np.ndarray, "*n"]
    kept: Float[np.ndarray, "*n"]
    ends: Float[np.ndarray, "*n S"]
    steps: Int[np.ndarray, "*n"]


@cache
def bandits() -> tuple[Setup, ...]:
    """The bandits, from their references, and the two starts without an arm."""
    few = np.array([0.08, 0.04, 0.02, 0.01, 0.005])
    rest = np.full(ARMS - few.size, (1.0 - few.sum()) / (ARMS - few.size))
    named = {
        "two_modes": _built("bandit/two_modes", others=ARMS - 2),
        "needle": _built("bandit/needle", size=ARMS, mass=1e-4),
        "random": _built("bandit/random", size=ARMS),
        "zipf": _built("bandit/zipf", size=ARMS),
        "modes": bandit(np.repeat([1.0, 0.0], [few.size, rest.size]), np.concatenate([few, rest])),
    }
    flat = bandit(np.zeros(ARMS), np.exp(named["zipf"].log_reference[0]))
    return tuple(_from_reference(name, task) for name, task in named.items()) + tuple(_without(flat, far) for far in DROPPED)


def _built(name: str, **options: Any) -> Task:
    """A shipped bandit with its rewards moved to [0, 1]."""
    task = tasks.build(name, **options).task
    low, high = task.reward[1:].min(), task.reward[1:].max()
    return dataclasses.replace(task, reward=np.append(0.0, (task.reward[1:] - low) / (high - low)))


def _from_reference(name: str, task: Task) -> Setup:
    automaton = task.automaton
    shape = (automaton.horizon, *task.log_reference.shape)
    ends = np.asarray(exact.outcome_probabilities(automaton, jnp.asarray(np.broadcast_to(task.log_reference, shape))))
    start = np.broadcast_to(np.where(automaton.legal, task.log_reference, 0.0), shape)
    final = task.reward[optimal_policy.final_states(batch.enumerate_all(automaton))]
    return Setup(name, task, start, ends, several=bool(np.sum(final == final.max()) > 1))


def _without(task: Task, far: float) -> Setup:
    """A flat reward, and a start whose likeliest arm has e^-far of its probability: every optimum is the reference."""
    arm = int(np.argmax(task.log_reference[0]))
    whole = _from_reference(f"lost_arm_{far:g}", task)
    start = whole.start.copy()
    start[0, 0, arm] -= far
    return whole._replace(start=start, lost=int(task.automaton.next_state[0, arm]), several=False)


@cache
def sequence(name: str) -> Setup:
    """A sequence task of SEQUENCES, from its reference."""
    return _from_reference(name, tasks.build(f"sequence/{name}", horizon=SEQUENCES[name]).task)


def runs(chosen: settings.Settings, task: Task, size: Size) -> list[spec.Run]:
    """Every coefficient and seed of one task, seeds first; the coefficient stays 0 without a penalty."""

    def one(beta: float, seed: int) -> spec.Run:
        held = 0.0 if chosen.penalty.divergence == "none" else beta
        term = dataclasses.replace(chosen.penalty, beta=held)
        return spec.make_run(dataclasses.replace(chosen, penalty=term, seed=seed, steps=size.steps), task)

    return [one(beta, seed) for beta in size.betas for seed in range(size.seeds)]


def train_suite(chosen: settings.Settings, setups: Sequence[Setup], size: Size) -> list[Reached]:
    """What a penalty reaches on tasks that share their automaton: leaves [B S ...] on the host, a tree a task. Needs x64."""
    members = [run for setup in setups for run in runs(chosen, setup.task, size)]
    starts = np.stack([setup.start for setup in setups for _ in range(len(size.betas) * size.seeds)])
    found = _trained(blocks.stack(members, len(members)), starts)
    shape = (len(setups), len(size.betas), size.seeds)
    apart = jax.tree.map(lambda x: np.asarray(x).reshape(shape + x.shape[1:]), found)
    return [jax.tree.map(lambda x, i=i: x[i], apart) for i in range(len(setups))]


@jax.jit
def _trained(block: spec.Run, starts: Float[Array, "N T D V"]) -> Reached:
    return jax.vmap(_one)(block, starts)


def _one(run: spec.Run, start: Float[Array, "T D V"]) -> Reached:
    """Train from these logits for the run's steps, and grade what is reached."""
    state = loop.start(run)
    policy = eqx.tree_at(lambda p: jax.tree.leaves(p)[0], state.policy, start.astype(batch.float_of(state.policy)))
    low = base.cast(run, jnp.dtype(run.settings.dtype))
    state = jax.lax.fori_loop(0, run.settings.steps, lambda _, s: loop.step(low, s), state._replace(policy=policy))
    optimum = loop.optimum_at(run, jnp.asarray(run.settings.penalty.beta, jnp.float64))
    report = loop.observe(run, optimum, state).report
    reached = base.cast(state.policy, jnp.float64)
    ends = exact.outcome_probabilities(run.task.automaton, policies.table_of(reached))
    graded: Any = (report.objective, report.values.reward, report.values.kl_pi_ref, optimum.objective, _gap(run, optimum))
    rest: Any = (_kept(run, reached), ends, state.step)
    return Reached(*graded, *rest)


def _gap(run: spec.Run, optimum: optimal_policy.Optimum) -> Float[Array, ""]:
    """What the optimum itself leaves: its Frank-Wolfe gap on a bandit. Sequences are solved by the same root."""
    chosen, automaton = run.settings.penalty, run.task.automaton
    div = divergence(chosen)
    if div is None or automaton.horizon > 1 or optimum.log_pi is None:
        return jnp.zeros(())
    log_pi, log_ref = optimum.log_pi[0, automaton.start], policies.table_of(run.reference)[0, automaton.start]
    arms = jnp.asarray(run.task.reward)[automaton.next_state[automaton.start]]
    params = parameters(chosen, jnp.float64)
    return bandit_optimum.gap(div, params, log_pi, log_ref, arms, jnp.asarray(chosen.beta, jnp.float64))


def _kept(run: spec.Run, policy: policies.AnyPolicy) -> Float[Array, ""]:
    """1 less the total variation between policy and reference among the sequences of the largest reward."""
    listed = batch.enumerate_all(run.task.automaton)
    reward = jnp.asarray(run.task.reward)[optimal_policy.final_states(listed)]
    best = reward == jnp.max(reward)
    among = lambda p: jax.nn.softmax(scoring.log_probability(p, listed), where=best)  # noqa: E731
    return jnp.sum(jnp.minimum(among(policy), among(run.reference)), where=best)
