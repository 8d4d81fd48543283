"""Which method gives the values of a policy: a dynamic program, enumeration of all sequences, or sampling."""

from typing import Literal

from rlkl.divergences import Divergence
from rlkl.exact.objective import Objective
from rlkl.policies import AnyPolicy, Policy
from rlkl.tasks.automaton import Automaton

Method = Literal["dynamic program", "enumeration", "samples"]


def evaluation_method(automaton: Automaton, policies: tuple[AnyPolicy, ...], divergence: Divergence | None = None) -> Method:
    """The method that gives expectations under these policies, and this divergence between two of them.

    Tables have a dynamic program over positions and states. Networks read the whole history, so their sequences are enumerated
    or, where there are too many, sampled. The same holds for a divergence without a chain rule over tokens.
    """
    tables = all(isinstance(policy, Policy) for policy in policies)
    if tables and (divergence is None or has_exact_divergence(automaton, divergence)):
        return "dynamic program"
    return "enumeration" if automaton.is_enumerable else "samples"


def values_method(objective: Objective, policy: AnyPolicy) -> Method:
    """The method that gives the values of a policy. A reward model reads the whole history, so its mean is sampled."""
    if objective.task.reward_model is not None:
        return "samples"
    return evaluation_method(objective.task.automaton, (policy, objective.reference), objective.divergence)


def has_exact_divergence(automaton: Automaton, div: Divergence) -> bool:
    """Whether D between two table policies can be computed exactly, by a chain rule over tokens or by enumeration."""
    return automaton.horizon == 1 or div.chain is not None or automaton.is_enumerable


def why_sampled(objective: Objective, policy: AnyPolicy) -> str:
    """A message that says why the values of a policy have to be sampled."""
    task, div, too_many = objective.task, objective.divergence, objective.task.automaton.unlisted
    if task.reward_model is not None:
        return f"the reward model reads the whole history, and {too_many}"
    if isinstance(policy, Policy) and div is not None and not has_exact_divergence(task.automaton, div):
        return f"{div.formula} has no dynamic program over tokens, and {too_many}"
    return f"a network reads the whole history, and {too_many}"
