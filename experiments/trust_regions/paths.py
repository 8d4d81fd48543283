"""Sampled training on several samplers at once: training's own steps, each told which policy samples its batch.

Staleness and temperature are numbers here, not programs of their own, so that all samplers and seeds of a method are one
program. The run is set to a staleness of one batch, whose policy is replaced before each step.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.trust_regions.methods import SAMPLERS
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.policies import base
from rlkl.training import loop
from rlkl.training.spec import Run

SEEDS = 5
STEPS, EVERY = 4000, 20  # a row every so many steps
REFERENCE = (0.3, 0.25, 0.15, 0.1, 0.08, 0.06, 0.03, 0.02, 0.008, 0.002)
REWARD = (0.0, 0.2, 0.0, 0.2, 0.0, 0.2, 0.0, 0.2, 1.0, 0.0)
ARMS = [f"task.reward={list(REWARD)}".replace(" ", ""), f"task.reference={list(REFERENCE)}".replace(" ", "")]
TASKS = {
    "bandit": ["task=bandit/custom", *ARMS, "penalty.beta=0.15", "optimizer.learning_rate=0.1"],
    "ladder": [
        "task=automaton/custom", "task.path=experiments/wrong_gradient/ladder.json", "penalty.beta=0.1",
        "optimizer.learning_rate=0.03",
    ],
}  # fmt: skip
PLAIN = ["algorithm=rloo", "penalty.estimator=k1", "penalty.placement=reward", "dtype=float64", "tracking=none"]
KEPT = max(sampler.staleness for sampler in SAMPLERS.values()) + 1


class Path(NamedTuple):
    """Of each lane (a sampler and a seed) and row: log pi of all tokens, and the share of the batch's tokens touched."""

    log_pi: Float[Array, "L R T D V"]
    touched: Float[Array, "L R"]


class Lane(NamedTuple):
    """A sampler and a seed, as numbers."""

    staleness: Int[Array, ""]
    temperature: Float[Array, ""]
    seed: Int[Array, ""]


def run_of(task: str, overrides: Sequence[str], steps: int = STEPS) -> Run:
    """A run in double precision, with the penalty in the reward, where it is exact on policy."""
    return build(compose([*TASKS[task], *PLAIN, *overrides, "rollout.staleness=1", f"steps={steps}"])).run


def follow(run: Run, seeds: int = SEEDS, every: int = EVERY) -> Path:
    """The paths of all samplers and seeds, samplers first. Needs x64."""
    lanes = [(*sampler, seed) for sampler in SAMPLERS.values() for seed in range(seeds)]
    staleness, temperature, seed = zip(*lanes, strict=True)
    chosen = Lane(jnp.asarray(staleness, jnp.int32), jnp.asarray(temperature), jnp.asarray(seed))
    return _follow(jax.tree.map(jnp.asarray, run), chosen, every)


@partial(jax.jit, static_argnums=2)
def _follow(run: Run, lanes: Lane, every: int) -> Path:
    return jax.vmap(lambda lane: _path(run, lane, every))(lanes)


def _path(run: Run, lane: Lane, every: int) -> Path:
    run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, seed=lane.seed))
    cast, first = base.cast(run, jnp.float64), loop.start(run)

    def step(index, carry):
        state, policies = carry
        policies = jax.tree.map(lambda old, new: old.at[state.step % KEPT].set(new), policies, state.policy)
        place = jnp.maximum(state.step - lane.staleness, 0) % KEPT
        sampler = jax.tree.map(lambda old: old[place][None], policies)
        sampler = eqx.tree_at(lambda policy: policy.logits, sampler, sampler.logits / lane.temperature)
        return loop.step(cast, state._replace(stale_policies=sampler), index == every - 1), policies

    def row(carry, _):
        state, policies = jax.lax.fori_loop(0, every, step, carry)
        stats = state.batch_stats
        touched = stats.truncated if run.settings.algorithm.surrogate == "none" else stats.touched
        return (state, policies), (state.policy.table(), touched)

    kept = jax.tree.map(lambda x: jnp.stack([x] * KEPT), first.policy)
    _, rows = jax.lax.scan(row, (first, kept), length=run.settings.steps // every)
    return Path(*rows)
