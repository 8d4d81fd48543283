"""The audit of trust regions and corrections: expected gradients on samples of another policy against the exact one.

Every row is the whole loss of training, reward and penalty, on all sequences weighted by the sampler's probabilities or, where
there are too many, on a large sample. All rows are one compiled program.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from rlkl import exact, settings, surrogates
from rlkl.penalties import options
from rlkl.policies import AnyPolicy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.training import exact_losses, sampled_losses, spec
from rlkl.training.spec import Run

SAMPLES = 4096  # number of samples, where there are too many sequences to enumerate
CHUNK = 32  # number of sequences whose gradients are computed at once
CORRECTIONS: Mapping[str, Mapping[str, Any]] = {  # settings of the penalty; the limits are those of the libraries' defaults
    "uncorrected": {},
    "token weights": {"importance_correction": "token"},
    "token weights at most 2 (TIS)": {"importance_correction": "token", "truncation": 2.0},
    "token weights, 0 outside .5 to 5 (IcePop)": {
        "importance_correction": "token", "importance_limit": "mask", "importance_min": 0.5, "truncation": 5.0,
    },
    "sequence weights": {"importance_correction": "sequence"},
    "sequence weights at most 2": {"importance_correction": "sequence", "truncation": 2.0},
    "sequence weights, 0 above 3": {"importance_correction": "sequence", "importance_limit": "mask", "truncation": 3.0},
    "geometric weights": {"importance_correction": "geometric"},
    "geometric weights at most 2": {"importance_correction": "geometric", "truncation": 2.0},
    "geometric weights, 0 outside .99 to 1.01": {
        "importance_correction": "geometric", "importance_limit": "mask", "importance_min": 0.99, "truncation": 1.01,
    },
    "no weights, opsm at .1": {"kl_mask": "opsm", "kl_mask_limit": 0.1},
    "no weights, seq_mean_k3 at .01": {"kl_mask": "seq_mean_k3", "kl_mask_limit": 0.01},
    "token weights, seq_mean_k1 at .01": {"importance_correction": "token", "kl_mask": "seq_mean_k1", "kl_mask_limit": 0.01},
}  # fmt: skip


class TrustRegionRow(NamedTuple):
    """One row: a surrogate whose ratio is to the sampler, or a correction of the loss without a ratio.

    relative_error, cosine: of the expected gradient against the exact gradient of the objective (NaN where that is not known).
    variance: of a batch's gradient, summed over parameters. touched: share of the tokens' gradients that the surrogate, or the
    limits of the weights, changed. stderr: norm of the standard error of the expected gradient; 0 if it is exact.
    """

    method: str
    formula: str
    relative_error: float
    cosine: float
    variance: float
    touched: float
    stderr: float


class Measured(NamedTuple):
    """Of each run: the expected gradient, its variance on a single sequence, and the share of tokens touched."""

    gradient: Float[Array, "S P"]
    variance: Float[Array, " S"]
    touched: Float[Array, " S"]


def methods(run: Run) -> dict[str, settings.Settings]:
    """The settings of every method by its name: the run's own where it names that surrogate, else the defaults.

    The algorithm is REINFORCE, with the mean return as its baseline. The penalty is in the reward, which is exact on policy.
    """
    chosen, horizon = run.settings, run.task.automaton.horizon
    plain = settings.AlgorithmSettings("reinforce", loss_aggregation=settings.AGGREGATIONS[0], epochs=1, surrogate="none")
    own = chosen.penalty
    penalty = dataclasses.replace(
        options.resolve_penalty("scaled", settings.PenaltySettings(own.divergence, own.beta), horizon),
        alpha=own.alpha,
        weights=own.weights,
    )
    found = {}
    for name, surrogate in surrogates.REGISTRY.items():
        values: Mapping[str, Any] = surrogate.options
        if name == chosen.algorithm.surrogate:
            values = {key: getattr(chosen.algorithm, key) for key in values}
        algorithm = dataclasses.replace(plain, surrogate=name, old_log_probs="reported", **values)
        if name != "none":  # which is "uncorrected"
            found[name] = dataclasses.replace(chosen, algorithm=algorithm, penalty=penalty)
    for name, correction in CORRECTIONS.items():
        found[name] = dataclasses.replace(chosen, algorithm=plain, penalty=dataclasses.replace(penalty, **correction))
    return found


def audit(run: Run, policy: AnyPolicy, sampler: AnyPolicy, key: PRNGKeyArray) -> Iterator[TrustRegionRow]:
    """The rows of the audit, on samples of `sampler`. `run` provides the task, the reference and the penalty. Needs x64."""
    automaton = run.task.automaton
    batch = _without_impossible(sampling.weighted_batch(key, automaton, sampler, SAMPLES))
    named = methods(run)
    runs = tuple(jax.tree.map(jnp.asarray, dataclasses.replace(run, settings=each)) for each in named.values())
    measured = measure(runs, policy, batch, scoring.token_log_probability(sampler, batch))
    is_exact = exact.evaluation_method(automaton, (policy, run.reference)) != "samples"
    target = np.asarray(exact_gradient(run, policy)) if is_exact else None
    for index, name in enumerate(named):
        gradient, variance = np.asarray(measured.gradient[index]), max(0.0, float(measured.variance[index]))
        error, cosine = (math.nan, math.nan) if target is None else _against(gradient, target)
        surrogate = surrogates.REGISTRY.get(name)
        yield TrustRegionRow(
            name, surrogates.REGISTRY["none"].formula if surrogate is None else surrogate.formula, error, cosine,
            variance / (run.settings.batch_size or 64), float(measured.touched[index]),
            0.0 if automaton.is_enumerable else math.sqrt(variance / SAMPLES),
        )  # fmt: skip


def _without_impossible(batch: Batch) -> Batch:
    """The batch without the sequences of probability zero."""
    possible = np.asarray(batch.weight) > 0.0
    tokens, states, mask, weight = (np.asarray(x)[possible] for x in (batch.tokens, batch.states, batch.mask, batch.weight))
    return Batch(tokens, states, mask, weight, batch.size)


def exact_gradient(run: Run, policy: AnyPolicy) -> Float[Array, " P"]:
    """The gradient of the objective E[r] - beta D by the policy's parameters."""
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    objective = spec.objective(run)
    gradient = jax.jit(jax.grad(lambda p: -exact_losses.exact_loss(objective, eqx.combine(p, rest))))(trainable)
    return ravel_pytree(gradient)[0]


@jax.jit
def measure(runs: tuple[Run, ...], policy: AnyPolicy, batch: Batch, reported: Float[Array, "N T"]) -> Measured:
    """Measure the losses of runs on one batch: minus each loss's gradient, as sums of the scores of the batch's tokens.

    reported: the log-probabilities of the batch's tokens under its sampler.
    """
    batch = batch._replace(groups=1)  # a number again, which jit has made an array
    weighed = [_score_weights(run, policy, batch, reported) for run in runs]
    weights, touched = jnp.stack([each for each, _ in weighed], axis=1), jnp.stack([share for _, share in weighed])
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(trainable)

    def of_one(sequence):
        tokens, states, mask, of_tokens = sequence
        single = Batch(tokens[None], states[None], mask[None], jnp.ones((1,)), 1)
        scores = jax.jacrev(lambda x: scoring.token_log_probability(eqx.combine(unravel(x), rest), single)[0])(flat)
        return of_tokens @ scores

    def add_chunk(sums, chunk):
        probability, *sequences = chunk
        gradients = jax.vmap(of_one)(tuple(sequences))
        squares = jnp.sum(jnp.square(gradients), axis=2)
        return (sums[0] + jnp.tensordot(probability, gradients, 1), sums[1] + probability @ squares), None

    def in_chunks(x):
        rest_of_chunk = -len(x) % CHUNK
        return jnp.pad(x, ((0, rest_of_chunk), *((0, 0) for _ in x.shape[1:]))).reshape(-1, CHUNK, *x.shape[1:])

    zero = (jnp.zeros((len(runs), flat.size), flat.dtype), jnp.zeros((len(runs),), flat.dtype))
    chunks = [in_chunks(jnp.asarray(x)) for x in (batch.weight, batch.tokens, batch.states, batch.mask, weights)]
    (mean, squares), _ = jax.lax.scan(add_chunk, zero, chunks)
    return Measured(mean, squares - jnp.sum(jnp.square(mean), axis=1), touched)


def _score_weights(run: Run, policy: AnyPolicy, batch: Batch, reported) -> tuple[Float[Array, "N T"], Float[Array, ""]]:
    """The weight of each token's score in minus the gradient of a run's loss, and the share of tokens touched."""
    chosen, objective = run.settings, spec.objective(run)
    positions = scoring.positions(run.task.automaton, policy, run.reference, batch)
    zero = jnp.zeros((), positions.log_pi.dtype)
    baseline = sampled_losses.experience(chosen, objective, positions, batch, zero, reported).batch_stats.reward
    learned = sampled_losses.experience(chosen, objective, positions, batch, baseline, reported)
    log_pi = positions.at_tokens(positions.log_pi, batch)

    def total(x):
        return jnp.sum(surrogates.token_loss(x, learned.old_log_pi, learned.advantages, batch, chosen.algorithm).loss)

    weight = -jax.grad(total)(log_pi) * learned.importance_weight
    touched = learned.batch_stats.truncated
    if chosen.algorithm.surrogate != "none":
        touched = sampled_losses.touched(chosen, lambda: positions, batch, learned)
    return jnp.where(jnp.asarray(batch.mask), weight, 0.0), jnp.nan_to_num(touched)


def _against(gradient: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Relative error and cosine of a gradient against a target; NaN where the target is 0."""
    scale, norm = float(np.linalg.norm(target)), float(np.linalg.norm(gradient))
    if scale == 0.0:
        return math.nan, math.nan
    cosine = float(gradient @ target) / (scale * norm) if norm > 0.0 else math.nan
    return float(np.linalg.norm(gradient - target)) / scale, cosine
