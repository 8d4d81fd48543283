"""Samplers that are not the policy, on the bandit of the audits' tables: what they descend, and what is logged of them."""

import jax
import numpy as np

from pages import audits, markdown
from rlkl import policies
from rlkl.diagnostics.audit import cases, known_gradients, measure
from rlkl.penalties import mismatch
from rlkl.policies import table_of
from rlkl.rollouts import sampling, scoring
from rlkl.settings import RolloutSettings, numerics

LOGGED = {
    "`temperature=0.7`, processed": RolloutSettings(temperature=0.7, reported="processed"),
    "`top_p=0.8`, processed": RolloutSettings(top_p=0.8, reported="processed"),
    "`top_p=0.8`, raw": RolloutSettings(top_p=0.8, reported="raw"),
    **{f"`rounded={what}`, `dtype={dtype}`": RolloutSettings(rounded=what, dtype=dtype)
       for dtype in ("bfloat16", "float8_e4m3") for what in ("log_probs", "logits")},
}  # fmt: skip


def sampler_audit(divergence: str = "kl_pi_ref") -> str:
    """What the default penalty descends on samples of each sampler, with and without importance weights."""
    run, policy = audits.bandit()
    rows = []
    with numerics.pinned():
        batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, policy, measure.SAMPLES)
        known, target = known_gradients.gradients_by_name(run, policy, batch), audits.exact_gradient(divergence)
        for case in cases.off_policy(run, divergence, policy, policy, batch, jax.random.key(0)):
            if case.rollout in ("", "stale"):
                continue
            got = np.asarray(
                measure.measure(measure.penalty_alone(run, case.penalty), policy, case.batch, case.reported).gradient
            )
            weights = "pi/mu" if case.penalty.importance_correction != "none" else "none"
            error = float(np.linalg.norm(got - target) / np.linalg.norm(target))
            cosine = float(got @ target / (np.linalg.norm(got) * np.linalg.norm(target)))
            says = markdown.cell(known_gradients.name_of(got, {**known, **case.known}))
            rows.append((case.rollout, weights, says, audits.short_number(error), f"{cosine:.3f}"))
    return markdown.table(("sampler", "weights", "descends", "relative error", "cosine"), rows)


def sampler_numbers() -> str:
    """The expectations of the logged numbers of each sampler, beside both KLs of policy and sampler."""
    run, policy = audits.bandit()
    rows = []
    with numerics.pinned():
        log_pi = np.asarray(table_of(policy))[0, 0]
        for name, rollout in LOGGED.items():
            sampler = policies.deployed(policy, rollout)
            batch = cases.without_impossible(sampling.weighted_batch(jax.random.key(0), run.task.automaton, sampler.policy, 1))
            told = scoring.token_log_probability(sampler.reported, batch)
            kept = scoring.kept_mass(run.task.automaton, policy, sampler.policy, batch) if rollout.truncates else None
            stats = mismatch.measure(scoring.token_log_probability(policy, batch), told, kept, batch)
            mu, possible = np.asarray(batch.weight), np.asarray(batch.weight) > 0.0
            with np.errstate(divide="ignore"):
                log_mu = np.log(mu)
            forward = float(np.sum(mu[possible] * (log_mu - log_pi)[possible]))
            backward = float(np.sum(np.exp(log_pi) * (log_pi - log_mu)))
            cells = ["" if np.isnan(value) else f"{float(value):.3g}" for value in stats]
            rows.append((name, *cells, f"{forward:.3g}", "infinite" if np.isinf(backward) else f"{backward:.3g}"))
    header = ("sampler", *(f"`batch_{name}`" for name in mismatch.Mismatch._fields), "KL(mu‖pi)", "KL(pi‖mu)")
    return markdown.table(header, rows)
