"""End-state probabilities of a policy, its reference and the optimum, and distances of the policy to the optimum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl.evaluation.diversity import Estimate
from rlkl.evaluation.expectations import Enumeration
from rlkl.evaluation.sampled_values import Sample
from rlkl.exact import optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.tasks.automaton import Automaton


class Outcomes(NamedTuple):
    """Rewards and probabilities of the reachable end states, in state order.

    reward is NaN where a reward model scores the whole sequence. gold is the gold reward, or None. decoded is the probability
    under the decoded policy, or None without decoding rules.
    """

    reward: Float[Array, " E"]
    reference: Float[Array, " E"]
    policy: Float[Array, " E"]
    optimum: Float[Array, " E"]
    gold: Float[Array, " E"] | None
    decoded: Float[Array, " E"] | None


def ends_of_optimum(automaton: Automaton, reference: AnyPolicy, optimum: Optimum, key: PRNGKeyArray) -> Float[Array, " S"]:
    """The end-state probabilities of an optimum that is not a table, from the reference's sequences, weighted by pi*/pi_ref."""
    batch = sampling.weighted_batch(key, automaton, reference, optimal_policy.SAMPLES)
    log_ref = scoring.log_probability(reference, batch)
    weight = batch.weight * jnp.exp(optimum.log_probability(batch, log_ref) - log_ref)
    ends = jax.ops.segment_sum(weight, optimal_policy.final_states(batch), automaton.states)
    return jnp.where(jnp.isnan(optimum.objective), jnp.nan, ends)


def distances(policy: Enumeration | Sample, optimum: Optimum, key: PRNGKeyArray) -> dict[str, Estimate]:
    """KL(pi*‖pi) and the total variation between pi* and pi, with standard errors (0 where exact).

    The distances are NaN where the optimum is unknown or tied.
    """
    estimates = policy.distances(optimum, key)
    return {
        name: Estimate(jnp.where(optimum.no_unique_policy, jnp.nan, value), error) for name, (value, error) in estimates.items()
    }
