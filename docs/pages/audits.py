"""Audits of a small bandit, measured when the documentation is built, and the ends that `wrong_gradient` found.

The bandit has eight arms; its policy and reference are random. A bandit's audit needs no enumeration of sequences, so that all
rows together take a few seconds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pages import experiments, markdown
from rlkl import divergences, policies
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.diagnostics.audit import cases, command, known_gradients, measure
from rlkl.penalties import estimators, mismatch, options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.policies import base, table_of
from rlkl.rollouts import sampling, scoring
from rlkl.settings import RolloutSettings, numerics
from rlkl.training import loop

BANDIT = ("task=bandit/random", "task.size=8", "algorithm=rloo", "policy.init=random")
SHOWN = ("k1", "k2", "k3", "full", "score")  # of the estimators
DISTANCES = {"near": 0.1, "far": 1.0}  # shares of the way from the reference's logits to the random policy's
ROUNDING = 1e-9
ENDS = {
    "at a fixed point": "A fixed point is a policy at which the expected gradient is zero.",
    "at a corner": "A corner is a policy that has lost sequences for good.",
    "nowhere": "A way that ends nowhere was stopped while it still ran away.",
}
LOGGED = {
    "`temperature=0.7`, processed": RolloutSettings(temperature=0.7, reported="processed"),
    "`top_p=0.8`, processed": RolloutSettings(top_p=0.8, reported="processed"),
    "`top_p=0.8`, raw": RolloutSettings(top_p=0.8, reported="raw"),
    **{f"`rounded={what}`, `dtype={dtype}`": RolloutSettings(rounded=what, dtype=dtype)
       for dtype in ("bfloat16", "float8_e4m3") for what in ("log_probs", "logits")},
}  # fmt: skip


@functools.cache
def _bandit():
    """The run and the policy that are audited."""
    composed = compose(BANDIT)
    with numerics.pinned():
        run = jax.tree.map(jnp.asarray, build(composed).run)
        return run, base.cast(loop.start(run).policy, jnp.float64)


@functools.cache
def _target(divergence: str) -> np.ndarray:
    """The exact gradient of a divergence."""
    run, policy = _bandit()
    with numerics.pinned():
        return np.asarray(known_gradients.exact_gradient(run, policy, divergences.REGISTRY[divergence]).gradient)


@functools.cache
def _row(divergence: str, index: int) -> tuple[str, ...]:
    """A combination of settings: what it is, what it descends, its gradient's relative error and a batch's variance."""
    run, policy = _bandit()
    penalty, target = options.combinations(divergence, 1)[index], _target(divergence)
    with numerics.pinned():
        source = run.reference if penalty.sampler == "reference" else policy
        batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, source, measure.SAMPLES)
        got = measure.measure(measure.penalty_alone(run, penalty), policy, batch)
    error = float(np.linalg.norm(np.asarray(got.gradient) - target) / np.linalg.norm(target))
    words = f"`{penalty.estimator}` in the {penalty.placement}"
    words += f", `gradient={penalty.gradient}`" if penalty.gradient != "naive" else ""
    words += ", on the reference's samples" if penalty.sampler == "reference" else ""
    variance = float(got.variance) / (run.settings.batch_size or 64)
    return words, markdown.cell(expected_gradient(penalty, 1).says), _number(error), _number(variance)


def _number(value: float) -> str:
    if np.isnan(value):
        return "-"
    return "0" if abs(value) < ROUNDING else f"{value:.2g}"


def audit(divergence: str, estimator: str = "", right: bool = False) -> str:
    """What each combination descends on the bandit, how far its expected gradient is off, and a batch's variance.

    estimator: of this one alone. right: only those that descend the divergence.
    """
    rows = [
        _row(divergence, index)
        for index, penalty in enumerate(options.combinations(divergence, 1))
        if estimator in ("", penalty.estimator)
        and penalty.estimator in SHOWN
        and penalty.gradient != "straight_through"
        and not (right and expected_gradient(penalty, 1).kind != "exact")
        and not (right and penalty.gradient != "naive")
    ]
    return markdown.table(
        ("way", "descends on a bandit", "relative error of its gradient", "variance of a batch's gradient"), rows
    )


def estimator_values() -> str:
    """The mean, the standard deviation and the least value of each estimator's value, near the reference and far from it."""
    run, policy = _bandit()
    rows = []
    with numerics.pinned():
        log_ref, far = (table_of(each)[0, 0] for each in (run.reference, policy))
        for where, share in DISTANCES.items():
            log_pi = jax.nn.log_softmax((1.0 - share) * log_ref + share * far)
            pi, u = np.exp(np.asarray(log_pi)), log_pi - log_ref
            exact = float(pi @ np.asarray(u))
            for name in ("k1", "k2", "k3", "abs"):
                value = np.asarray(estimators.REGISTRY[name](u))
                mean = float(pi @ value)
                spread = float(np.sqrt(pi @ (value - mean) ** 2))
                numbers = (exact, mean, mean - exact, spread, float(value.min()))
                rows.append((where, f"`{name}`", *(_number(each) for each in numbers)))
    return markdown.table(("policy", "estimator", "KL(pi‖pi_ref)", "mean", "bias", "standard deviation", "least value"), rows)


def off_policy_audit() -> str:
    """Every surrogate and correction on a ladder's sampler that is 16 updates old: error, cosine, variance, share touched."""
    ladder = experiments.EXPERIMENTS / "wrong_gradient" / "ladder.json"
    task = ("task=automaton/custom", f"task.path={ladder}", "penalty.beta=0.1", "optimizer.learning_rate=0.03")
    rows = [
        (markdown.cell(row.method), *map(_number, (row.relative_error, row.cosine, row.variance, row.touched)))
        for row in command.trust_region_rows((*task, "rollout.staleness=16"))
    ]
    return markdown.table(("method", "relative error", "cosine", "variance of a batch's gradient", "touched"), rows)


def ends(estimator: str, divergence: str = "kl_pi_ref") -> str:
    """Where training without sampling noise ends, for each way that `wrong_gradient` follows; the untrained reference first."""
    numbers = experiments.numbers("wrong_gradient").query("direction == @divergence")
    start = numbers[numbers["series"] == "reference"]
    reached = numbers[(numbers["series"] == "descended") & numbers["way"].fillna("").str.startswith(f"{estimator} ")]
    rows = [(row.task, "the reference, untrained", _number(row.regret), _number(row.to_own), "") for row in start.itertuples()]
    for row in reached.itertuples():
        way, end = row.way.replace(estimator, f"`{estimator}`", 1), "nowhere" if row.end == "ran away" else f"at a {row.end}"
        rows.append((row.task, way, _number(row.regret), _number(row.to_own), end))
    legend = [ENDS[end] for end in ENDS if end in {row[-1] for row in rows}]
    return "\n\n".join([markdown.table(("task", "way", "regret", "total variation to the optimum", "it ends"), rows), *legend])


def sampler_audit(divergence: str = "kl_pi_ref") -> str:
    """What the default penalty descends on samples of each sampler, with and without importance weights."""
    run, policy = _bandit()
    rows = []
    with numerics.pinned():
        batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, policy, measure.SAMPLES)
        known, target = known_gradients.gradients_by_name(run, policy, batch), _target(divergence)
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
            rows.append((case.rollout, weights, says, _number(error), f"{cosine:.3f}"))
    return markdown.table(("sampler", "weights", "descends", "relative error", "cosine"), rows)


def sampler_numbers() -> str:
    """The expectations of the logged numbers of each sampler, beside both KLs of policy and sampler."""
    run, policy = _bandit()
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
