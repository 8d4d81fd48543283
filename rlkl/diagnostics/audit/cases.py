"""The cases of the audit: penalties on the policy's samples, on samples of other samplers, and against other references."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rlkl import policies, settings
from rlkl.diagnostics.audit import known_gradients
from rlkl.divergences import REGISTRY
from rlkl.penalties import expected_gradient, options
from rlkl.penalties.expected_gradient import NO_DIVERGENCE
from rlkl.policies import AnyPolicy, Policy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.settings import RolloutSettings
from rlkl.training import describe, spec
from rlkl.training.spec import Run

SAMPLES = 4096  # number of samples, where there are too many sequences to enumerate
TRUNCATION = 1.0  # largest importance weight, in the rows that show the effect of truncation


class AuditCase(NamedTuple):
    """A penalty and the batch that it is measured on.

    declared: what its expected gradient is said to be. policy: the policy that is trained. reported, rollout: if the sampler is
    not the policy, the token log-probabilities that it reports, and its name. reference, penalising: if the penalty has another
    reference than the graded one, its name and the reference. known: gradients by name that this case may have, beside those of
    all divergences.
    """

    penalty: settings.PenaltySettings
    batch: Batch
    declared: str
    policy: AnyPolicy
    reported: Float[Array, "N T"] | None = None
    rollout: str = ""
    reference: str = ""
    penalising: AnyPolicy | None = None
    known: Mapping[str, np.ndarray] = {}


def on_policy(run: Run, name: str, policy: AnyPolicy, policy_batch: Batch, reference_batch: Batch) -> Iterator[AuditCase]:
    """The cases of every penalty configuration, on samples of the policy or of the reference."""
    for penalty in options.combinations(name, run.task.automaton.horizon):
        batch = reference_batch if penalty.sampler == "reference" else policy_batch
        yield AuditCase(penalty, batch, _said(run, penalty), policy)


def samplers(run: Run) -> dict[str, RolloutSettings]:
    """The samplers that have rows, by name: that of the run's own settings, or one of each kind."""
    rollout = run.settings.rollout
    if dataclasses.replace(rollout, staleness=0).off_policy:
        changed = {key: value for key, value in vars(rollout).items() if value not in (None, 0)}
        return {", ".join(f"{key} {value}" for key, value in changed.items()): rollout}
    kinds = {
        "stale": RolloutSettings(staleness=1),
        **{f"{describe.ROUNDED[what]} in bfloat16": RolloutSettings(dtype="bfloat16", rounded=what) for what in _rounded(run)},
    }
    half = max(1, run.task.automaton.vocabulary // 2)
    for reported in ("raw", "processed"):
        plain = RolloutSettings(reported=reported)
        kinds[f"temperature 0.7, {reported}"] = dataclasses.replace(plain, temperature=0.7)
        kinds[f"top_p 0.8, {reported}"] = dataclasses.replace(plain, top_p=0.8)
        kinds[f"top_k {half}, {reported}"] = dataclasses.replace(plain, top_k=half)
        kinds[f"min_p 0.2, {reported}"] = dataclasses.replace(plain, min_p=0.2)
    return kinds


def _rounded(run: Run) -> tuple[str, ...]:
    has_logits = policies.REGISTRY[run.settings.policy.name].logits
    return ("log_probs", "logits", "weights") if has_logits else ("log_probs", "weights")


def off_policy(
    run: Run, name: str, policy: AnyPolicy, older: AnyPolicy, policy_batch: Batch, key: PRNGKeyArray
) -> Iterator[AuditCase]:
    """The cases of the default penalty on samples of other samplers than the policy, under every importance correction."""
    automaton = run.task.automaton
    penalty = options.resolve_penalty("scaled", settings.PenaltySettings(name), automaton.horizon)
    for label, rollout in samplers(run).items():
        sampler = policies.deployed(older if rollout.staleness else policy, rollout)
        trained = policy if rollout.dropout is None else policies.transformer.dropped(policy, rollout.dropout, key)
        batch = without_impossible(sampling.weighted_batch(key, automaton, sampler.policy, SAMPLES))
        reported = scoring.token_log_probability(sampler.reported, batch)
        known = _known(run, name, trained, policy_batch, batch, sampler.reported) if automaton.is_enumerable else {}
        cases = [dataclasses.replace(penalty, importance_correction=each) for each in _corrections(automaton.horizon)]
        if label == "stale":
            cases.append(dataclasses.replace(penalty, importance_correction="sequence", truncation=TRUNCATION))
        truncates = rollout.truncates and (not automaton.is_enumerable or _leaves_out(policy_batch, batch))
        for case in cases:
            declared = _said_off_policy(run, case, rollout, truncates)
            yield AuditCase(case, batch, declared, trained, reported, label, known=known)
    if options.weighs(penalty):
        yield AuditCase(dataclasses.replace(penalty, truncation=TRUNCATION), policy_batch, NO_DIVERGENCE, policy)


def _corrections(horizon: int) -> tuple[str, ...]:
    """The importance corrections that exist; on a bandit all weights are those of sequences."""
    (correction,) = (each for each in dataclasses.fields(settings.PenaltySettings) if each.name == "importance_correction")
    return ("none", "sequence") if horizon == 1 else correction.metadata["allowed"]


def against_others(run: Run, name: str, policy: AnyPolicy, older: AnyPolicy, policy_batch: Batch) -> Iterator[AuditCase]:
    """The cases of the default penalty against other references than the graded one."""
    penalty = options.resolve_penalty("scaled", settings.PenaltySettings(name), run.task.automaton.horizon)
    references = {"uniform": spec.uniform(run), "start": older, "policy": policy}
    graded = expected_gradient.expected_gradient(penalty, run.task.automaton.horizon)
    for label, reference in references.items():
        if label == "uniform" and _equal(reference, run.reference):
            continue
        if isinstance(reference, Policy):
            reference = policies.Fixed(jnp.asarray(reference.table(), jnp.float64), run.task.automaton.horizon)
        declared, known = expected_gradient.against(label, graded), dict[str, np.ndarray]()
        if run.task.automaton.is_enumerable and declared.kind != "inert":
            other = dataclasses.replace(run, reference=reference)
            known = {declared.says: np.asarray(known_gradients.exact_gradient(other, policy, REGISTRY[name]).gradient)}
        yield AuditCase(penalty, policy_batch, declared.says, policy, reference=label, penalising=reference, known=known)


def _equal(left: AnyPolicy, right: AnyPolicy) -> bool:
    """Whether two policies are tables with the same rows, but for rounding."""
    if not (isinstance(left, Policy) and isinstance(right, Policy)):
        return False
    return bool(jnp.allclose(jnp.exp(left.table()), jnp.exp(right.table()), atol=1e-6))


def without_impossible(batch: Batch) -> Batch:
    """The batch with sequences of probability 0 as padding, so that no infinite importance weight is read."""
    possible = jnp.asarray(batch.weight) > 0.0
    return batch._replace(mask=jnp.asarray(batch.mask) & possible[:, None])


def _leaves_out(policy_batch: Batch, batch: Batch) -> bool:
    """Whether the sampler's batch of every sequence lacks one that the policy can draw."""
    return bool(jnp.any((jnp.asarray(policy_batch.weight) > 0.0) & (jnp.asarray(batch.weight) == 0.0)))


def kept(says: str) -> str:
    """Name of the part of a divergence that the sequences have which a truncated sampler can draw."""
    return f"{says} of the sequences that are kept"


def over_kept_mass(says: str) -> str:
    """Name of that part over the probability that they have."""
    return f"{kept(says)}, over the kept mass"


def over_rounded_sum(says: str) -> str:
    """Name of a divergence over the sum of rounded probabilities."""
    return f"{says}, over the sum of the rounded probabilities"


def with_dropout(says: str) -> str:
    """Name of a divergence of the network as dropout leaves it."""
    return f"{says} of the network with dropout"


def _known(
    run: Run, name: str, policy: AnyPolicy, policy_batch: Batch, batch: Batch, reported: AnyPolicy
) -> dict[str, np.ndarray]:
    """The gradients that samples of this sampler may have, by name. batch: the sampler's, of every sequence."""
    formula, whole = REGISTRY[name].formula, jnp.ones(len(batch.tokens), bool)
    possible: Bool[Array, " N"] = jnp.asarray(batch.weight) > 0.0
    gradient = np.asarray(known_gradients.gradient_on(run, policy, policy_batch, name, whole))
    part = np.asarray(known_gradients.gradient_on(run, policy, policy_batch, name, possible))
    known = {with_dropout(formula): gradient, kept(formula): part}
    if run.task.automaton.horizon == 1:
        prompt = known_gradients.prompt_weights(run.task.automaton, batch)
        mass = float(jnp.sum(prompt * jnp.where(possible, jnp.exp(scoring.log_probability(policy, policy_batch)), 0.0)))
        total = float(jnp.sum(prompt * jnp.exp(scoring.log_probability(reported, batch)), where=possible))
        known |= {over_kept_mass(formula): part / mass, over_rounded_sum(formula): gradient / total}
    return known


def _said(run: Run, penalty: settings.PenaltySettings) -> str:
    return expected_gradient.expected_gradient(penalty, run.task.automaton.horizon).says


def _said_off_policy(run: Run, penalty: settings.PenaltySettings, rollout: RolloutSettings, truncates: bool) -> str:
    """What the default penalty descends on samples of this sampler. truncates: whether it leaves out any sequence.

    Weights of whole sequences make it exact if the sampler reports what it samples from and can take every token. If it
    truncates, the sequences that it cannot draw are missing.
    """
    says, bandit = _said(run, penalty), run.task.automaton.horizon == 1
    corrected = penalty.importance_correction == "sequence" or (bandit and penalty.importance_correction != "none")
    reports = rollout.reported != "raw" and rollout.rounded != "log_probs"  # whether it reports what it samples from
    alone = rollout.dtype is None and rollout.staleness == 0 and rollout.temperature is None  # but for truncation, the policy
    if penalty.truncation is not None or (rollout.dropout is not None and not corrected):
        return NO_DIVERGENCE
    if rollout.dropout is not None:
        says = with_dropout(says)
    if truncates:
        if corrected and reports and (bandit or penalty.estimator == "score"):
            return kept(says)
        return over_kept_mass(says) if bandit and alone and not (corrected and reports) else NO_DIVERGENCE
    if rollout.truncates and alone:
        return says
    if not corrected or rollout.reported == "raw":
        return NO_DIVERGENCE
    if rollout.rounded == "log_probs":
        return over_rounded_sum(says) if bandit else NO_DIVERGENCE
    return says
