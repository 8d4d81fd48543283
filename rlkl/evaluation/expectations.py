"""Expectations under a policy: by dynamic program, by enumeration of all sequences, or from samples.

Each method is a class with the same functions: `values`, their `standard_errors`, `kl_to` the optimum, and `weighted_rows`.
Only `expectations` and `sequence_expectations` choose between the classes.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.evaluation.diversity import Estimate
from rlkl.evaluation.rows import WeightedRows, rows_of_batch
from rlkl.evaluation.sampled_values import KL, Sample, exactly, sample
from rlkl.exact import Objective, Values, methods
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all, joint_log_probability, positions_from_rows
from rlkl.tasks.automaton import Task


class DynamicProgram(eqx.Module):
    """Exact expectations for a table policy and a table reference, by dynamic programming over positions and states."""

    objective: Objective
    policy: Policy

    def values(self) -> Values:
        """The values of the policy."""
        return exact.values(self.objective, self.policy.table())

    def prompt_values(self) -> Values:
        """The values for each prompt."""
        return exact.prompt_values(self.objective, self.policy.table())

    def prompt_errors(self) -> dict[str, Float[Array, " P"]]:
        """An empty dictionary, since the values are exact."""
        return {}

    def standard_errors(self) -> dict[str, Float[Array, ""]]:
        """An empty dictionary, since the values are exact."""
        return {}

    def kl_to(self, optimum: Optimum) -> Estimate:
        """KL(pi‖pi*) and its standard error 0."""
        log_pi, automaton = self.policy.table(), self.objective.task.automaton
        if optimum.log_pi is not None:
            return exactly(exact.sequence_divergence(automaton, KL, Params(), log_pi, optimum.log_pi))
        return enumeration(self.objective, self.policy).kl_to(optimum)

    def weighted_rows(self) -> WeightedRows:
        """The rows of the decision states, weighted by their occupancy."""
        automaton, log_pi = self.objective.task.automaton, self.policy.table()
        ends = exact.outcome_probabilities(automaton, log_pi)
        return WeightedRows(exact.occupancy(automaton, log_pi), log_pi, table_of(self.objective.reference), ends)


class Enumeration(eqx.Module):
    """Exact expectations for any policy, from its and the reference's log-probabilities of all sequences, given the prompt."""

    objective: Objective
    policy: AnyPolicy
    log_pi: Float[Array, " N"]
    log_ref: Float[Array, " N"]

    def values(self) -> Values:
        """The values of the policy."""
        sequences = enumerate_all(self.objective.task.automaton)
        return exact.enumerated_values(self.objective, sequences, self.log_pi, self.log_ref)

    def prompt_values(self) -> Values:
        """The values for each prompt."""
        sequences = enumerate_all(self.objective.task.automaton)
        return exact.enumerated_prompt_values(self.objective, sequences, self.log_pi, self.log_ref)

    def prompt_errors(self) -> dict[str, Float[Array, " P"]]:
        """An empty dictionary, since the values are exact."""
        return {}

    def standard_errors(self) -> dict[str, Float[Array, ""]]:
        """An empty dictionary, since the values are exact."""
        return {}

    def kl_to(self, optimum: Optimum) -> Estimate:
        """KL(pi‖pi*) and its standard error 0."""
        return exactly(divergences.exact(KL, Params(), self._joint(self.log_pi), self._log_optimum(optimum)))

    def distances(self, optimum: Optimum, key: PRNGKeyArray) -> dict[str, Estimate]:
        """KL(pi*‖pi) and the total variation between pi* and pi, with standard errors 0; `key` is not used."""
        log_pi, log_optimum = self._joint(self.log_pi), self._log_optimum(optimum)
        total_variation = 0.5 * jnp.sum(jnp.abs(jnp.exp(log_pi) - jnp.exp(log_optimum)))
        kl = divergences.exact(KL, Params(), log_optimum, log_pi)
        return {"kl_optimum_pi": exactly(kl), "tv_optimum": exactly(total_variation)}

    def weighted_rows(self) -> WeightedRows:
        """The rows along all sequences, weighted by the sequences' probabilities."""
        batch = enumerate_all(self.objective.task.automaton)._replace(weight=jnp.exp(self._joint(self.log_pi)))
        rows = (scoring.rows_along(policy, batch) for policy in (self.policy, self.objective.reference))
        return rows_of_batch(self.objective.task.automaton, batch, positions_from_rows(*rows))

    def _log_optimum(self, optimum: Optimum) -> Float[Array, " N"]:
        """The optimum's log-probability of each prompt and sequence."""
        return self._joint(optimum.log_probability(enumerate_all(self.objective.task.automaton), self.log_ref))

    def _joint(self, log_probability: Float[Array, " N"]) -> Float[Array, " N"]:
        """The log-probability of prompt and sequence."""
        automaton = self.objective.task.automaton
        return joint_log_probability(automaton, enumerate_all(automaton), log_probability)


def expectations(
    objective: Objective, policy: AnyPolicy, key: PRNGKeyArray, size: int
) -> DynamicProgram | Enumeration | Sample:
    """Expectations under a policy, exact if possible, else from `size` sequences sampled with `key`."""
    method = methods.values_method(objective, policy)
    if method == "dynamic program":
        assert isinstance(policy, Policy)
        return DynamicProgram(objective, policy)
    return enumeration(objective, policy) if method == "enumeration" else sample(objective, policy, key, size)


def sequence_expectations(objective: Objective, policy: AnyPolicy, key: PRNGKeyArray, size: int) -> Enumeration | Sample:
    """Expectations of functions of whole sequences, which have no dynamic program: by enumeration if possible, else sampled."""
    if objective.task.automaton.is_enumerable:
        return enumeration(objective, policy)
    return sample(objective, policy, key, size)


def weighted_rows(task: Task, policy: AnyPolicy, reference: AnyPolicy, key: PRNGKeyArray, size: int) -> WeightedRows:
    """The weighted rows of a policy and a reference, exact if possible, else along `size` samples. They ignore the reward."""
    return expectations(Objective(dataclasses.replace(task, reward_model=None), reference), policy, key, size).weighted_rows()


def enumeration(objective: Objective, policy: AnyPolicy) -> Enumeration:
    """Exact expectations under a policy, by enumeration of all sequences."""
    sequences = enumerate_all(objective.task.automaton)
    log_pi, log_ref = (scoring.log_probability(each, sequences) for each in (policy, objective.reference))
    return Enumeration(objective, policy, log_pi, log_ref)
