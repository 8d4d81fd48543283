"""The grade of a policy for each prompt of a task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import exact
from rlkl.evaluation.expectations import DynamicProgram, Enumeration
from rlkl.evaluation.sampled_values import Sample
from rlkl.exact import Objective, Values, optimal_policy, utility
from rlkl.exact.by_prompt import sum_states
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import Policy
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all, joint_log_probability


class PromptGrades(NamedTuple):
    """The grade of a policy for each prompt, in nats per sequence, and success rates by the name of the policy.

    A success is an outcome with the largest reward of the task. stderr: the standard errors of estimated values, by name; empty
    where all are exact. Success rates of sampled policies are frequencies.
    """

    values: Values
    objective: Float[Array, " P"]
    optimal_objective: Float[Array, " P"]
    success: dict[str, Float[Array, " P"]]
    stderr: dict[str, Float[Array, " P"]]


def prompt_grades(
    policy: DynamicProgram | Enumeration | Sample, optimum: Optimum, ends: dict[str, Float[Array, " S"]]
) -> PromptGrades:
    """Grade a policy for each prompt. ends: the probabilities of prompt and end state, by the name of each policy."""
    objective, values = policy.objective, policy.prompt_values()
    if optimum.utility is not None:
        ends = ends | {"utility_optimum": end_probabilities(objective, optimum.utility)}
    success = {name: _success_rates(objective, each) for name, each in ends.items()}
    value = objective.value(values.reward, values.divergence)
    return PromptGrades(values, value, _optimal_objectives(objective, optimum), success, policy.prompt_errors())


def _success_rates(objective: Objective, ends: Float[Array, " S"]) -> Float[Array, " P"]:
    """The success rate for each prompt; NaN where a reward model scores whole sequences."""
    automaton = objective.task.automaton
    rates = sum_states(automaton, ends * utility.successes(objective.task)) / sum_states(automaton, ends)
    return rates if objective.task.reward_model is None else jnp.full_like(rates, jnp.nan)


def end_probabilities(objective: Objective, optimum: Optimum) -> Float[Array, " S"]:
    """The probabilities of prompt and end state under an optimum that is a table, or lists all sequences."""
    automaton = objective.task.automaton
    if optimum.log_pi is not None:
        return exact.outcome_probabilities(automaton, optimum.log_pi)
    sequences = enumerate_all(automaton)
    assert optimum.log_listed is not None
    joint = jnp.exp(joint_log_probability(automaton, sequences, optimum.log_listed))
    return jax.ops.segment_sum(joint, optimal_policy.final_states(sequences), automaton.states)


def _optimal_objectives(objective: Objective, optimum: Optimum) -> Float[Array, " P"]:
    """The optimum's objective for each prompt; NaN where it is known for all prompts together only."""
    automaton, reference = objective.task.automaton, objective.reference
    if optimum.log_pi is not None and isinstance(reference, Policy):
        values = exact.prompt_values(objective, optimum.log_pi)
    elif automaton.is_enumerable and objective.task.reward_model is None:
        sequences = enumerate_all(automaton)
        log_ref = scoring.log_probability(reference, sequences)
        log_optimum = optimum.log_probability(sequences, log_ref)
        values = exact.enumerated_prompt_values(objective, sequences, log_optimum, log_ref)
    else:
        return jnp.full((automaton.prompts,), jnp.nan)
    return objective.value(values.reward, values.divergence)
