"""Losses of the algorithms that draw no samples (`algorithms.EXACT`): pure functions of an objective and a policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact, policies
from rlkl.divergences import Params
from rlkl.exact import Objective, methods, utility
from rlkl.policies import AnyPolicy
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.settings import AlgorithmSettings
from rlkl.tasks.automaton import Automaton, Comparisons


def loss(
    algorithm: AlgorithmSettings, objective: Objective, policy: AnyPolicy, group: utility.Utility | None = None
) -> Float[Array, ""]:
    """The loss of an algorithm that draws no samples: dpo, natural or exact.

    group: the utility of the success probability that is in place of the reward, where one is.
    """
    if group is not None:
        assert objective.divergence is not None
        penalty = exact.between(objective.task.automaton, objective.divergence, objective.params, policy, objective.reference)
        return -objective.value(utility.value(group, objective.task, policy), penalty)
    if algorithm.name == "dpo":
        comparisons, div = objective.task.comparisons, objective.divergence
        assert comparisons is not None
        assert div is not None
        u = comparison_log_ratios(comparisons, objective, policy)
        return preference_loss(div.slope(u, objective.params), comparisons, objective.beta, algorithm.max_log_odds)
    loss_function = natural_loss if algorithm.name == "natural" else exact_loss
    return loss_function(objective, policy, algorithm.entropy_coef)


def exact_loss(
    objective: Objective, policy: AnyPolicy, entropy_coef: Float[Array, ""] | float | None = None
) -> Float[Array, ""]:
    """-J(pi), less `entropy_coef` times the policy's entropy.

    Computed by dynamic programming where policy and reference are tables, else as a sum over all sequences.
    """
    automaton = objective.task.automaton
    if methods.values_method(objective, policy) == "dynamic program":
        table = policies.table_of(policy)
        value = exact.objective_value(objective, table)
    else:
        batch = enumerate_all(automaton)
        log_pi, log_ref = scoring.log_probability(policy, batch), scoring.log_probability(objective.reference, batch)
        value = exact.enumerated_objective(objective, batch, log_pi, log_ref)
    return -value if entropy_coef is None else -value - entropy_coef * exact.entropy(automaton, policy)


def natural_loss(
    objective: Objective, policy: AnyPolicy, entropy_coef: Float[Array, ""] | float | None = None
) -> Float[Array, ""]:
    """A loss whose value is that of `exact_loss` and whose gradient is the natural gradient; for tabular policies."""
    assert isinstance(policy, policies.tabular.Tabular)

    def loss_of(logits):
        return exact_loss(objective, policies.tabular.Tabular(logits, policy.support), entropy_coef)

    value, gradient = jax.value_and_grad(loss_of)(jax.lax.stop_gradient(policy.logits))
    direction = natural_gradient(objective.task.automaton, jax.lax.stop_gradient(policy.table()), gradient)
    linear = jnp.sum(direction * policy.logits)
    return value + linear - jax.lax.stop_gradient(linear)


def comparison_log_ratios(comparisons: Comparisons, objective: Objective, policy: AnyPolicy) -> Float[Array, " M"]:
    """log pi/pi_ref of each compared sequence, in nats."""
    mask = comparisons.states[:, :-1] < objective.task.automaton.decisions
    weight = jnp.zeros(comparisons.tokens.shape[0], comparisons.weight.dtype)
    batch = Batch(comparisons.tokens, comparisons.states, mask, weight, 0)
    return scoring.log_probability(policy, batch) - scoring.log_probability(objective.reference, batch)


def preference_loss(
    link: Float[Array, " M"],
    comparisons: Comparisons,
    beta: Float[Array, ""] | float,
    max_log_odds: Float[Array, ""] | float | None = None,
) -> Float[Array, ""]:
    """The loss of direct preference optimisation, given f'(pi/pi_ref) of each compared sequence: under KL(pi‖pi_ref) its log.

    It is the mean log-loss of all preferences under the reward beta f'(pi/pi_ref) (Rafailov et al. 2023, "Direct preference
    optimization: your language model is secretly a reward model", arXiv 2305.18290; for other f Wang et al. 2023, "Beyond
    reverse KL", arXiv 2309.16240). As for the fitted reward, log-odds are `comparisons.scale` times the difference of rewards.
    A policy that is optimal for E[r] - beta D_f and drops no outcome has beta f'(pi/pi_ref) = r - lambda, and differences of
    rewards do not contain lambda. So with infinitely many answers the loss is least at that optimum. Huang et al. 2024 (arXiv
    2407.13399) clip log-odds at twice the largest reward: max_log_odds.
    """
    odds = comparisons.scale * beta * (link[comparisons.first] - link[comparisons.second])
    odds = odds if max_log_odds is None else jnp.clip(odds, -max_log_odds, max_log_odds)
    return jnp.sum(comparisons.weight * (jax.nn.softplus(odds) - comparisons.preferred * odds))


def controller_kl(objective: Objective, policy: AnyPolicy) -> Float[Array, ""]:
    """The exact KL(pi‖pi_ref) in nats, which a controller compares with its target; without gradient."""
    div = divergences.REGISTRY["kl_pi_ref"]
    return exact.between(objective.task.automaton, div, Params(), jax.lax.stop_gradient(policy), objective.reference)


def natural_gradient(
    automaton: Automaton, log_pi: Float[Array, "T D V"], gradient: Float[Array, "T D V"]
) -> Float[Array, "T D V"]:
    """The natural gradient F^-1 g of a gradient g in a table's logits (Kakade 2001, "A natural policy gradient").

    F is the Fisher matrix of whole sequences: d (diag(pi) - pi pi') for a row of occupancy d. The result is g/(d pi), and 0
    where the policy never goes. For the gradient of J it is the advantage.
    """
    weight = exact.occupancy(automaton, log_pi)[..., None] * jnp.exp(log_pi)
    return jnp.where(weight > 0.0, gradient / jnp.where(weight > 0.0, weight, 1.0), 0.0)
