"""The objective J(pi) = E_pi[r] - beta D(pi, pi_ref) as one pytree."""

import equinox as eqx
from jaxtyping import Array, Float

from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import Task


class Objective(eqx.Module):
    """The objective J(pi) = E_pi[r] - beta D(pi, pi_ref) that a policy is trained to maximise, in nats per sequence.

    task gives the reward r, reference is pi_ref, divergence is D, or None for J = E_pi[r]. params are the divergence's traced
    parameters.
    """

    task: Task
    reference: AnyPolicy
    divergence: Divergence | None = eqx.field(static=True, default=None)
    params: Params = Params()
    beta: Float[Array, ""] | float = 1.0

    @property
    def measured(self) -> Divergence:
        """The divergence whose value is reported: the objective's own or, where it has none, KL(pi‖pi_ref)."""
        return REGISTRY["kl_pi_ref"] if self.divergence is None else self.divergence

    def value(self, reward: Float[Array, "*n"], divergence: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """J from the values of E_pi[r] and D."""
        return reward if self.divergence is None else reward - self.beta * divergence
