"""The objective J(pi) = E_pi[r] - beta D(pi, pi_ref), as one value."""

import equinox as eqx
from jaxtyping import Array, Float

from rlkl.divergences import REGISTRY, Divergence, Params
from rlkl.policies import AnyPolicy
from rlkl.tasks.automaton import Task


class Objective(eqx.Module):
    """What a policy is trained to maximise, or graded by: E_pi[r] - beta D(pi, pi_ref), in nats per sequence.

    task: its reward is r; reference: pi_ref; divergence: D, or None for E_pi[r] alone; params: the divergence's traced
    parameters; beta: the coefficient.
    """

    task: Task
    reference: AnyPolicy
    divergence: Divergence | None = eqx.field(static=True, default=None)
    params: Params = Params()
    beta: Float[Array, ""] | float = 1.0

    @property
    def measured(self) -> Divergence:
        """The divergence whose value is reported: KL(pi‖pi_ref) where none is penalised."""
        return REGISTRY["kl_pi_ref"] if self.divergence is None else self.divergence

    def value(self, reward: Float[Array, "*n"], divergence: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """J, given E_pi[r] and D."""
        return reward if self.divergence is None else reward - self.beta * divergence
