"""Expectations under a policy, estimated from sampled sequences, with standard errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.evaluation.diversity import Estimate
from rlkl.evaluation.rows import WeightedRows, rows_of_batch
from rlkl.exact import Objective, Values, bandit_optimum, optimal_policy
from rlkl.exact.optimal_policy import Optimum
from rlkl.policies import AnyPolicy, Fixed, Policy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch, Positions, positions_from_rows

KL = divergences.REGISTRY["kl_pi_ref"]


class SequenceTerms(NamedTuple):
    """Terms of each sampled sequence, whose means estimate the values.

    D is the mean of `penalty` plus the mean of `reference_penalty`. kl_ref_pi, length_ref and reference_penalty are terms of
    the reference's sequences; all others are terms of the policy's.
    """

    reward: Float[Array, " N"]
    penalty: Float[Array, " N"]
    reference_penalty: Float[Array, " N"]
    kl_pi_ref: Float[Array, " N"]
    kl_ref_pi: Float[Array, " N"]
    entropy: Float[Array, " N"]
    typicality: Float[Array, " N"]
    length: Float[Array, " N"]
    length_ref: Float[Array, " N"]
    gold_reward: Float[Array, " N"] | None


class Sample(eqx.Module):
    """Estimated expectations for any policy, from sampled sequences of the policy and of the reference.

    KL and entropy are summed over the vocabulary at every position of the sequences. Only the histories are sampled, so the
    variance is lower than with log-ratios of the sampled tokens.
    """

    objective: Objective
    policy: AnyPolicy
    batch: Batch
    positions: Positions
    reference_batch: Batch
    reference_positions: Positions
    terms: SequenceTerms

    def values(self) -> Values:
        """The estimated values of the policy."""
        means = jax.tree.map(jnp.mean, self.terms)
        return Values(
            means.reward, means.penalty + means.reference_penalty, means.kl_pi_ref, means.kl_ref_pi, means.entropy,
            means.typicality, means.length, means.length_ref, means.gold_reward,
        )  # fmt: skip

    def prompt_values(self) -> Values:
        """The estimated values for each prompt; NaN for a prompt without samples."""
        means = self._over_prompts(self._prompt_mean)
        return Values(
            means.reward, means.penalty + means.reference_penalty, means.kl_pi_ref, means.kl_ref_pi, means.entropy,
            means.typicality, means.length, means.length_ref, means.gold_reward,
        )  # fmt: skip

    def prompt_errors(self) -> dict[str, Float[Array, " P"]]:
        """The standard errors of some of the values for each prompt, by the names of the columns of prompts.csv."""

        def error(terms, prompt):
            count = jnp.bincount(prompt, length=self.objective.task.automaton.prompts)
            deviation = terms - self._prompt_mean(terms, prompt)[prompt]
            return jnp.sqrt(self._prompt_mean(jnp.square(deviation), prompt) / jnp.maximum(count - 1, 1).astype(terms.dtype))

        errors = self._over_prompts(error)
        names = ("reward", "kl_pi_ref", "kl_ref_pi", "entropy", "length")
        return {name: getattr(errors, name) for name in names}

    def _prompt_mean(self, terms: Float[Array, " N"], prompt: Int[Array, " N"]) -> Float[Array, " P"]:
        """The mean of the terms of each prompt."""
        prompts = self.objective.task.automaton.prompts
        sums = jax.ops.segment_sum(jnp.stack([terms, jnp.ones_like(terms)], axis=1), prompt, prompts)
        return sums[:, 0] / sums[:, 1]

    def _over_prompts(self, reduce: Callable) -> SequenceTerms:
        """`reduce(terms, prompt)` for the terms of each name, with the prompts of the sequences that they are of."""
        prompt_of = jnp.asarray(self.objective.task.automaton.prompt_of)
        of_policy, of_reference = (prompt_of[batch.states[:, 0]] for batch in (self.batch, self.reference_batch))
        of_terms = dict.fromkeys(SequenceTerms._fields, of_policy)
        of_terms |= dict.fromkeys(("reference_penalty", "kl_ref_pi", "length_ref"), of_reference)
        terms = self.terms._asdict().items()
        reduced: dict[str, Any] = {name: None if each is None else reduce(each, of_terms[name]) for name, each in terms}
        return SequenceTerms(**reduced)

    def standard_errors(self) -> dict[str, Float[Array, ""]]:
        """The standard errors of the estimated values, keyed by the names of the history's columns."""
        terms, beta = self.terms, jnp.asarray(self.objective.beta)
        beta = jnp.zeros_like(beta) if self.objective.divergence is None else beta
        errors = {
            "reward": standard_error(terms.reward),
            "objective": self._error_of_objective(terms.reward, beta),
            "divergence_value": jnp.hypot(standard_error(terms.penalty), standard_error(terms.reference_penalty)),
            "kl_pi_ref": standard_error(terms.kl_pi_ref),
            "kl_ref_pi": standard_error(terms.kl_ref_pi),
            "entropy": standard_error(terms.entropy),
            "effective_support": standard_error(terms.entropy) * jnp.exp(jnp.mean(terms.entropy)),
            "entropy_per_token": _error_of_ratio(terms.entropy, terms.length),
            "typicality": _error_of_ratio(terms.typicality, terms.length),
            "kl_per_token": _error_of_ratio(terms.kl_pi_ref, terms.length),
            "kl_ref_pi_per_token": _error_of_ratio(terms.kl_ref_pi, terms.length_ref),
            "length": standard_error(terms.length),
        }
        if terms.gold_reward is None:
            return errors
        gold_objective = self._error_of_objective(terms.gold_reward, beta)
        return errors | {"gold_reward": standard_error(terms.gold_reward), "gold_objective": gold_objective}

    def _error_of_objective(self, reward: Float[Array, " N"], beta: Float[Array, ""]) -> Float[Array, ""]:
        """The standard error of E[reward] - beta D, whose two samples are independent."""
        policy_error = standard_error(reward - beta * self.terms.penalty)
        return jnp.hypot(policy_error, standard_error(beta * self.terms.reference_penalty))

    def kl_to(self, optimum: Optimum) -> Estimate:
        """KL(pi‖pi*) and its standard error."""
        log_pi, log_ref = self._log_probabilities()
        log_ratio = log_pi - optimum.log_probability(self.batch, log_ref)
        return mean_of(log_ratio)

    def distances(self, optimum: Optimum, key: PRNGKeyArray) -> dict[str, Estimate]:
        """KL(pi*‖pi) and the total variation between pi* and pi, with standard errors.

        Total variation is estimated as E_pi[max(0, 1 - pi*/pi)]. KL(pi*‖pi) is exact between tables. Otherwise it is estimated
        from sequences of the optimum or, if that is not a table, from sequences of the reference weighted by pi*/pi_ref.
        """
        automaton, reference = self.objective.task.automaton, self.objective.reference
        log_pi, log_ref = self._log_probabilities()
        excess = jnp.maximum(-jnp.expm1(optimum.log_probability(self.batch, log_ref) - log_pi), 0.0)
        total_variation = {"tv_optimum": mean_of(excess)}
        if optimum.log_pi is not None and isinstance(self.policy, Policy):
            kl = exact.sequence_divergence(automaton, KL, Params(), optimum.log_pi, self.policy.table())
            return total_variation | {"kl_optimum_pi": exactly(kl)}
        sampler = reference if optimum.log_pi is None else Fixed(optimum.log_pi, automaton.horizon)
        start = sampling.independent_starts(key, automaton, self.batch.size)
        batch = sampling.walk(sampling.uniforms(key, automaton, sampler, self.batch.size), automaton, sampler, start)
        log_ref = scoring.log_probability(reference, batch)
        log_optimum = optimum.log_probability(batch, log_ref)
        ratio = jnp.exp(log_optimum - log_ref) if optimum.log_pi is None else jnp.ones_like(log_optimum)
        terms = exact.times_or_zero(ratio, log_optimum - scoring.log_probability(self.policy, batch))
        return total_variation | {"kl_optimum_pi": mean_of(terms)}

    def weighted_rows(self) -> WeightedRows:
        """The rows along the policy's sequences."""
        return rows_of_batch(self.objective.task.automaton, self.batch, self.positions)

    def _log_probabilities(self) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """The log-probabilities of the policy's sequences under the policy and under the reference."""
        rows = (self.positions.log_pi, self.positions.log_ref)
        log_pi, log_ref = (jnp.sum(self.positions.at_tokens(each, self.batch), axis=1) for each in rows)
        return log_pi, log_ref


def sample(objective: Objective, policy: AnyPolicy, key: PRNGKeyArray, size: int) -> Sample:
    """Sample `size` sequences of a policy and of its reference. The rows that they are sampled from are reused."""
    automaton, reference = objective.task.automaton, objective.reference
    policy_key, reference_key = jax.random.split(key)
    batch, log_pi = sampling.sample_with_rows(policy_key, automaton, policy, size)
    reference_batch, log_ref = sampling.sample_with_rows(reference_key, automaton, reference, size)
    positions = positions_from_rows(log_pi, scoring.rows_along(reference, batch))
    reference_positions = positions_from_rows(scoring.rows_along(policy, reference_batch), log_ref)
    terms = _sequence_terms(objective, batch, positions, reference_batch, reference_positions)
    return Sample(objective, policy, batch, positions, reference_batch, reference_positions, terms)


def standard_error(x: Float[Array, " N"]) -> Float[Array, ""]:
    """The standard error of the mean of independent numbers."""
    return jnp.std(x, ddof=1) / jnp.sqrt(jnp.asarray(x.size, x.dtype))


def mean_of(x: Float[Array, " N"]) -> Estimate:
    """The mean of independent numbers, as an estimate."""
    return Estimate(jnp.mean(x), standard_error(x))


def exactly(value: Float[Array, ""]) -> Estimate:
    """An exact value, as an estimate without error."""
    return Estimate(value, jnp.zeros(()))


def _error_of_ratio(x: Float[Array, " N"], count: Float[Array, " N"]) -> Float[Array, ""]:
    """The standard error of mean(x) / mean(count), by the delta method."""
    mean = jnp.mean(count)
    return standard_error(x - jnp.mean(x) / mean * count) / mean


def summed_rows(rows: Float[Array, " R"], positions: Positions, batch: Batch) -> Float[Array, " N"]:
    """The sum along each sequence of a quantity of each row."""
    return jnp.sum(positions.at_positions(rows, batch), axis=1)


def _sequence_terms(
    objective: Objective, batch: Batch, positions: Positions, reference_batch: Batch, reference_positions: Positions
) -> SequenceTerms:
    """The terms of sampled sequences of a policy (batch, positions) and of its reference."""
    task, div, params = objective.task, objective.measured, objective.params
    log_pi, log_ref = positions.log_pi, positions.log_ref
    pi, dtype = jnp.exp(log_pi), log_pi.dtype
    kl_pi_ref = summed_rows(divergences.exact(KL, params, log_pi, log_ref), positions, batch)
    kl_ref_pi_rows = divergences.exact(
        divergences.REGISTRY["kl_ref_pi"], params, reference_positions.log_pi, reference_positions.log_ref
    )
    kl_ref_pi = summed_rows(kl_ref_pi_rows, reference_positions, reference_batch)
    if div.name == "kl_pi_ref":
        penalty, reference_penalty = kl_pi_ref, jnp.zeros_like(kl_pi_ref)
    elif div.name == "kl_ref_pi":
        penalty, reference_penalty = jnp.zeros_like(kl_pi_ref), kl_ref_pi
    else:
        log_ref_of_policy = jnp.sum(positions.at_tokens(log_ref, batch), axis=1)
        rows = reference_positions.log_pi, reference_positions.log_ref
        log_pi_tokens, log_ref_tokens = (reference_positions.at_tokens(each, reference_batch) for each in rows)
        u = jnp.sum(log_pi_tokens - log_ref_tokens, axis=1)
        penalty, reference_penalty = _divergence_terms(objective, log_ref_of_policy, u)
    return SequenceTerms(
        reward=jnp.sum(exact.sequence_rewards(task, batch, dtype), axis=1),
        penalty=penalty,
        reference_penalty=reference_penalty,
        kl_pi_ref=kl_pi_ref,
        kl_ref_pi=kl_ref_pi,
        entropy=summed_rows(exact.mean(pi, -log_pi), positions, batch),
        typicality=summed_rows(exact.mean(pi, log_ref), positions, batch),
        length=jnp.sum(batch.mask.astype(dtype), axis=1),
        length_ref=jnp.sum(reference_batch.mask.astype(dtype), axis=1),
        gold_reward=None if task.gold is None else jnp.asarray(task.gold, dtype)[optimal_policy.final_states(batch)],
    )


def _divergence_terms(objective: Objective, log_ref: Float[Array, " N"], u: Float[Array, " N"]) -> tuple[Array, Array]:
    """Terms of the policy's and of the reference's sequences, Float["N"] each, whose means add up to D.

    log_ref: the log-probabilities of the policy's sequences under the reference. Their term is 0 on the reference's support and
    f's slope at infinity off it. u: the log-ratios of the reference's sequences. Their term is f(pi/pi_ref).
    """
    div, params = objective.measured, objective.params
    off_support = jnp.where(log_ref > -jnp.inf, 0.0, div.limit("infinity", params, u.dtype))
    f = div.both(jnp.maximum(u, bandit_optimum.LOWEST_LOG_RATIO), params)[0]
    return off_support, jnp.where(u > -jnp.inf, f, div.limit("zero", params, u.dtype))
