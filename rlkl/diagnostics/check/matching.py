"""Match the penalty's part of a measured gradient to the gradients that are known in a world."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.audit import score_weights
from rlkl.diagnostics.audit.score_weights import Known
from rlkl.diagnostics.check.worlds import World
from rlkl.divergences import REGISTRY, Params
from rlkl.penalties import expected_gradient
from rlkl.penalties.expected_gradient import NO_DIVERGENCE, Kind
from rlkl.settings import numerics

SAME = 1e-6  # relative difference below which gradients count as equal: libraries compute in float32
BOTH = ("kl_pi_ref", "kl_ref_pi")
SINGLE = tuple(
    name for name in REGISTRY if name not in ("mixed", "alpha")
)  # the others are combinations of these, or have parameters
PAIRS = (BOTH, ("pearson", "kl_pi_ref"))  # k3 with policy and reference exchanged descends combinations of the second
NOTHING = "nothing"
NOT_FINITE = "nothing that is defined: the gradient is not finite"


Describe = Callable[[dict[str, float]], str]  # the factors of a combination, in words


class Match(NamedTuple):
    """Which gradient the penalty's part of a step is.

    coefficient: its factor, beside a reward's of 1, over the beta asked for; beside none, over beta alone. residual: the rest,
    over the penalty's part. The cosines are those with the gradients of both KLs. step_scale: factor of the reward's gradient.
    reward_residual: how far the step without a penalty is from its policy gradient; NaN without rewards.
    """

    says: str
    divergence: str | None
    kind: Kind
    coefficient: float
    residual: float
    cosine_kl_pi_ref: float
    cosine_kl_ref_pi: float
    step_scale: float
    reward_residual: float


class Candidate(NamedTuple):
    """A known gradient, or the span of two: the columns of a least-squares fit.

    describe: for a span, its description in words by the factors of the two.
    """

    says: str
    kind: Kind
    divergence: str | None
    columns: Float[np.ndarray, "P K"]
    describe: Describe | None = None
    pair: tuple[str, ...] = ()


def candidates(world: World) -> tuple[Candidate, ...]:
    """What the penalty's part can be matched to: the single gradients first, then combinations of two."""
    return _candidates(world)


@cache
def _candidates(world: World) -> tuple[Candidate, ...]:
    with numerics.pinned():
        return tuple(_known(world))


def _known(world: World) -> Iterator[Candidate]:
    sequences, params = world.sequences, Params()
    named = [each for each in score_weights.known(sequences, params, SINGLE) if each.divergence]
    for each in (*named, *_by_length(world), *_uncorrected(world)):
        yield Candidate(each.says, each.kind, each.divergence, world.gradient(each.weights).reshape(-1, 1))
    if len(set(world.lengths)) > 1:
        yield from _divided_ratios(world)
    spans: list[tuple[dict[str, np.ndarray], Describe]] = [
        (score_weights.whole(sequences, params, SINGLE), expected_gradient.formula)
    ]
    if world.automaton.horizon > 1:
        spans.append((score_weights.per_token(sequences, params, SINGLE), _semi))
    for by_name, describe in spans:
        for pair in PAIRS:
            columns = np.stack([world.gradient(by_name[name]).ravel() for name in pair], axis=1)
            yield Candidate("", "other", None, columns, describe, pair)


def _semi(factors: dict[str, float]) -> str:
    return expected_gradient.semi(factors).says


def _by_length(world: World) -> Iterator[Known]:
    """Gradients of losses that divide each sequence by its length, where lengths differ."""
    if len(set(world.lengths)) == 1:
        return
    share, sequences = (1.0 / world.lengths)[:, None], world.sequences
    mask = np.asarray(sequences.mask)
    yield Known(
        "the gradient of E[1/length], no penalty at all", "other", None, np.where(mask, world.probability[:, None] * share, 0.0)
    )
    for name, weights in score_weights.per_token(sequences, Params(), SINGLE).items():
        says = f"each token's {REGISTRY[name].formula} (semi-gradient), each sequence divided by its length: no divergence"
        yield Known(says, "other", None, weights * share)


def _divided_ratios(world: World) -> Iterator[Candidate]:
    """Spans of a semi-gradient, each sequence divided by its length, and the gradient of E[1/length]: k1 times the ratio."""
    of_length, *semi = _by_length(world)
    for each in semi:
        if REGISTRY[BOTH[0]].formula in each.says or REGISTRY[BOTH[1]].formula in each.says:
            columns = [world.gradient(weights.weights).ravel() for weights in (each, of_length)]
            says = each.says.replace(": no divergence", ", and the gradient of E[1/length]: no divergence")
            yield Candidate(says, "other", None, np.stack(columns, axis=1))


def _uncorrected(world: World) -> Iterator[Known]:
    """Gradients of losses that do not weigh the samples of another sampler."""
    if world.sampler is world.policy:
        return
    sequences = world.sequences
    uncorrected = sequences._replace(log_pi=sequences.log_sampler)
    log_ratio = sequences.log_pi - sequences.log_ref
    shifted = uncorrected._replace(log_ref=sequences.log_sampler - log_ratio)
    for name, weights in score_weights.whole(shifted, Params(), SINGLE).items():
        yield Known(
            f"{REGISTRY[name].formula} with the sampler's samples in place of the policy's: no divergence",
            "other",
            None,
            weights,
        )


def match(world: World, without: Float[np.ndarray, "D V"], with_penalty: Float[np.ndarray, "D V"], beta: float) -> Match:
    """Match the gradients of a loss at coefficient 0 and at beta.

    The step is a (without) + b (known). Where advantages are standardised together with the penalty, a is not 1.
    """
    if not (np.isfinite(without).all() and np.isfinite(with_penalty).all()):
        return Match(NOT_FINITE, None, "none", *[np.nan] * 6)
    scale, reward_residual = reward_fit(world, without)
    unit = 1.0 if np.isnan(reward_residual) else scale
    known = candidates(world)
    kls = [each.columns for name in BOTH for each in known if each.divergence == name and each.kind == "exact"]
    plain = (with_penalty - without).ravel()
    size = float(np.linalg.norm(kls[0])) * beta * abs(unit)
    if np.linalg.norm(plain) < SAME * size:
        residual = float(np.linalg.norm(plain)) / size
        return Match(NOTHING, None, "inert", 0.0, residual, np.nan, np.nan, scale, reward_residual)
    fits = [(each, _fit(each.columns, without.ravel(), with_penalty.ravel())) for each in known]
    candidate, fit = next(
        (pair for pair in fits if pair[1].residual < SAME),
        min((pair for pair in fits if len(pair[1].factors) == 1), key=lambda pair: pair[1].residual),
    )
    is_known = fit.residual < SAME
    if not is_known:
        fit = _added(candidate.columns, plain)
    coefficients = fit.factors / (fit.share * unit * beta)
    says = candidate.says
    if candidate.describe is not None:
        says = candidate.describe({name: float(f"{x:.4g}") for name, x in zip(candidate.pair, coefficients, strict=True)})
    return Match(
        says if is_known else f"{NO_DIVERGENCE}; the nearest is {says}",
        candidate.divergence if is_known else None,
        candidate.kind if is_known else "none",
        float(coefficients[0]),
        fit.residual,
        _cosine(fit.part, kls[0]),
        _cosine(fit.part, kls[1]),
        scale,
        reward_residual,
    )


class Fit(NamedTuple):
    """A least-squares fit: share of the step without penalty, factors of the columns, residual, the penalty's part."""

    share: float
    factors: Float[np.ndarray, " K"]
    residual: float
    part: Float[np.ndarray, " P"]


def _added(columns: np.ndarray, plain: np.ndarray) -> Fit:
    """Fit the penalty's part as one that is added to the step without a penalty."""
    factors = np.linalg.lstsq(columns, plain, rcond=None)[0]
    return Fit(1.0, factors, float(np.linalg.norm(plain - columns @ factors) / np.linalg.norm(plain)), plain)


def _fit(columns: np.ndarray, without: np.ndarray, with_penalty: np.ndarray) -> Fit:
    """Fit the penalty's part as simply added, else beside a share of the step without a penalty."""
    added = _added(columns, with_penalty - without)
    if added.residual < SAME or not np.any(without):
        return added
    share, *rest = np.linalg.lstsq(np.column_stack([without, columns]), with_penalty, rcond=None)[0]
    part, factors = with_penalty - share * without, np.array(rest)
    left = float(np.linalg.norm(part - columns @ factors)) / max(float(np.linalg.norm(part)), 1e-300)
    return Fit(float(share), factors, left, part)


def reward_fit(world: World, without: np.ndarray) -> tuple[float, float]:
    """The factor of the reward's gradient in a step without a penalty, and the rest over the step."""
    if not np.any(without):
        return 0.0, np.nan
    columns = [world.loss_gradient.reshape(-1, 1)]
    if len(set(world.lengths)) > 1:  # each sequence divided by its length: its baseline then counts, too
        by_length = (world.probability / world.lengths)[:, None] * np.asarray(world.batch.mask)
        columns += [
            np.stack([world.gradient(-by_length * world.reward[:, None]).ravel(), world.gradient(by_length).ravel()], axis=1)
        ]
    fits = []
    for each in columns:
        factors = np.linalg.lstsq(each, without.ravel(), rcond=None)[0]
        fits.append((float(factors[0]), float(np.linalg.norm(without.ravel() - each @ factors) / np.linalg.norm(without))))
    by_length_fits = len(fits) > 1 and fits[1][1] < SAME
    return fits[1] if by_length_fits and fits[0][1] >= SAME else fits[0]


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first.ravel() @ second.ravel()) / norm if norm else np.nan
