"""Audits of a small bandit, measured when the documentation is built, and the ends that `wrong_gradient` found.

The bandit has eight arms; its policy and reference are random. A bandit's audit needs no enumeration of sequences, so that all
rows together take a few seconds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pages import experiments, markdown
from rlkl import divergences
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.diagnostics.audit import known_gradients, measure
from rlkl.penalties import estimators, options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.policies import base, table_of
from rlkl.rollouts import sampling
from rlkl.settings import numerics
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


@functools.cache
def bandit():
    """The run and the policy that are audited."""
    composed = compose(BANDIT)
    with numerics.pinned():
        run = jax.tree.map(jnp.asarray, build(composed).run)
        return run, base.cast(loop.start(run).policy, jnp.float64)


@functools.cache
def exact_gradient(divergence: str) -> np.ndarray:
    """The exact gradient of a divergence."""
    run, policy = bandit()
    with numerics.pinned():
        return np.asarray(known_gradients.exact_gradient(run, policy, divergences.REGISTRY[divergence]).gradient)


@functools.cache
def _row(divergence: str, index: int) -> tuple[str, ...]:
    """A combination of settings: what it is, what it descends, its gradient's relative error and a batch's variance."""
    run, policy = bandit()
    penalty, target = options.combinations(divergence, 1)[index], exact_gradient(divergence)
    with numerics.pinned():
        source = run.reference if penalty.sampler == "reference" else policy
        batch = sampling.weighted_batch(jax.random.key(0), run.task.automaton, source, measure.SAMPLES)
        got = measure.measure(measure.penalty_alone(run, penalty), policy, batch)
    error = float(np.linalg.norm(np.asarray(got.gradient) - target) / np.linalg.norm(target))
    words = f"`{penalty.estimator}` in the {penalty.placement}"
    words += f", `gradient={penalty.gradient}`" if penalty.gradient != "naive" else ""
    words += ", on the reference's samples" if penalty.sampler == "reference" else ""
    variance = float(got.variance) / (run.settings.batch_size or 64)
    return words, markdown.cell(expected_gradient(penalty, 1).says), short_number(error), short_number(variance)


def short_number(value: float) -> str:
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
    run, policy = bandit()
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
                rows.append((where, f"`{name}`", *(short_number(each) for each in numbers)))
    return markdown.table(("policy", "estimator", "KL(pi‖pi_ref)", "mean", "bias", "standard deviation", "least value"), rows)


def ends(estimator: str, divergence: str = "kl_pi_ref") -> str:
    """Where training without sampling noise ends, for each way that `wrong_gradient` follows; the untrained reference first."""
    numbers = experiments.numbers("wrong_gradient").query("direction == @divergence")
    start = numbers[numbers["series"] == "reference"]
    reached = numbers[(numbers["series"] == "descended") & numbers["way"].fillna("").str.startswith(f"{estimator} ")]
    rows = [
        (row.task, "the reference, untrained", short_number(row.regret), short_number(row.to_own), "")
        for row in start.itertuples()
    ]
    for row in reached.itertuples():
        way, end = row.way.replace(estimator, f"`{estimator}`", 1), "nowhere" if row.end == "ran away" else f"at a {row.end}"
        rows.append((row.task, way, short_number(row.regret), short_number(row.to_own), end))
    legend = [ENDS[end] for end in ENDS if end in {row[-1] for row in rows}]
    return "\n\n".join([markdown.table(("task", "way", "regret", "total variation to the optimum", "it ends"), rows), *legend])
