"""Synthetic rollouts with a known fault each, drawn on one of rlkl's own tasks: `rlkl diagnose example:NAME`.

A policy is the reference of the task `sequence/grammar`, tilted: pi(y|s) in proportion to pi_ref(y|s) e^(a tilt(s, y)), with
one strength a for each prompt. Every number of an example can be computed exactly from its tables. The reward is 1 for a
sentence with any of the topics.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl import tasks
from rlkl.errors import SettingsError, nearest

STEPS, GROUPS, ANSWERS = 10, 32, 8  # of a run; groups are prompts of a step
SAMPLER_NOISE = 0.01  # standard deviation of mu's logits around those of pi, as of another kernel's rounding
LEARNT = 0.8  # strength at the end of a run


class Rollouts(NamedTuple):
    """Rollouts with the tables that they were made of: log-probabilities of P prompts' policies, samplers and references.

    arrays: as `diagnose` takes them. prompt: the prompt of each sequence.
    """

    arrays: dict[str, Any]
    policy: Float[np.ndarray, "P D V"]
    sampler: Float[np.ndarray, "P D V"]
    reference: Float[np.ndarray, "P D V"]
    prompt: Int[np.ndarray, " N"]


class Tables(NamedTuple):
    """The task's arrays: next states, end states from D on, rewards, the reference, and the direction of the tilt."""

    next_state: Int[np.ndarray, "D V"]
    horizon: int
    start: int
    reward: Float[np.ndarray, " S"]
    reference: Float[np.ndarray, "D V"]
    tilt: Float[np.ndarray, "D V"]


def tables() -> Tables:
    """The tables of the task that examples are drawn on."""
    task = tasks.build("sequence/grammar").task
    reference = np.asarray(task.log_reference, np.float64)
    tilt = np.random.default_rng(0).normal(size=reference.shape)
    automaton = task.automaton
    has_topic = np.arange(automaton.states) > automaton.decisions  # the first end state is that of sentences without one
    return Tables(automaton.next_state, automaton.horizon, int(automaton.starts[0]), has_topic.astype(float), reference, tilt)


def normalised(log_probs: Float[np.ndarray, "*n V"]) -> Float[np.ndarray, "*n V"]:
    """Log-probabilities that are normalised along the last axis; minus infinity stays."""
    most = log_probs.max(axis=-1, keepdims=True)
    return log_probs - most - np.log(np.exp(log_probs - most).sum(axis=-1, keepdims=True))


def tilted(task: Tables, strength: Float[np.ndarray, " P"]) -> Float[np.ndarray, "P D V"]:
    """The tables of policies with these strengths."""
    return normalised(task.reference + strength[:, None, None] * task.tilt)


def shifted(table: Float[np.ndarray, "*n V"], rows: slice | int, by: float, rank: int = 0) -> Float[np.ndarray, "*n V"]:
    """Tables with `by` added to the log-probability of the most likely token (rank 0), or of another rank, of some states."""
    changed = np.array(table)
    part = changed[..., rows, :] if isinstance(rows, slice) else changed[..., rows : rows + 1, :]
    token = np.argsort(-part, axis=-1, kind="stable")[..., rank : rank + 1]
    np.put_along_axis(part, token, np.take_along_axis(part, token, axis=-1) + by, axis=-1)
    return normalised(changed)


def draw(
    rng: np.random.Generator, task: Tables, log_probs: Float[np.ndarray, "P D V"], prompt: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """Tokens and states along sequences drawn from the prompts' tables, and the end states. After the end the state is -1."""
    cumulative = np.cumsum(np.exp(log_probs), axis=-1)
    state = np.full(len(prompt), task.start)
    tokens, states = (np.full((len(prompt), task.horizon), fill) for fill in (0, -1))
    for position in range(task.horizon):
        active = np.flatnonzero(state < len(task.next_state))
        rows = cumulative[prompt[active], state[active]]
        tokens[active, position] = (rows <= rng.random(len(active))[:, None] * rows[:, -1:]).sum(axis=1)
        states[active, position] = state[active]
        state[active] = task.next_state[state[active], tokens[active, position]]
    return tokens, states, state


Change = Callable[[Float[np.ndarray, "P D V"], float, np.random.Generator], np.ndarray]


def rollouts(
    seed: int = 0,
    strength: Callable[[float, np.random.Generator], float] = lambda progress, rng: LEARNT * progress * rng.uniform(0.75, 1.25),
    policy: Callable[[Float[np.ndarray, "P D V"]], np.ndarray] = lambda table: table,
    sampler: Change = lambda table, progress, rng: perturbed(table, SAMPLER_NOISE, rng),
    reward: Callable[[Float[np.ndarray, " N"], np.random.Generator], np.ndarray] = lambda reward, rng: reward,
    task: Tables | None = None,
    steps: int = STEPS,
    groups: int = GROUPS,
    answers: int = ANSWERS,
) -> Rollouts:
    """Rollouts of a run.

    strength: of a prompt's policy, by the run's progress from 0 to 1. policy: changes the tables of the policies. sampler: the
    tables that tokens are drawn from, by those of the policies and the progress. reward: of sequences, by those of the task.
    """
    rng, task = np.random.default_rng(seed), task or tables()
    progress = np.repeat(np.linspace(0.0, 1.0, steps), groups)
    pi = policy(tilted(task, np.array([strength(each, rng) for each in progress])))
    firsts = range(0, len(pi), groups)
    mu = np.concatenate([sampler(pi[first : first + groups], progress[first], rng) for first in firsts])
    prompt = np.repeat(np.arange(len(pi)), answers)
    tokens, states, ends = draw(rng, task, mu, prompt)
    reference = np.broadcast_to(task.reference, pi.shape)
    arrays = {
        "tokens": tokens,
        "mask": states >= 0,
        "log_probs": along(pi, prompt, states, tokens),
        "sampler_log_probs": along(mu, prompt, states, tokens),
        "ref_log_probs": along(reference, prompt, states, tokens),
        "reward": reward(task.reward[ends], rng),
        "group": prompt % groups,
        "step": prompt // groups,
        "temperature": 1.0,
    }
    return Rollouts(arrays, pi, mu, reference, prompt)


def along(
    table: Float[np.ndarray, "P D V"],
    prompt: Int[np.ndarray, " N"],
    states: Int[np.ndarray, "N T"],
    tokens: Int[np.ndarray, "N T"],
) -> Float[np.ndarray, "N T"]:
    """The log-probability of each token under its prompt's table; 0 after the end."""
    return np.where(states >= 0, table[prompt[:, None], np.maximum(states, 0), tokens], 0.0)


def perturbed(table: Float[np.ndarray, "P D V"], scale: float, rng: np.random.Generator) -> Float[np.ndarray, "P D V"]:
    """Tables with Gaussian noise of this standard deviation on their logits."""
    return normalised(table + scale * rng.normal(size=table.shape))


def mixed(table: Float[np.ndarray, "P D V"], other: Float[np.ndarray, "D V"], share: float) -> Float[np.ndarray, "P D V"]:
    """Tables of the mixture with a share of another table."""
    return np.logaddexp(np.log1p(-share) + table, np.log(share) + other)


def cooled(table: Float[np.ndarray, "P D V"], temperature: float) -> Float[np.ndarray, "P D V"]:
    """Tables at another temperature."""
    return normalised(table / temperature)


def truncated(table: Float[np.ndarray, "P D V"], top_p: float) -> Float[np.ndarray, "P D V"]:
    """Tables of the fewest tokens with at least this mass, renormalised."""
    order = np.argsort(-table, axis=-1, kind="stable")
    ordered = np.take_along_axis(np.exp(table), order, axis=-1)
    kept_in_order = np.cumsum(ordered, axis=-1) - ordered < top_p
    kept = np.zeros(table.shape, bool)
    np.put_along_axis(kept, order, kept_in_order, axis=-1)
    return normalised(np.where(kept, table, -np.inf))


def _clean(seed: int) -> Rollouts:
    return rollouts(seed)


def _negative_kl(seed: int) -> Rollouts:
    run = rollouts(seed, sampler=lambda table, progress, rng: np.broadcast_to(tables().reference, table.shape))
    return without(run, "sampler_log_probs")


def _temperature(seed: int) -> Rollouts:
    return without(rollouts(seed, sampler=lambda table, progress, rng: cooled(table, 0.7)), "sampler_log_probs", "temperature")


def _heavy_tails(seed: int) -> Rollouts:
    run = rollouts(seed, policy=lambda table: shifted(table, tables().start, -6.4), sampler=lambda table, progress, rng: table)
    return without(run, "sampler_log_probs", "step", "group")


def _kl_at_start(seed: int) -> Rollouts:
    return rollouts(seed, strength=lambda progress, rng: 0.4 + 0.4 * progress)


def _sampler_mismatch(seed: int) -> Rollouts:
    return rollouts(seed, sampler=lambda table, progress, rng: perturbed(table, 0.05 + 0.3 * progress, rng))


def _top_p(seed: int) -> Rollouts:
    run = rollouts(seed, sampler=lambda table, progress, rng: truncated(table, 0.9))
    return run._replace(arrays=run.arrays | {"top_p": 0.9, "reported": "processed"})


def _raw(seed: int) -> Rollouts:
    run = rollouts(seed, sampler=lambda table, progress, rng: cooled(table, 0.7))
    raw = run.arrays["log_probs"] + SAMPLER_NOISE * np.random.default_rng(seed).normal(size=run.arrays["log_probs"].shape)
    return run._replace(arrays=run.arrays | {"sampler_log_probs": np.minimum(raw, 0.0), "temperature": 0.7, "reported": "raw"})


def _clamped(seed: int) -> Rollouts:
    task = tables()
    rare = task._replace(reference=shifted(task.reference, slice(None), -20.0, rank=2))
    return without(rollouts(seed, task=rare, policy=lambda table: mixed(table, task.reference, 0.02)), "step", "group")


def _clipped(seed: int) -> Rollouts:
    return rollouts(seed, sampler=lambda table, progress, rng: perturbed(table, 0.3, rng))


def _zero_std(seed: int) -> Rollouts:
    return rollouts(seed, reward=lambda reward, rng: (rng.random(len(reward)) < 0.03).astype(float))


def _entropy_collapse(seed: int) -> Rollouts:
    return rollouts(seed, strength=lambda progress, rng: 8.0 * progress)


def _length_bias(seed: int) -> Rollouts:
    task = tables()
    half = np.arange(len(task.tilt)) >= len(task.tilt) // 2  # states in the second half of a sentence
    return rollouts(seed, task=task._replace(tilt=np.where(half[:, None], task.tilt, 0.0)))


EXAMPLES: dict[str, tuple[str, Callable[[int], Rollouts]]] = {
    "clean": ("a healthy run", _clean),
    "negative_kl": ("the reference's tokens, scored as the policy's", _negative_kl),
    "temperature": ("tokens drawn at temperature .7, and nothing that says so", _temperature),
    "heavy_tails": ("a policy that has all but dropped the most common way to begin", _heavy_tails),
    "kl_at_start": ("a policy that does not start at its reference", _kl_at_start),
    "sampler_mismatch": ("a sampler that drifts away from the policy", _sampler_mismatch),
    "top_p": ("a sampler with top_p=.9 that reports processed log-probabilities", _top_p),
    "raw": ("a sampler at temperature .7 that reports raw log-probabilities", _raw),
    "clamped": ("tokens that the reference finds all but impossible", _clamped),
    "clipped": ("a sampler far from the policy", _clipped),
    "zero_std": ("prompts that are nearly always failed", _zero_std),
    "entropy_collapse": ("a policy that becomes deterministic", _entropy_collapse),
    "length_bias": ("a KL that stands in the ends of long sentences", _length_bias),
}


def without(run: Rollouts, *names: str) -> Rollouts:
    """The rollouts without some arrays."""
    return run._replace(arrays={name: array for name, array in run.arrays.items() if name not in names})


def example(name: str, seed: int = 0) -> Rollouts:
    """The rollouts of an example by name; raises `SettingsError` for one that there is not."""
    if name not in EXAMPLES:
        raise SettingsError("example", name, nearest(name, EXAMPLES))
    return EXAMPLES[name][1](seed)
