"""The three ways to know a policy: by dynamic program, by enumeration of all sequences, or from samples.

Each is a class with the same methods: `values` and their `standard_errors`, `kl_to` the optimum, and `weighted_rows`.
Only `expectations` and `sequence_expectations` choose between them.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.evaluation.rows import WeightedRows, rows_of_batch
from rlkl.evaluation.sample import KL, Estimate, Sample, sample
from rlkl.exact import Objective, Values, methods
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all, positions_from_rows
from rlkl.tasks.automaton import Task


class DynamicProgram(eqx.Module):
    """Expectations under a table policy beside a table reference, exact, by dynamic program over positions and states."""

    objective: Objective
    policy: Policy

    def values(self) -> Values:
        """The values of the policy."""
        return exact.values(self.objective, self.policy.table())

    def standard_errors(self) -> dict[str, Float[Array, ""]]:
        """None: the values are exact."""
        return {}

    def kl_to(self, optimum: Optimum) -> Estimate:
        """KL(pi‖pi*)."""
        log_pi, automaton = self.policy.table(), self.objective.task.automaton
        if optimum.log_pi is not None:
            return exact.sequence_divergence(automaton, KL, Params(), log_pi, optimum.log_pi), jnp.zeros(())
        return enumeration(self.objective, self.policy).kl_to(optimum)

    def weighted_rows(self) -> WeightedRows:
        """The rows of the decision states, weighted by their occupancy."""
        automaton, log_pi = self.objective.task.automaton, self.policy.table()
        ends = exact.outcome_probabilities(automaton, log_pi)
        return WeightedRows(exact.occupancy(automaton, log_pi), log_pi, table_of(self.objective.reference), ends)


class Enumeration(eqx.Module):
    """Expectations under any policy, exact, as a bandit over all sequences; log_pi, log_ref: of each of them."""

    objective: Objective
    policy: AnyPolicy
    log_pi: Float[Array, " N"]
    log_ref: Float[Array, " N"]

    def values(self) -> Values:
        """The values of the policy."""
        listed = enumerate_all(self.objective.task.automaton)
        return exact.enumerated_values(self.objective, listed, self.log_pi, self.log_ref)

    def standard_errors(self) -> dict[str, Float[Array, ""]]:
        """None: the values are exact."""
        return {}

    def kl_to(self, optimum: Optimum) -> Estimate:
        """KL(pi‖pi*)."""
        return divergences.exact(KL, Params(), self.log_pi, self._log_optimum(optimum)), jnp.zeros(())

    def distances(self, optimum: Optimum, key: PRNGKeyArray) -> dict[str, Estimate]:
        """KL(pi*‖pi) and the total variation between pi* and pi; `key` is not used."""
        best = self._log_optimum(optimum)
        apart = 0.5 * jnp.sum(jnp.abs(jnp.exp(self.log_pi) - jnp.exp(best)))
        zero = jnp.zeros(())
        return {"kl_optimum_pi": (divergences.exact(KL, Params(), best, self.log_pi), zero), "tv_optimum": (apart, zero)}

    def weighted_rows(self) -> WeightedRows:
        """The rows along every sequence, weighted by its probability."""
        listed = enumerate_all(self.objective.task.automaton)
        batch = listed._replace(weight=jnp.exp(self.log_pi))
        rows = (scoring.rows_along(policy, batch) for policy in (self.policy, self.objective.reference))
        return rows_of_batch(self.objective.task.automaton, batch, positions_from_rows(*rows))

    def _log_optimum(self, optimum: Optimum) -> Float[Array, " N"]:
        return optimum.log_probability(enumerate_all(self.objective.task.automaton), self.log_ref)


def expectations(
    objective: Objective, policy: AnyPolicy, key: PRNGKeyArray, size: int
) -> DynamicProgram | Enumeration | Sample:
    """Expectations under a policy, exact where they can be; `key` and `size` are for what has to be sampled."""
    method = methods.values_method(objective, policy)
    if method == "dynamic program":
        assert isinstance(policy, Policy)
        return DynamicProgram(objective, policy)
    return enumeration(objective, policy) if method == "enumeration" else sample(objective, policy, key, size)


def sequence_expectations(objective: Objective, policy: AnyPolicy, key: PRNGKeyArray, size: int) -> Enumeration | Sample:
    """Expectations of functions of the whole sequence, which have no dynamic program: enumerated, else sampled."""
    if objective.task.automaton.is_enumerable:
        return enumeration(objective, policy)
    return sample(objective, policy, key, size)


def weighted_rows(task: Task, policy: AnyPolicy, reference: AnyPolicy, key: PRNGKeyArray, size: int) -> WeightedRows:
    """A policy's rows beside a reference, whatever the reward: exact where they can be, else of `size` samples."""
    return expectations(Objective(dataclasses.replace(task, reward_model=None), reference), policy, key, size).weighted_rows()


def enumeration(objective: Objective, policy: AnyPolicy) -> Enumeration:
    """The log-probabilities of every sequence under a policy and its reference."""
    listed = enumerate_all(objective.task.automaton)
    log_pi, log_ref = (scoring.log_probability(each, listed) for each in (policy, objective.reference))
    return Enumeration(objective, policy, log_pi, log_ref)
