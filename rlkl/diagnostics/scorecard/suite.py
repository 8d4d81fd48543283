"""The suite of tasks, initial policies and coefficients that penalties are graded on, and their training.

All bandits have ARMS arms, so that they run in one compiled program. Sequence tasks can be enumerated, so that every divergence
is exact. All rewards lie in [0, 1], so that coefficients are comparable.
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
from rlkl.training import blocks, loop, observe, spec

ARMS = 64
DROPPED = (10.0, 30.0)  # log-probability that a lost arm lacks in the initial policy: then rarely or never sampled


class Size(NamedTuple):
    """The size of the suite: coefficients, number of seeds, steps of a run, and number of policies in gradient comparisons."""

    betas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
    seeds: int = 5
    steps: int = 500
    policies: int = 8


FULL = Size()
SEQUENCES = {"motif": 4, "brackets": 8}  # horizon of each


class Setup(NamedTuple):
    """A task of the suite with an initial policy.

    start: the initial logits. reference: the reference's probability of ending in each state. lost: the end state that the
    initial policy has lost, if any. several: whether several sequences share the largest reward, so that their proportions can
    be compared.
    """

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
    def rewards(self) -> Float[np.ndarray, " E"]:
        """The reward of each end state."""
        return np.asarray(self.task.reward)[self.task.automaton.outcomes]

    @property
    def reference_reward(self) -> float:
        """E[r] under the reference, which is its objective under every divergence."""
        return float(self.ends @ self.rewards)


class Reached(NamedTuple):
    """Exact values at the end of runs, as NumPy arrays.

    kl: KL(pi‖pi_ref). best: the optimal objective. gap: a bound on the error of `best` on bandits, else 0. kept: see
    `scores.coverage`. ends: probability of ending in each state. steps: steps taken with finite gradients.
    """

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
    """The bandits started at their references, and a flat bandit started at two policies that have lost an arm."""
    best_arms = np.array([0.08, 0.04, 0.02, 0.01, 0.005])
    other_arms = np.full(ARMS - best_arms.size, (1.0 - best_arms.sum()) / (ARMS - best_arms.size))
    tasks_by_name = {
        "two_modes": _rescaled("bandit/two_modes", others=ARMS - 2),
        "needle": _rescaled("bandit/needle", size=ARMS, mass=1e-4),
        "random": _rescaled("bandit/random", size=ARMS),
        "zipf": _rescaled("bandit/zipf", size=ARMS),
        "modes": bandit(np.repeat([1.0, 0.0], [best_arms.size, other_arms.size]), np.concatenate([best_arms, other_arms])),
    }
    flat = bandit(np.zeros(ARMS), np.exp(tasks_by_name["zipf"].log_reference[0]))
    return tuple(_from_reference(name, task) for name, task in tasks_by_name.items()) + tuple(
        _with_lost_arm(flat, far) for far in DROPPED
    )


def _rescaled(name: str, **options: Any) -> Task:
    """A registered bandit with its rewards rescaled to [0, 1]."""
    task = tasks.build(name, **options).task
    low, high = task.reward[1:].min(), task.reward[1:].max()
    return dataclasses.replace(task, reward=np.append(0.0, (task.reward[1:] - low) / (high - low)))


def _from_reference(name: str, task: Task) -> Setup:
    """The setup that starts at the reference."""
    automaton = task.automaton
    shape = (automaton.horizon, *task.log_reference.shape)
    ends = np.asarray(exact.outcome_probabilities(automaton, jnp.asarray(np.broadcast_to(task.log_reference, shape))))
    start = np.broadcast_to(np.where(automaton.legal, task.log_reference, 0.0), shape)
    rewards = task.reward[optimal_policy.final_states(batch.enumerate_all(automaton))]
    return Setup(name, task, start, ends, several=bool(np.sum(rewards == rewards.max()) > 1))


def _with_lost_arm(task: Task, far: float) -> Setup:
    """A setup that starts with e^-far of the likeliest arm's probability. Its reward is flat: the optimum is the reference."""
    arm = int(np.argmax(task.log_reference[0]))
    whole = _from_reference(f"lost_arm_{far:g}", task)
    start = whole.start.copy()
    start[0, 0, arm] -= far
    return whole._replace(start=start, lost=int(task.automaton.next_state[0, arm]), several=False)


@cache
def sequence(name: str) -> Setup:
    """The sequence task `name` of SEQUENCES, started at its reference."""
    return _from_reference(name, tasks.build(f"sequence/{name}", horizon=SEQUENCES[name]).task)


def runs(run_settings: settings.Settings, task: Task, size: Size) -> list[spec.Run]:
    """A run for each coefficient and seed of a task; the seed varies fastest. Without a penalty the coefficient is 0."""

    def one(beta: float, seed: int) -> spec.Run:
        beta = 0.0 if run_settings.penalty.divergence == "none" else beta
        penalty = dataclasses.replace(run_settings.penalty, beta=beta)
        return spec.make_run(dataclasses.replace(run_settings, penalty=penalty, seed=seed, steps=size.steps), task)

    return [one(beta, seed) for beta in size.betas for seed in range(size.seeds)]


def train_suite(run_settings: settings.Settings, setups: Sequence[Setup], size: Size) -> list[Reached]:
    """Train a penalty on tasks that share their automaton: for each task a `Reached` with leaves [B S ...]. Needs x64."""
    all_runs = [run for setup in setups for run in runs(run_settings, setup.task, size)]
    starts = np.stack([setup.start for setup in setups for _ in range(len(size.betas) * size.seeds)])
    results = _train(blocks.stack(all_runs, len(all_runs)), starts)
    shape = (len(setups), len(size.betas), size.seeds)
    by_task = jax.tree.map(lambda x: np.asarray(x).reshape(shape + x.shape[1:]), results)
    return [jax.tree.map(lambda x, i=i: x[i], by_task) for i in range(len(setups))]


@jax.jit
def _train(block: spec.Run, starts: Float[Array, "N T D V"]) -> Reached:
    return jax.vmap(_train_one)(block, starts)


def _train_one(run: spec.Run, start: Float[Array, "T D V"]) -> Reached:
    """Train one run from these logits, and measure the final policy."""
    state = loop.start(run)
    policy = eqx.tree_at(lambda p: jax.tree.leaves(p)[0], state.policy, start.astype(batch.float_dtype(state.policy)))
    cast_run = base.cast(run, jnp.dtype(run.settings.dtype))
    state = loop.steps(cast_run, state._replace(policy=policy), run.settings.steps)
    optimum = observe.optimum_at(run, jnp.asarray(run.settings.penalty.beta, jnp.float64))
    report = observe.observe(run, optimum, state).report
    final_policy = base.cast(state.policy, jnp.float64)
    ends = exact.outcome_probabilities(run.task.automaton, policies.table_of(final_policy))
    values: Any = (report.objective, report.values.reward, report.values.kl_pi_ref, optimum.objective, _gap(run, optimum))
    rest: Any = (retained_mass(run, final_policy), ends, state.step)
    return Reached(*values, *rest)


def _gap(run: spec.Run, optimum: optimal_policy.Optimum) -> Float[Array, ""]:
    """A bound on the optimum's own error: its Frank-Wolfe gap on a bandit, else 0 (sequences use the same root-find)."""
    penalty, automaton = run.settings.penalty, run.task.automaton
    div = divergence(penalty)
    if div is None or automaton.horizon > 1 or optimum.log_pi is None:
        return jnp.zeros(())
    start = int(automaton.starts[0])
    log_pi, log_ref = optimum.log_pi[0, start], policies.table_of(run.reference)[0, start]
    rewards = jnp.asarray(run.task.reward)[automaton.next_state[start]]
    params = parameters(penalty, jnp.float64)
    return bandit_optimum.gap(div, params, log_pi, log_ref, rewards, jnp.asarray(penalty.beta, jnp.float64))


def retained_mass(run: spec.Run, policy: policies.AnyPolicy) -> Float[Array, ""]:
    """1 - total variation between policy and reference, both conditioned on the sequences of the largest reward."""
    sequences = batch.enumerate_all(run.task.automaton)
    reward = jnp.asarray(run.task.reward)[optimal_policy.final_states(sequences)]
    best = reward == jnp.max(reward)
    conditioned = [jax.nn.softmax(scoring.log_probability(p, sequences), where=best) for p in (policy, run.reference)]
    return jnp.sum(jnp.minimum(*conditioned), where=best)
