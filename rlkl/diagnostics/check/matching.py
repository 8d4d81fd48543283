"""Match the penalty's part of a measured gradient to the gradients that are known in a world."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.check.candidates import BOTH, candidates
from rlkl.diagnostics.check.worlds import World
from rlkl.penalties.expected_gradient import NO_DIVERGENCE, Kind

SAME = 1e-6  # relative difference below which gradients count as equal: libraries compute in float32
ROUNDING = 5e-7  # rounding of a whole step in float32, over the step, which stays in the penalty's part
NOTHING = "nothing"
NOT_FINITE = "nothing that is defined: the gradient is not finite"


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


def match(
    world: World,
    without: Float[np.ndarray, "D V"],
    with_penalty: Float[np.ndarray, "D V"],
    beta: float,
    rounding: float = ROUNDING,
) -> Match:
    """Match the gradients of a loss at coefficient 0 and at beta. rounding: of a whole step, over the step.

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
    if np.linalg.norm(plain) < SAME * size + rounding * np.linalg.norm(with_penalty):
        residual = float(np.linalg.norm(plain)) / size
        return Match(NOTHING, None, "inert", 0.0, residual, np.nan, np.nan, scale, reward_residual)
    fits = [(each, _fit(each.columns, without.ravel(), with_penalty.ravel(), rounding)) for each in known]
    candidate, fit = next(
        (pair for pair in fits if pair[1].is_exact),
        min((pair for pair in fits if len(pair[1].factors) == 1), key=lambda pair: pair[1].residual),
    )
    is_known = fit.is_exact
    if not is_known:
        fit = _added(candidate.columns, without.ravel(), with_penalty.ravel(), rounding)
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
    """A least-squares fit: share of the step without penalty, factors of the columns, residual, the penalty's part.

    is_exact: whether the residual is rounding.
    """

    share: float
    factors: Float[np.ndarray, " K"]
    residual: float
    part: Float[np.ndarray, " P"]
    is_exact: bool


def _fit_of(share: float, factors: np.ndarray, columns: np.ndarray, part: np.ndarray, noise: float) -> Fit:
    left, size = float(np.linalg.norm(part - columns @ factors)), float(np.linalg.norm(part))
    is_exact = left < SAME * size + noise
    return Fit(share, factors, left / max(size, 1e-300), part, is_exact)


def _added(columns: np.ndarray, without: np.ndarray, with_penalty: np.ndarray, rounding: float) -> Fit:
    """Fit the penalty's part as one that is added to the step without a penalty."""
    part = with_penalty - without
    return _fit_of(
        1.0, np.linalg.lstsq(columns, part, rcond=None)[0], columns, part, rounding * float(np.linalg.norm(with_penalty))
    )


def _fit(columns: np.ndarray, without: np.ndarray, with_penalty: np.ndarray, rounding: float) -> Fit:
    """Fit the penalty's part as simply added, else beside a share of the step without a penalty."""
    added = _added(columns, without, with_penalty, rounding)
    if added.is_exact or not np.any(without):
        return added
    share, *rest = np.linalg.lstsq(np.column_stack([without, columns]), with_penalty, rcond=None)[0]
    noise = rounding * float(np.linalg.norm(with_penalty))
    return _fit_of(float(share), np.array(rest), columns, with_penalty - share * without, noise)


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
