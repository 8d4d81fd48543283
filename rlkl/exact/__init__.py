"""Exact values of policies, and the policies that are optimal."""

from rlkl.exact.methods import evaluation_method, has_exact_divergence
from rlkl.exact.objective import Objective
from rlkl.exact.policy_values import (
    Values,
    between,
    entropy,
    enumerated_objective,
    enumerated_values,
    mean,
    objective_value,
    occupancy,
    outcome_probabilities,
    power_divergence,
    sequence_divergence,
    sequence_rewards,
    times_or_zero,
    token_rewards,
    values,
    visited,
)

__all__ = [
    "Objective",
    "Values",
    "between",
    "entropy",
    "enumerated_objective",
    "enumerated_values",
    "evaluation_method",
    "has_exact_divergence",
    "mean",
    "objective_value",
    "occupancy",
    "outcome_probabilities",
    "power_divergence",
    "sequence_divergence",
    "sequence_rewards",
    "times_or_zero",
    "token_rewards",
    "values",
    "visited",
]
