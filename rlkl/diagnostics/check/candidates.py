"""The gradients that a penalty's part can be matched to in a world."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlkl.diagnostics.audit import score_weights
from rlkl.diagnostics.audit.score_weights import Known
from rlkl.diagnostics.check.worlds import World
from rlkl.divergences import REGISTRY, Params, f_divergences
from rlkl.penalties import expected_gradient
from rlkl.penalties.expected_gradient import Kind
from rlkl.settings import numerics

BOTH = ("kl_pi_ref", "kl_ref_pi")
COMBINED = ("mixed", "alpha", "kl_chi2")  # these have parameters, or combine others
SINGLE = tuple(name for name in f_divergences() if name not in COMBINED)
PAIRS = (BOTH, ("pearson", "kl_pi_ref"))  # k3 with policy and reference exchanged descends combinations of the second
MOST_COLUMNS = 3  # of a fit: the step without a penalty and two gradients
Describe = Callable[[dict[str, float]], str]  # the factors of a combination, in words


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


@cache
def candidates(world: World) -> tuple[Candidate, ...]:
    """What the penalty's part can be matched to: the single gradients first, then combinations of two."""
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
    if world.policy.size - len(world.policy) <= MOST_COLUMNS:
        return  # any gradient would be such a combination, beside a share of the step without a penalty
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
    """Gradients of losses that do not correct for another sampler: in the weights of its samples, or in the log-ratio."""
    if world.sampler is world.policy:
        return
    log_pi, log_ref, log_sampler, _ = world.sequences
    cases = {
        "with the sampler's samples in place of the policy's": (log_sampler, log_sampler - (log_pi - log_ref)),
        "with the sampler's log-ratio in place of the policy's": (log_pi, log_pi - (log_sampler - log_ref)),
    }
    for says, (log_weight, log_other) in cases.items():
        changed = world.sequences._replace(log_pi=log_weight, log_ref=log_other)
        for name, weights in score_weights.whole(changed, Params(), SINGLE).items():
            yield Known(f"{REGISTRY[name].formula} {says}: no divergence", "other", None, weights)
