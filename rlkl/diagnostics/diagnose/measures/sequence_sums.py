"""Sums over the tokens of each sequence, from which every estimate of a sequence, a token, a step or a group follows.

Of a token: u = log pi/pi_ref, v = log mu/pi, with mu the sampler; r = pi/mu = e^-v. A column is there if its log-probabilities
are. About 150 bytes a sequence. Sums over tokens of:

k1: u
k2: u^2/2
k3: pi_ref/pi - 1 + u
reverse: (pi_ref/pi) (-u): each token's KL(pi_ref‖pi) on the policy's states
reverse_k3: pi/pi_ref - 1 - u: estimates KL(pi_ref‖pi) on samples of the reference
m1: v
m3: r - 1 + v
m3_logged: 1/r - 1 - v
m1_weighted: r (-v): each token's KL(pi‖mu) on the sampler's states
k1_weighted: r u
k3_weighted: r k3
s1: u + v = log mu/pi_ref
s3: pi_ref/mu - 1 + u + v
surprise: -log pi
sampler_surprise: -log mu
surprise_weighted: -r log pi

Beside these: length, advantage (the mean over tokens), reward, group, step.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.diagnose.reading.chunk import Chunk


class TokenValues(NamedTuple):
    """Log-ratios and ratios of the tokens of a chunk; None where log-probabilities are missing."""

    u: Float[np.ndarray, " M"] | None  # log pi/pi_ref
    ref_ratio: Float[np.ndarray, " M"] | None  # pi_ref/pi
    v: Float[np.ndarray, " M"] | None  # log mu/pi
    ratio: Float[np.ndarray, " M"] | None  # pi/mu


def token_values(chunk: Chunk) -> TokenValues:
    """The log-ratios of the tokens of a chunk; 0 where both log-probabilities are minus infinity."""
    u = _difference(chunk.log_probs, chunk.ref_log_probs)
    v = _difference(chunk.sampler_log_probs, chunk.log_probs)
    with np.errstate(over="ignore"):
        return TokenValues(u, None if u is None else np.exp(-u), v, None if v is None else np.exp(-v))


def _difference(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return None
    if np.isfinite(first.min(initial=0.0)) or np.isfinite(second.min(initial=0.0)):
        return first - second
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, first - second)


def sequence_sums(chunk: Chunk, tokens: TokenValues) -> dict[str, np.ndarray]:
    """The columns of the sequences of a chunk, by name, with `length`."""
    u, ref_ratio, v, ratio = tokens
    columns: dict[str, np.ndarray] = {"length": chunk.lengths.astype(np.float64)}

    def add(name: str, values: np.ndarray) -> None:
        columns[name] = summed(values, chunk.lengths)

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if u is not None and ref_ratio is not None:
            add("k1", u)
            add("k2", 0.5 * u * u)
            add("k3", ref_ratio - 1.0 + u)
            add("reverse", _times(ref_ratio, -u))
            add("reverse_k3", 1.0 / ref_ratio - 1.0 - u)
        if v is not None and ratio is not None:
            add("m1", v)
            add("m3", ratio - 1.0 + v)
            add("m3_logged", 1.0 / ratio - 1.0 - v)
            add("m1_weighted", _times(ratio, -v))
        if u is not None and ref_ratio is not None and v is not None and ratio is not None:
            add("k1_weighted", _times(ratio, u))
            add("k3_weighted", _times(ratio, ref_ratio - 1.0 + u))
            add("s1", u + v)
            add("s3", _times(ref_ratio, ratio) - 1.0 + u + v)
        if chunk.log_probs is not None:
            add("surprise", -chunk.log_probs)
            if ratio is not None:
                add("surprise_weighted", _times(ratio, -chunk.log_probs))
    if chunk.sampler_log_probs is not None:
        add("sampler_surprise", -chunk.sampler_log_probs)
    if chunk.advantages is not None:
        add("advantage", chunk.advantages)
        columns["advantage"] = columns["advantage"] / np.maximum(chunk.lengths, 1)
    for name in ("reward", "group", "step"):
        if getattr(chunk, name) is not None:
            columns[name] = getattr(chunk, name)
    return columns


def _times(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The product, with 0 where the weight is 0, whatever the value."""
    product = weight * value
    return product if np.isfinite(product.sum()) else np.where(weight == 0.0, 0.0, product)


def summed(values: Float[np.ndarray, " M"], lengths: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The sum of the values of each sequence; 0 for a sequence without tokens."""
    filled = lengths > 0
    starts = (np.cumsum(lengths) - lengths)[filled]
    if len(starts) == len(lengths):
        return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
    sums = np.zeros(len(lengths))
    if len(starts):
        sums[filled] = np.add.reduceat(values, starts)
    return sums
