"""Best of n: n sequences of the reference, of which the best by the reward is kept.

Its law is known: an outcome of probability p whose reward is reached or exceeded downwards with probability F (F^- without its
ties) is kept with probability F^n - (F^-)^n, shared among ties in proportion to p. KL(best of n‖reference) is at most
log n - (n-1)/n, reached without ties on a continuous reward (Beirami et al. 2024, "Theoretical guarantees on the best-of-n
alignment policy", arXiv 2401.01879). On the host, in float64; E outcomes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from rlkl.exact import optimal_policy, policy_values
from rlkl.exact.methods import evaluation_method
from rlkl.policies import AnyPolicy, Fixed, table_of
from rlkl.rollouts import sampling, scoring
from rlkl.tasks.automaton import Task

SAMPLES, GROUPS = 2**14, 32  # of a reference whose law is too large to list; groups that the jackknife leaves out


class BestOfN(NamedTuple):
    """What best of n is worth: nats, per sequence. win_rate: against a draw of the reference, a tie counting half. gold_reward:
    None where the task has none. stderr: by name, of what was sampled; empty where everything is exact."""

    n: int
    reward: float
    kl_pi_ref: float
    win_rate: float
    entropy: float
    typicality: float  # E[log pi_ref] of a sequence
    gold_reward: float | None
    stderr: dict[str, float]


def most_kl(n: int) -> float:
    """log n - (n-1)/n: KL(best of n‖reference) without ties, and at most that with them."""
    return math.log(n) - (n - 1) / n


def ratios(p: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], n: int) -> Float[np.ndarray, " E"]:
    """The probability of each outcome under best of n over that under the reference (n F^(n-1) where that is 0)."""
    values, level = np.unique(reward, return_inverse=True)
    mass = np.bincount(level, p, len(values))
    upto = np.cumsum(mass) / mass.sum()
    share = np.divide(mass / mass.sum(), upto, out=np.zeros_like(mass), where=upto > 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = -np.expm1(n * np.log1p(-np.minimum(share, 1.0))) / share  # 1 - (F^-/F)^n, without cancelling
    return (np.where(share > 0.0, kept, float(n)) * upto ** (n - 1))[level]


def pmf(p: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], n: int) -> Float[np.ndarray, " E"]:
    """The probability of each outcome under best of n; p: under the reference."""
    return p * ratios(p, reward, n)


def win_rate(p: Float[np.ndarray, " E"], other: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"]) -> float:
    """The probability that a draw of p has a larger reward than one of `other`, plus half that of a tie."""
    values, level = np.unique(reward, return_inverse=True)
    mine, theirs = (np.bincount(level, q, len(values)) for q in (p, other))
    return float(mine @ (np.cumsum(theirs) - 0.5 * theirs))


def evaluate(task: Task, reference: AnyPolicy, n: int, key: PRNGKeyArray | None = None) -> BestOfN:
    """Best of n >= 1 sequences of `reference`, by the task's reward. Needs x64.

    reference: the policy that draws them, and that KL and win rate are against: `Fixed(task.log_reference,
    task.automaton.horizon)` is the task's own, and what `rlkl.load_policy` returns will do. Exact where it is a table and the
    reward one of the end state, or where the sequences can be listed; else estimated (`key`) from SAMPLES sequences, with
    jackknife standard errors. Raises `ValueError` where it must draw and there is no key.
    """
    gold = None if task.gold is None else np.asarray(task.gold)
    method = evaluation_method(task.automaton, (reference,))
    if method == "dynamic program" and float(task.typicality) == 0.0 and task.reward_model is None:
        return _by_end_state(task, reference, gold, n)
    is_exact = task.automaton.is_enumerable
    if not is_exact and key is None:
        raise ValueError("this reference's law is too large to list: best of n needs a key to draw from it")
    batch = sampling.weighted_batch(jax.random.key(0) if key is None else key, task.automaton, reference, SAMPLES)
    log_p, reward = _read(task, reference, batch)
    possible = log_p > -np.inf
    log_p, reward, end = log_p[possible], reward[possible], np.asarray(batch.states)[possible, -1]

    def estimates(weight):
        return _values(weight / weight.sum(), reward, log_p, None if gold is None else gold[end], n)

    return estimates(np.exp(log_p)) if is_exact else _jackknife(estimates)


def policy(task: Task, reference: AnyPolicy, n: int) -> Fixed:
    """Best of n as a table, beside a table reference and a reward of the end state: it then is one, sequence for sequence."""
    log_ref = table_of(reference)
    p = np.asarray(policy_values.outcome_probabilities(task.automaton, log_ref))
    at = task.automaton.outcomes
    ratio = np.ones(task.automaton.states)
    ratio[at] = ratios(p[at], np.asarray(task.reward)[at], n)
    tilt = jnp.where(task.automaton.ends, jnp.log(ratio)[np.maximum(task.automaton.next_state, 0)][None], 0.0)
    return Fixed(optimal_policy.pull_back(task.automaton, log_ref + tilt), task.automaton.horizon)


def _by_end_state(task: Task, reference: AnyPolicy, gold, n: int) -> BestOfN:
    """Given its end state, a sequence kept is one of the reference's: KL and win rate are those of end states."""
    at = task.automaton.outcomes
    p = np.asarray(policy_values.outcome_probabilities(task.automaton, table_of(reference)))[at]
    reward, kept = np.asarray(task.reward)[at], policy(task, reference, n)
    occupied = policy_values.occupancy(task.automaton, kept.table())
    typical = float(policy_values.visited(occupied, policy_values.mean(jnp.exp(kept.table()), table_of(reference))))
    values = _values(p, reward, np.zeros_like(p), None if gold is None else gold[at], n)
    return values._replace(entropy=max(0.0, -typical - values.kl_pi_ref), typicality=typical)


def _values(p, reward, log_ref, gold, n: int) -> BestOfN:
    """Best of n over outcomes of probability p."""
    ratio = ratios(p, reward, n)
    kept = p * ratio
    held = kept > 0.0
    kl = max(0.0, float(kept[held] @ np.log(ratio[held])))  # above 0 but for rounding
    typical = float(kept @ log_ref)
    earned = None if gold is None else float(kept @ gold)
    return BestOfN(n, float(kept @ reward), kl, win_rate(kept, p, reward), max(0.0, -typical - kl), typical, earned, {})


def _read(task: Task, reference: AnyPolicy, batch) -> tuple[np.ndarray, np.ndarray]:
    """log pi_ref and the reward of each sequence of a batch."""
    log_p = jax.jit(scoring.log_probability)(reference, batch._replace(weight=jnp.zeros(len(batch.weight))))
    reward = jnp.sum(policy_values.sequence_rewards(task, batch, log_p.dtype), axis=1)
    return np.asarray(log_p, np.float64), np.asarray(reward, np.float64)


def _jackknife(estimates: Callable[[Float[np.ndarray, " N"]], BestOfN]) -> BestOfN:
    """The estimates from all samples, corrected for the part of their bias that falls with the number of samples, and their
    standard errors: from leaving out each of GROUPS groups."""
    group = np.arange(SAMPLES) % GROUPS
    whole = estimates(np.ones(SAMPLES))
    without = [estimates((group != g).astype(np.float64)) for g in range(GROUPS)]
    values: dict[str, Any] = {}
    stderr: dict[str, float] = {}
    for name in BestOfN._fields[1:-1]:
        if getattr(whole, name) is not None:
            apart = np.array([getattr(part, name) for part in without])
            values[name] = float(GROUPS * getattr(whole, name) - (GROUPS - 1) * apart.mean())
            stderr[name] = float(np.sqrt((GROUPS - 1) * np.mean((apart - apart.mean()) ** 2)))
    return whole._replace(**(values | {"stderr": stderr}))
