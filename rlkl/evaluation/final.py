"""Where sequences end under a policy, its reference and the optimum, and how far the policy is from the optimum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl.evaluation.expectations import Enumeration
from rlkl.evaluation.sample import Estimate, Sample
from rlkl.exact import optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.tasks.automaton import Automaton


class Outcomes(NamedTuple):
    """Probabilities of the end states that can be reached, in state order. reward: NaN where a reward model reads more than
    the end state; gold: the gold reward, and decoded: under the decoding distribution, where there is one."""

    reward: Float[Array, " E"]
    reference: Float[Array, " E"]
    policy: Float[Array, " E"]
    optimum: Float[Array, " E"]
    gold: Float[Array, " E"] | None
    decoded: Float[Array, " E"] | None


def ends_of_optimum(automaton: Automaton, reference: AnyPolicy, optimum: Optimum, key: PRNGKeyArray) -> Float[Array, " S"]:
    """End-state probabilities of an optimum that is no table: the reference's sequences, weighted by pi*/pi_ref."""
    batch = sampling.weighted_batch(key, automaton, reference, optimal_policy.SAMPLES)
    log_ref = scoring.log_probability(reference, batch)
    weight = batch.weight * jnp.exp(optimum.log_probability(batch, log_ref) - log_ref)
    ends = jax.ops.segment_sum(weight, optimal_policy.final_states(batch), automaton.states)
    return jnp.where(jnp.isnan(optimum.objective), jnp.nan, ends)


def distances(policy: Enumeration | Sample, optimum: Optimum, key: PRNGKeyArray) -> dict[str, Estimate]:
    """KL(pi*‖pi) and the total variation between pi* and pi, with standard errors (0 where exact).

    NaN where the optimum is not one policy.
    """
    estimates = policy.distances(optimum, key)
    return {name: (jnp.where(optimum.no_unique_policy, jnp.nan, value), error) for name, (value, error) in estimates.items()}
