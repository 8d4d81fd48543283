"""What a policy is worth, and the only place that chooses how it is known: by dynamic program, enumeration or samples."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.exact import Objective, Values, bandit_optimum, optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Policy, table_of
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, enumerate_all, is_enumerable, laid_out
from rlkl.tasks.automaton import Automaton

Known = Literal["table", "listed", "sampled"]
ROW_SAMPLES, LAST_SAMPLES = 1024, 8192  # sequences behind an estimate: of a logged row, and of the last one


NONNEGATIVE = frozenset((
    "divergence_value", "kl_pi_ref", "kl_ref_pi", "kl_pi_optimum", "kl_optimum_pi", "tv_optimum", "kl_pi_anchor", "kl_policy",
    "kl_per_token", "kl_ref_pi_per_token", "entropy", "entropy_per_token", "mode_entropy",
))  # fmt: skip


def unrounded(name: str, values: Any) -> np.ndarray:
    """The values of a quantity on the host, with 0 for what rounding puts below it where it is never negative; never -0."""
    numbers = np.asarray(values)
    zero = numbers <= 0 if name in NONNEGATIVE else numbers == 0
    return np.where(zero, np.zeros((), numbers.dtype), numbers)


class Report(NamedTuple):
    """A policy graded: scalars, nats, per sequence.

    objective: E[r] - beta D; regret: the optimum's objective less it; kl_pi_optimum: KL(pi||pi*). stderr: by the names of
    the history's columns, the standard error of what was estimated; empty where everything is exact. On a task with a gold
    reward: gold_reward, its mean, and gold_regret, what the best policy's E[gold] - beta D has more.
    """

    values: Values
    objective: Float[Array, ""]
    regret: Float[Array, ""]
    kl_pi_optimum: Float[Array, ""]
    stderr: dict[str, Float[Array, ""]]
    gold_reward: Float[Array, ""] | None = None
    gold_regret: Float[Array, ""] | None = None


def evaluation_method(objective: Objective, policy: AnyPolicy) -> Known:
    """How the values of a policy are known: by dynamic program, from the list of all sequences, or from samples."""
    task, div = objective.task, objective.divergence
    if task.reward_model is not None:
        return "sampled"
    tables = isinstance(policy, Policy) and isinstance(objective.reference, Policy)
    if tables and (div is None or exact.has_exact_divergence(task.automaton, div)):
        return "table"
    return "listed" if is_enumerable(task.automaton) else "sampled"


def why_sampled(objective: Objective, policy: AnyPolicy) -> str:
    """Why the values of a policy have to be sampled, in words."""
    task, div, many = objective.task, objective.divergence, objective.task.automaton.unlisted
    if task.reward_model is not None:
        return f"the reward model reads the whole history, and {many}"
    if isinstance(policy, Policy) and div is not None and not exact.has_exact_divergence(task.automaton, div):
        return f"{div.formula} has no dynamic program over tokens, and {many}"
    return f"a network reads the whole history, and {many}"


def evaluate(objective: Objective, policy: AnyPolicy, optimum: Optimum, key: PRNGKeyArray, size: int = ROW_SAMPLES) -> Report:
    """The report of a policy; `key` and `size` are for what has to be sampled."""
    method = evaluation_method(objective, policy)
    if method == "sampled":
        return estimate(objective, sample(objective.task.automaton, policy, objective.reference, key, size), optimum)
    task, params = objective.task, objective.params
    kl, gold = divergences.REGISTRY["kl_pi_ref"], None
    if method == "table":
        log_pi = table_of(policy)
        values = exact.values(objective, log_pi)
        gold = None if task.gold is None else exact.gold_reward(task, log_pi)
        if optimum.log_pi is not None:
            to_optimum = exact.sequence_divergence(task.automaton, kl, params, log_pi, optimum.log_pi)
        else:
            of_listed = scoring.log_probability(policy, enumerate_all(task.automaton))
            to_optimum = divergences.exact(kl, params, of_listed, optimum.log_listed)
    else:
        listed = enumerate_all(task.automaton)
        log_pi, log_ref = (scoring.log_probability(each, listed) for each in (policy, objective.reference))
        values = exact.enumerated_values(objective, listed, log_pi, log_ref)
        gold = None if task.gold is None else exact.mean(jnp.exp(log_pi), task.gold[optimal_policy.final_states(listed)])
        to_optimum = divergences.exact(kl, params, log_pi, optimum.log_probability(listed, log_ref))
    value = objective.value(values.reward, values.divergence)
    to_optimum = jnp.where(optimum.is_none, jnp.nan, to_optimum)
    report = Report(values, value, optimum.objective - value, to_optimum, {})
    return report if gold is None else _with_gold(report, optimum, gold)


def _with_gold(report: Report, optimum: Optimum, gold: Float[Array, ""]) -> Report:
    """The report with E[gold], whose objective differs from the reward's by the difference of the two means."""
    objective = report.objective - report.values.reward + gold
    assert optimum.gold_objective is not None
    return report._replace(gold_reward=gold, gold_regret=optimum.gold_objective - objective)


def distance(
    automaton: Automaton, policy: AnyPolicy, other: AnyPolicy, key: PRNGKeyArray, size: int = ROW_SAMPLES
) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
    """KL(policy‖other) of whole sequences, and its standard error where it is estimated (None where it is exact)."""
    kl, params = divergences.REGISTRY["kl_pi_ref"], Params()
    if (isinstance(policy, Policy) and isinstance(other, Policy)) or is_enumerable(automaton):
        return exact.between(automaton, kl, params, policy, other), None
    batch, at = sampling.sample_with_positions(key, automaton, policy, other, size)
    rows = divergences.exact(kl, params, at.log_pi, at.log_ref)
    values = jnp.sum(jnp.where(batch.mask, rows[at.row], 0.0), axis=1)
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(jnp.asarray(size, values.dtype))


class Sample(NamedTuple):
    """Sequences of a policy and of its reference, and the rows of both along each."""

    own: Batch
    here: Positions
    theirs: Batch
    there: Positions


def sample(automaton: Automaton, policy: AnyPolicy, reference: AnyPolicy, key: PRNGKeyArray, size: int) -> Sample:
    """`size` sequences of a policy and of the reference; the rows that they are drawn from are kept, not computed again."""
    own_key, their_key = jax.random.split(key)
    own, log_pi = sampling.recorded(sampling.uniforms(own_key, automaton, policy, size), automaton, policy)
    theirs, log_ref = sampling.recorded(sampling.uniforms(their_key, automaton, reference, size), automaton, reference)
    here = laid_out(log_pi, scoring.rows_along(reference, own))
    return Sample(own, here, theirs, laid_out(scoring.rows_along(policy, theirs), log_ref))


def _divergence_terms(objective: Objective, log_ref: Float[Array, " N"], u: Float[Array, " N"]) -> tuple[Array, Array]:
    """Float["N"] twice: terms whose means add up to D.

    The first, of the policy's sequences (log_ref: theirs under the reference), is infinite off its support where D is; the
    second is f(pi/pi_ref) of the reference's sequences, of log-ratio u.
    """
    div, params = objective.measured, objective.params
    off_support = jnp.where(log_ref > -jnp.inf, 0.0, div.limit("infinity", params, u.dtype))
    f = div.both(jnp.maximum(u, bandit_optimum.LIMIT), params)[0]
    return off_support, jnp.where(u > -jnp.inf, f, div.limit("zero", params, u.dtype))


def estimate(objective: Objective, drawn: Sample, optimum: Optimum) -> Report:
    """The report of a policy, estimated from samples.

    Per-token divergences and entropies are summed over the vocabulary along the policy's sequences (and the reference's, for
    KL(pi_ref||pi)), so that only the histories are sampled; any other divergence is the mean of f(pi/pi_ref) over the
    reference's sequences.
    """
    task, div, params, beta = objective.task, objective.divergence, objective.params, jnp.asarray(objective.beta)
    registry, (own, here, theirs, there), size = divergences.REGISTRY, drawn, drawn.own.size
    along = lambda rows, at, batch: jnp.sum(jnp.where(batch.mask, rows[at.row], 0.0), axis=1)  # noqa: E731
    log_pi, log_ref = (jnp.sum(here.at_tokens(rows, own), axis=1) for rows in (here.log_pi, here.log_ref))
    pi = jnp.exp(here.log_pi)
    reward = jnp.sum(exact.sequence_rewards(task, own, log_pi.dtype), axis=1)
    length, length_ref = (jnp.sum(batch.mask.astype(log_pi.dtype), axis=1) for batch in (own, theirs))
    kl = along(divergences.exact(registry["kl_pi_ref"], params, here.log_pi, here.log_ref), here, own)
    typical = along(exact.mean(pi, here.log_ref), here, own)
    entropy = along(exact.mean(pi, -here.log_pi), here, own)
    reverse = along(divergences.exact(registry["kl_ref_pi"], params, there.log_pi, there.log_ref), there, theirs)
    gap = log_pi - optimum.log_probability(own, log_ref)
    if div is None or div.name == "kl_pi_ref":
        penalised, elsewhere = kl, jnp.zeros_like(kl)
    elif div.name == "kl_ref_pi":
        penalised, elsewhere = jnp.zeros_like(kl), reverse
    else:
        u = jnp.sum(there.at_tokens(there.log_pi, theirs) - there.at_tokens(there.log_ref, theirs), axis=1)
        penalised, elsewhere = _divergence_terms(objective, log_ref, u)
    weight = jnp.zeros_like(beta) if div is None else beta
    error = lambda x: jnp.std(x, ddof=1) / jnp.sqrt(jnp.asarray(size, x.dtype))  # noqa: E731
    ratio_error = lambda x, n: error(x - jnp.mean(x) / jnp.mean(n) * n) / jnp.mean(n)  # noqa: E731
    values = Values(
        jnp.mean(reward), jnp.mean(penalised) + jnp.mean(elsewhere), jnp.mean(kl), jnp.mean(reverse),
        jnp.mean(entropy), jnp.mean(typical), jnp.mean(length), jnp.mean(length_ref),
    )  # fmt: skip
    value = values.reward - jnp.where(weight > 0.0, weight * values.divergence, 0.0)
    of_objective = jnp.hypot(error(reward - weight * penalised), error(weight * elsewhere))
    of_regret = jnp.hypot(of_objective, jnp.asarray(optimum.stderr, of_objective.dtype))
    stderr = {
        "reward": error(reward),
        "objective": of_objective,
        "regret": jnp.where(jnp.isnan(optimum.objective), jnp.nan, of_regret),
        "divergence_value": jnp.hypot(error(penalised), error(elsewhere)),
        "kl_pi_ref": error(kl),
        "kl_ref_pi": error(reverse),
        "kl_pi_optimum": error(gap),
        "entropy": error(entropy),
        "effective_support": error(entropy) * jnp.exp(values.entropy),
        "entropy_per_token": ratio_error(entropy, length),
        "typicality": ratio_error(typical, length),
        "kl_per_token": ratio_error(kl, length),
        "kl_ref_pi_per_token": ratio_error(reverse, length_ref),
        "length": error(length),
    }
    to_optimum = jnp.where(optimum.is_none, jnp.nan, jnp.mean(gap))
    report = Report(values, value, optimum.objective - value, to_optimum, stderr)
    if task.gold is None:
        return report
    gold = jnp.asarray(task.gold, reward.dtype)[optimal_policy.final_states(own)]
    beside = jnp.hypot(error(gold - weight * penalised), error(weight * elsewhere))
    stderr |= {"gold_reward": error(gold), "gold_regret": jnp.hypot(beside, jnp.asarray(optimum.gold_stderr, beside.dtype))}
    return _with_gold(report, optimum, jnp.mean(gold))
