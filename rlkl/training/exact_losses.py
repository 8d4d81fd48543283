"""What a step descends under the algorithms that sample nothing (`algorithms.EXACT`): pure functions of a run and a policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlkl import divergences, exact, policies, settings
from rlkl.divergences import Params
from rlkl.evaluation import metrics
from rlkl.penalties import options
from rlkl.policies import AnyPolicy
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.tasks.automaton import Automaton
from rlkl.training.spec import Run


def loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """The loss of the run's algorithm."""
    return {"exact": exact_loss, "natural": natural_loss, "dpo": preference_loss}[run.settings.algorithm.name](run, policy)


def exact_loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """-J(pi): by dynamic program where policy and reference are tables, else over all sequences."""
    chosen, task = run.settings.penalty, run.task
    div, beta = options.divergence(chosen), chosen.beta
    if metrics.evaluation_method(task, policy, run.reference, div) == "table":
        table = policies.table_of(policy)
        params = options.parameters(chosen, table.dtype)
        worth = exact.objective(task, div, params, beta, table, policies.table_of(run.reference))
    else:
        listed = enumerate_all(task.automaton)
        log_pi, log_ref = scoring.log_probability(policy, listed), scoring.log_probability(run.reference, listed)
        params = options.parameters(chosen, log_pi.dtype)
        worth = exact.enumerated_objective(task, div, params, beta, listed, log_pi, log_ref)
    coefficient = run.settings.algorithm.entropy_coef
    return -worth if coefficient is None else -worth - coefficient * exact.entropy(task.automaton, policy)


def natural_loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """-J(pi), with the natural gradient in place of the plain one."""
    assert isinstance(policy, policies.tabular.Tabular)
    worth = lambda logits: exact_loss(run, policies.tabular.Tabular(logits, policy.support))  # noqa: E731
    value, gradient = jax.value_and_grad(worth)(jax.lax.stop_gradient(policy.logits))
    steepest = natural_gradient(run.task.automaton, jax.lax.stop_gradient(policy.table()), gradient)
    along = jnp.sum(steepest * policy.logits)
    return value + along - jax.lax.stop_gradient(along)


def preference_loss(run: Run, policy: AnyPolicy) -> Float[Array, ""]:
    """Direct preference optimisation: the mean log-loss of the preferences where beta log pi/pi_ref is the reward (Rafailov et
    al. 2023, arXiv 2305.18290). Each answer counts once a step.

    The reward counts `comparisons.scale` times in the log-odds, as the fitted one does: so with infinitely many answers the
    optimum is that of E[r] - beta KL(pi‖pi_ref).
    """
    asked = run.task.comparisons
    assert asked is not None
    mask, weight = asked.states[:, :-1] < run.task.automaton.decisions, jnp.zeros(asked.tokens.shape[0], asked.weight.dtype)
    batch = Batch(asked.tokens, asked.states, mask, weight, 0)
    u = scoring.log_probability(policy, batch) - scoring.log_probability(run.reference, batch)
    odds = asked.scale * run.settings.penalty.beta * (u[asked.first] - u[asked.second])
    return jnp.sum(asked.weight * (jax.nn.softplus(odds) - asked.preferred * odds))


def steering(run: Run, policy: AnyPolicy) -> Float[Array, ""] | float:
    """KL(pi‖pi_ref) for a controller that goes by exact gradients; NaN where none needs it."""
    if run.settings.penalty.controller not in settings.STEERED:
        return jnp.nan
    div = divergences.REGISTRY["kl_pi_ref"]
    return exact.between(run.task.automaton, div, Params(), jax.lax.stop_gradient(policy), run.reference)


def natural_gradient(
    automaton: Automaton, log_pi: Float[Array, "T D V"], gradient: Float[Array, "T D V"]
) -> Float[Array, "T D V"]:
    """F^-1 times a gradient in a table's logits, F being the Fisher matrix of whole sequences (Kakade 2001, "A natural policy
    gradient"): each row's d (diag(pi) - pi pi'), d the chance of standing there. So it is the gradient over d pi, which of J is
    the advantage; 0 where the policy never goes."""
    weight = exact.occupancy(automaton, log_pi)[..., None] * jnp.exp(log_pi)
    return jnp.where(weight > 0.0, gradient / jnp.where(weight > 0.0, weight, 1.0), 0.0)
