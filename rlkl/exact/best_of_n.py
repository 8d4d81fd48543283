"""Best-of-n sampling: draw n sequences from the reference and return the one with the largest reward.

Its distribution is known. With F(r) and F^-(r) the reference's probabilities of a reward at most and below r, best of n returns
reward r with probability F(r)^n - F^-(r)^n, shared among outcomes of equal reward in proportion to their probabilities p.
On a task with several prompts the n sequences answer one prompt, and values are means over prompts.
KL(best of n‖reference) is at most log n - (n-1)/n, with equality for a continuous reward without ties (Beirami et al. 2024,
"Theoretical guarantees on the best-of-n alignment policy", arXiv 2401.01879). Computed on the host, in float64; E outcomes.
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
from rlkl.tasks.automaton import Automaton, Task

SAMPLES = 2**14  # sequences drawn from a reference with too many sequences to enumerate
GROUPS = 32  # groups of samples that the jackknife leaves out in turn


class BestOfN(NamedTuple):
    """Values of best-of-n sampling, in nats per sequence.

    win_rate is against one sequence of the reference, a tie counting half. typicality is E[log pi_ref(y)]. gold_reward is None
    where the task has no gold reward. stderr holds the standard errors of estimated values by name; it is empty where all are
    exact.
    """

    n: int
    reward: float
    kl_pi_ref: float
    win_rate: float
    entropy: float
    typicality: float
    gold_reward: float | None
    stderr: dict[str, float]


def most_kl(n: int) -> float:
    """The largest KL(best of n‖reference), log n - (n-1)/n, reached by a continuous reward without ties."""
    return math.log(n) - (n - 1) / n


def ratios(p: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], n: int) -> Float[np.ndarray, " E"]:
    """The ratio of each outcome's probability under best of n to that under the reference, p; n F^(n-1) where p is 0."""
    values, level = np.unique(reward, return_inverse=True)
    mass = np.bincount(level, p, len(values))
    cdf = np.cumsum(mass) / mass.sum()
    share = np.divide(mass / mass.sum(), cdf, out=np.zeros_like(mass), where=cdf > 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = -np.expm1(n * np.log1p(-np.minimum(share, 1.0))) / share  # (1 - (F^-/F)^n)/share, without cancellation
    return (np.where(share > 0.0, factor, float(n)) * cdf ** (n - 1))[level]


def pmf(p: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"], n: int) -> Float[np.ndarray, " E"]:
    """The probability of each outcome under best of n, where p is its probability under the reference."""
    return p * ratios(p, reward, n)


def win_rate(p: Float[np.ndarray, " E"], other: Float[np.ndarray, " E"], reward: Float[np.ndarray, " E"]) -> float:
    """The probability that an outcome drawn from p has a larger reward than one drawn from `other`, plus half that of a tie."""
    values, level = np.unique(reward, return_inverse=True)
    mass, other_mass = (np.bincount(level, q, len(values)) for q in (p, other))
    return float(mass @ (np.cumsum(other_mass) - 0.5 * other_mass))


def evaluate(task: Task, reference: AnyPolicy, n: int, key: PRNGKeyArray | None = None) -> BestOfN:
    """Evaluate best of n >= 1 sequences of `reference` by the task's reward. Needs x64.

    reference: the policy that draws the sequences and that KL and win rate are measured against, for instance
    `Fixed(task.log_reference, task.automaton.horizon)`, the task's own, or a policy from `rlkl.load_policy`. The values are
    exact where the reference is a table and the reward depends on the end state alone, or where the sequences can be
    enumerated. Otherwise they are estimated from SAMPLES sequences drawn with `key`, with jackknife standard errors. Raises
    `ValueError` where a key is needed and None is given.
    """
    gold = None if task.gold is None else np.asarray(task.gold)
    method = evaluation_method(task.automaton, (reference,))
    if method == "dynamic program" and float(task.typicality) == 0.0 and task.reward_model is None:
        return _by_end_state(task, reference, gold, n)
    is_exact = task.automaton.is_enumerable
    if not is_exact and key is None:
        raise ValueError("the reference has too many sequences to enumerate: best of n needs a key to sample them")
    batch = sampling.weighted_batch(jax.random.key(0) if key is None else key, task.automaton, reference, SAMPLES)
    log_p, reward = _log_probability_and_reward(task, reference, batch)
    possible = log_p > -np.inf
    log_p, reward, end_state = log_p[possible], reward[possible], np.asarray(batch.states)[possible, -1]
    prompt = task.automaton.prompt_of[end_state]

    def values_of(rows, weight):
        """The values over the sequences of one prompt."""
        weight = weight[rows] / weight[rows].sum()
        return _values(weight, reward[rows], log_p[rows], None if gold is None else gold[end_state[rows]], n)

    def estimates(weight):
        return _average(task.automaton, [values_of(prompt == i, weight) for i in range(task.automaton.prompts)])

    return estimates(np.exp(log_p)) if is_exact else _jackknife(estimates)


def _average(automaton: Automaton, of_prompts: list[BestOfN]) -> BestOfN:
    """The mean of the values over prompts, by their weights."""
    if automaton.prompts == 1:
        return of_prompts[0]
    first = of_prompts[0]
    names = [name for name in BestOfN._fields[1:-1] if getattr(first, name) is not None]
    means: dict[str, Any] = {name: float(automaton.prompt_weights @ [getattr(x, name) for x in of_prompts]) for name in names}
    return first._replace(**means)


def policy(task: Task, reference: AnyPolicy, n: int) -> Fixed:
    """The table policy with the distribution of best of n, for a table reference and a reward of the end state alone."""
    log_ref = table_of(reference)
    p = np.asarray(policy_values.outcome_probabilities(task.automaton, log_ref))
    ratio = np.ones(task.automaton.states)
    for padded in task.automaton.outcomes_by_prompt:
        ends = padded[padded >= 0]
        ratio[ends] = ratios(p[ends], np.asarray(task.reward)[ends], n)
    tilt = jnp.where(task.automaton.ends, jnp.log(ratio)[np.maximum(task.automaton.next_state, 0)][None], 0.0)
    return Fixed(optimal_policy.pull_back(task.automaton, log_ref + tilt), task.automaton.horizon)


def _by_end_state(task: Task, reference: AnyPolicy, gold, n: int) -> BestOfN:
    """Exact values of best of n from the distribution of end states.

    Given its end state, a sequence of best of n is distributed as one of the reference, so KL and win rate are those of end
    states.
    """
    joint = np.asarray(policy_values.outcome_probabilities(task.automaton, table_of(reference)))
    best_of_n = policy(task, reference, n)
    visits = policy_values.occupancy(task.automaton, best_of_n.table())
    typicality = float(policy_values.visited(visits, policy_values.mean(jnp.exp(best_of_n.table()), table_of(reference))))
    of_prompts = []
    for padded, weight in zip(task.automaton.outcomes_by_prompt, task.automaton.prompt_weights, strict=True):
        ends = padded[padded >= 0]
        p, reward = joint[ends] / weight, np.asarray(task.reward)[ends]
        of_prompts.append(_values(p, reward, np.zeros_like(p), None if gold is None else gold[ends], n))
    values = _average(task.automaton, of_prompts)
    return values._replace(entropy=max(0.0, -typicality - values.kl_pi_ref), typicality=typicality)


def _values(p, reward, log_ref, gold, n: int) -> BestOfN:
    """The values of best of n over outcomes whose probabilities under the reference are p."""
    ratio = ratios(p, reward, n)
    pi = p * ratio
    support = pi > 0.0
    kl = max(0.0, float(pi[support] @ np.log(ratio[support])))  # negative only by rounding
    typicality = float(pi @ log_ref)
    gold_reward = None if gold is None else float(pi @ gold)
    entropy = max(0.0, -typicality - kl)
    return BestOfN(n, float(pi @ reward), kl, win_rate(pi, p, reward), entropy, typicality, gold_reward, {})


def _log_probability_and_reward(task: Task, reference: AnyPolicy, batch) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability under the reference and the reward of each sequence of a batch."""
    log_p = jax.jit(scoring.log_probability)(reference, batch._replace(weight=jnp.zeros(len(batch.weight))))
    reward = jnp.sum(policy_values.sequence_rewards(task, batch, log_p.dtype), axis=1)
    return np.asarray(log_p, np.float64), np.asarray(reward, np.float64)


def _jackknife(estimates: Callable[[Float[np.ndarray, " N"]], BestOfN]) -> BestOfN:
    """The jackknife estimates and standard errors, leaving out each of GROUPS groups of samples in turn.

    estimates: the values from a weight of each sample. The jackknife removes their bias of order 1/SAMPLES.
    """
    group = np.arange(SAMPLES) % GROUPS
    from_all = estimates(np.ones(SAMPLES))
    without_group = [estimates((group != g).astype(np.float64)) for g in range(GROUPS)]
    values: dict[str, Any] = {}
    stderr: dict[str, float] = {}
    for name in BestOfN._fields[1:-1]:
        if getattr(from_all, name) is not None:
            replicates = np.array([getattr(each, name) for each in without_group])
            values[name] = float(GROUPS * getattr(from_all, name) - (GROUPS - 1) * replicates.mean())
            stderr[name] = float(np.sqrt((GROUPS - 1) * np.mean((replicates - replicates.mean()) ** 2)))
    return from_all._replace(**(values | {"stderr": stderr}))
