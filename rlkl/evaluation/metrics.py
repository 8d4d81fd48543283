"""Grades of a policy: its values, its regret and its KL to another policy."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.evaluation.diversity import Estimate
from rlkl.evaluation.expectations import DynamicProgram, Enumeration, expectations
from rlkl.evaluation.sampled_values import Sample, exactly, mean_of, summed_rows
from rlkl.exact import Objective, Values, methods
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling
from rlkl.tasks.automaton import Automaton

ROW_SAMPLES, LAST_SAMPLES = 1024, 8192  # sequences that an estimate uses in a logged row, and in the final grade


NONNEGATIVE = frozenset((
    "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum", "kl_optimum_pi", "tv_optimum", "kl_pi_anchor", "kl_policy",
    "kl_per_token", "kl_ref_pi_per_token", "entropy", "entropy_per_token", "mode_entropy",
))  # fmt: skip


def clip_rounding(name: str, values: Any) -> np.ndarray:
    """The values on the host, with those below 0 set to 0 if the named quantity cannot be negative; -0 becomes 0."""
    numbers = np.asarray(values)
    zero = numbers <= 0 if name in NONNEGATIVE else numbers == 0
    return np.where(zero, np.zeros((), numbers.dtype), numbers)


class Report(NamedTuple):
    """The grade of a policy: scalars, in nats per sequence.

    objective is E[r] - beta D. regret is the optimum's objective minus the policy's. kl_pi_optimum is KL(pi‖pi*). gold_regret,
    on a task with a gold reward, is the largest E[gold] - beta D minus the policy's. stderr holds the standard errors of
    estimated values by the names of the history's columns; it is empty where all are exact.
    """

    values: Values
    objective: Float[Array, ""]
    regret: Float[Array, ""]
    kl_pi_optimum: Float[Array, ""]
    stderr: dict[str, Float[Array, ""]]
    gold_regret: Float[Array, ""] | None = None


def evaluate(objective: Objective, policy: AnyPolicy, optimum: Optimum, key: PRNGKeyArray, size: int = ROW_SAMPLES) -> Report:
    """Grade a policy exactly if possible, else from `size` sequences sampled with `key`."""
    return report(expectations(objective, policy, key, size), optimum)


def report(policy: DynamicProgram | Enumeration | Sample, optimum: Optimum) -> Report:
    """Grade a policy from its expectations."""
    values, stderr = policy.values(), policy.standard_errors()
    objective = policy.objective.value(values.reward, values.divergence)
    kl, kl_error = policy.kl_to(optimum)
    if stderr:
        error = jnp.hypot(stderr["objective"], jnp.asarray(optimum.stderr, objective.dtype))
        stderr |= {"regret": jnp.where(jnp.isnan(optimum.objective), jnp.nan, error), "kl_pi_optimum": kl_error}
    gold_regret = None
    if values.gold_reward is not None:
        assert optimum.gold_objective is not None
        gold_regret = optimum.gold_objective - (objective - values.reward + values.gold_reward)
        if stderr:
            error = stderr.pop("gold_objective")
            stderr["gold_regret"] = jnp.hypot(error, jnp.asarray(optimum.gold_stderr, error.dtype))
    kl = jnp.where(optimum.no_unique_policy, jnp.nan, kl)
    return Report(values, objective, optimum.objective - objective, kl, stderr, gold_regret)


def distance(automaton: Automaton, policy: AnyPolicy, other: AnyPolicy, key: PRNGKeyArray, size: int = ROW_SAMPLES) -> Estimate:
    """KL(policy‖other) of the distributions of sequences, and its standard error (0 where it is exact)."""
    kl, params = divergences.REGISTRY["kl_pi_ref"], Params()
    if methods.evaluation_method(automaton, (policy, other)) != "samples":
        return exactly(exact.between(automaton, kl, params, policy, other))
    batch, positions = sampling.sample_with_positions(key, automaton, policy, other, size)
    terms = summed_rows(divergences.exact(kl, params, positions.log_pi, positions.log_ref), positions, batch)
    return mean_of(terms)
