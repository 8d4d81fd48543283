"""Score weights: every gradient that the audits know, as the weights of the scores of the tokens of all sequences.

The gradient of a divergence is `sum_y sum_t weights[y, t] grad log pi(y_t | y_<t)`, whatever the parameters are. So one
list of weights names the gradients of rlkl's own losses (`rlkl audit`) and of anybody's (`rlkl check`).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlkl.divergences import REGISTRY, Params, f_divergences
from rlkl.penalties import expected_gradient
from rlkl.penalties.expected_gradient import Kind

COMBINATIONS: tuple[dict[str, float], ...] = ({"total_variation": 2.0}, {"kl_pi_ref": 1.0, "kl_ref_pi": -1.0})
SHORTEST = 128  # length to which log-ratios are padded at least


class Sequences(NamedTuple):
    """Every sequence of a task: log-probabilities of its tokens under policy, reference and sampler; 0 at padding."""

    log_pi: Float[np.ndarray, "N T"]
    log_ref: Float[np.ndarray, "N T"]
    log_sampler: Float[np.ndarray, "N T"]
    mask: Bool[np.ndarray, "N T"]


class Known(NamedTuple):
    """A known gradient: its description, its kind, the one divergence that it belongs to, if any, and its score weights."""

    says: str
    kind: Kind
    divergence: str | None
    weights: Float[np.ndarray, "N T"]


def whole(sequences: Sequences, params: Params, names: Iterable[str] = f_divergences()) -> dict[str, np.ndarray]:
    """Score weights of the gradient of each divergence between the distributions of whole sequences."""
    log_pi, u = sequences.log_pi.sum(axis=1), _log_ratio(sequences.log_pi, sequences.log_ref).sum(axis=1)
    weights = _times_slopes(log_pi, u, tuple(names), params)
    return {name: np.where(sequences.mask, each[:, None], 0.0) for name, each in weights.items()}


def per_token(sequences: Sequences, params: Params, names: Iterable[str] = f_divergences()) -> dict[str, np.ndarray]:
    """Score weights of the semi-gradient of each divergence: the sampler's visits to the states are held fixed."""
    log_ratio = np.where(sequences.mask, sequences.log_pi - sequences.log_sampler, 0.0)
    log_weight = sequences.log_sampler.sum(axis=1)[:, None] + log_ratio
    weights = _times_slopes(log_weight, _log_ratio(sequences.log_pi, sequences.log_ref), tuple(names), params)
    return {name: np.where(sequences.mask, each, 0.0) for name, each in weights.items()}


def later_tokens(sequences: Sequences, divergence: Float[np.ndarray, "N T"]) -> Float[np.ndarray, "N T"]:
    """Score weights of the effect of a token on the exact divergences of the states that follow, given for each state."""
    later = np.cumsum(divergence[:, ::-1], axis=1)[:, ::-1] - divergence
    return np.where(sequences.mask, np.exp(sequences.log_pi.sum(axis=1))[:, None] * later, 0.0)


def known(sequences: Sequences, params: Params, names: Iterable[str] = f_divergences()) -> Iterator[Known]:
    """The gradients of divergences and their combinations; on sequences of several tokens their semi-gradients, too."""
    combinations = (*({name: 1.0} for name in names), *COMBINATIONS)
    weights = whole(sequences, params, names)
    for each in combinations:
        yield _combined(each, weights, expected_gradient.formula(each), "exact")
    if sequences.mask.shape[1] == 1:
        return
    weights = per_token(sequences, params, names)
    for each in combinations:
        yield _combined(each, weights, expected_gradient.semi(each).says, "semi")


def _combined(combination: dict[str, float], weights: Mapping[str, np.ndarray], says: str, kind: Kind) -> Known:
    single = next(iter(combination)) if len(combination) == 1 else None
    total = np.sum([factor * weights[name] for name, factor in combination.items()], axis=0)
    return Known(says, kind if single else "other", single, total)


def _log_ratio(log_pi: np.ndarray, log_ref: np.ndarray) -> np.ndarray:
    """log(pi/pi_ref); 0 where neither has the token."""
    with np.errstate(invalid="ignore"):
        return np.where(log_pi == log_ref, 0.0, log_pi - log_ref)


def _times_slopes(log_weight: np.ndarray, u: np.ndarray, names: tuple[str, ...], params: Params) -> dict[str, np.ndarray]:
    """e^log_weight f'(e^u) of each divergence; 0 where the weight is 0, its own limit where the reference is 0."""
    size = max(SHORTEST, 1 << (u.size - 1).bit_length())  # few lengths, so that few programs are compiled
    slopes = _slopes(jnp.asarray(np.pad(u.ravel(), (0, size - u.size))), params, names)
    weights = {}
    for name, padded in zip(names, slopes, strict=True):
        slope = np.asarray(padded)[: u.size].reshape(u.shape)
        slope = np.where(np.isposinf(u), float(REGISTRY[name].limit("infinity", params, u.dtype)), slope)
        with np.errstate(invalid="ignore"):
            weights[name] = np.where(log_weight == -np.inf, 0.0, np.exp(log_weight) * slope)
    return weights


@partial(jax.jit, static_argnums=2)
def _slopes(u: Float[Array, " n"], params: Params, names: tuple[str, ...]) -> list[Float[Array, " n"]]:
    return [REGISTRY[name].both(u, params)[1] for name in names]
