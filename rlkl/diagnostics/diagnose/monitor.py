"""Numbers of one batch, to be logged inside of a training loop."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from rlkl.diagnostics.diagnose.measures.estimates import Clusters, clusters, ratio
from rlkl.diagnostics.diagnose.measures.groups import extremes
from rlkl.diagnostics.diagnose.measures.token_totals import CLAMPS, CLIPS
from rlkl.diagnostics.diagnose.reading.arrays import as_numpy
from rlkl.diagnostics.server_logprobs import SLACK
from rlkl.errors import SettingsError


class Monitor:
    """Compute the numbers of a batch at each call. The first call's entropy is kept, to compare later ones with."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.first_entropy: float | None = None

    def __call__(
        self,
        *,
        log_probs: Any,
        sampler_log_probs: Any = None,
        ref_log_probs: Any = None,
        mask: Any = None,
        reward: Any = None,
        group: Any = None,
    ) -> dict[str, float]:
        """Numbers by name, of arrays of NumPy, PyTorch or JAX.

        log_probs, sampler_log_probs, ref_log_probs: [N, T], of the sampled tokens under policy, sampler and reference. mask:
        [N, T], 0 where a token does not count. reward, group: [N]; groups are equal for answers to one prompt. KLs and the
        entropy are in nats a token. Standard errors are those of sequences, or of groups. Tokens of the sampler are not
        weighted: where it differs from the policy, use `rlkl.diagnose`. Raises `SettingsError` for arrays of different shapes.
        """
        log_pi = as_numpy(log_probs)
        if log_pi.ndim != 2:
            raise SettingsError("log_probs", f"shape {log_pi.shape}", "must be sequences x tokens")
        count, width = log_pi.shape
        inside = np.ones(log_pi.shape, bool) if mask is None else _alike("mask", mask, log_pi.shape) != 0
        log_ref = None if ref_log_probs is None else _alike("ref_log_probs", ref_log_probs, log_pi.shape)
        log_mu = None if sampler_log_probs is None else _alike("sampler_log_probs", sampler_log_probs, log_pi.shape)
        by = Clusters(np.arange(count), count)
        if group is not None:
            by = clusters(_alike("group", group, log_pi.shape[:1]))
        columns = np.zeros((count, len(COLUMNS)))
        rows = max(1, AT_ONCE // max(width, 1))
        for first in range(0, count, rows):
            part = slice(first, first + rows)
            ref, mu = (None if each is None else each[part] for each in (log_ref, log_mu))
            _add(columns[part], inside[part], log_pi[part], ref, mu)
        if reward is not None and group is None:
            raise SettingsError("reward", "", "needs group: which answers belong to one prompt")
        if not columns[:, 0].any():
            raise SettingsError("mask", "", "leaves no token")
        numbers = self._entropy(columns)
        numbers |= _of_reference(columns, by) if log_ref is not None else {}
        numbers |= _of_sampler(columns, by) if log_mu is not None else {}
        if reward is not None and group is not None:
            numbers |= _of_groups(_alike("reward", reward, log_pi.shape[:1]), by)
        return {self.prefix + name: value for name, value in numbers.items()}

    def _entropy(self, columns: Float[np.ndarray, "N C"]) -> dict[str, float]:
        tokens, surprise = columns[:, :2].sum(axis=0).tolist()
        entropy = surprise / tokens
        if self.first_entropy is None:
            self.first_entropy = entropy
        return {"entropy": entropy, "entropy_left": entropy / self.first_entropy if self.first_entropy else math.nan}


AT_ONCE = 2**13  # tokens whose arrays fit into a core's cache
COLUMNS = ("tokens", "surprise", "k1", "ref_ratio", "clamped", "m1", "ratio", "ratio_squared", "clipped")


def _alike(name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = as_numpy(array)
    if values.shape != shape:
        raise SettingsError(name, f"shape {values.shape}", f"must be of shape {shape}, by that of log_probs")
    return values


def _add(
    columns: Float[np.ndarray, "n C"],
    inside: Bool[np.ndarray, "n T"],
    log_pi: np.ndarray,
    log_ref: np.ndarray | None,
    log_mu: np.ndarray | None,
) -> None:
    """Fill in the sums of the sequences' tokens. A log-ratio of 0 stands for a token outside of the mask: its ratio is 1."""
    lengths = np.count_nonzero(inside, axis=1)
    outside = inside.shape[1] - lengths
    log_pi = np.where(inside, log_pi, 0.0).astype(np.float64, copy=False)
    if log_pi.max(initial=0.0) > SLACK:
        raise SettingsError("log_probs", float(log_pi.max()), "is above 0, and a log-probability is not")
    columns[:, 0], columns[:, 1] = lengths, -log_pi.sum(axis=1)
    with np.errstate(over="ignore"):
        if log_ref is not None:
            u = log_pi - np.where(inside, log_ref, 0.0)
            columns[:, 2] = u.sum(axis=1)
            columns[:, 3] = np.exp(-u).sum(axis=1) - outside
            columns[:, 4] = np.count_nonzero(np.abs(u) > CLAMPS[0], axis=1)
        if log_mu is not None:
            v = np.where(inside, log_mu, 0.0) - log_pi
            weights = np.exp(-v)
            columns[:, 5], columns[:, 6] = v.sum(axis=1), weights.sum(axis=1) - outside
            columns[:, 7] = np.einsum("ij,ij->i", weights, weights) - outside
            low, high = CLIPS[0]
            columns[:, 8] = np.count_nonzero(np.abs(weights - 1.0 - 0.5 * (high - low)) > 0.5 * (high + low), axis=1)


def _of_reference(columns: Float[np.ndarray, "N C"], by: Clusters) -> dict[str, float]:
    lengths, _, k1, weights, clamped = columns.T[:5]
    first, third, mean_ratio = (ratio(each, lengths, by) for each in (k1, weights - lengths + k1, weights))
    return {
        "kl_k1": first.value,
        "kl_k1_stderr": first.stderr,
        "kl_k3": third.value,
        "kl_k3_stderr": third.stderr,
        "kl_of_sequence": float(k1.mean()),
        "mean_ref_ratio": mean_ratio.value,
        "mean_ref_ratio_stderr": mean_ratio.stderr,
        "clamped": float(clamped.sum() / lengths.sum()),
    }


def _of_sampler(columns: Float[np.ndarray, "N C"], by: Clusters) -> dict[str, float]:
    lengths, (k1, weights, squares, clipped) = columns[:, 0], columns.T[5:]
    third, mean_ratio = ratio(weights - lengths + k1, lengths, by), ratio(weights, lengths, by)
    tokens = float(lengths.sum())
    return {
        "mismatch_k1": float(k1.sum()) / tokens,
        "mismatch_k3": third.value,
        "mismatch_k3_stderr": third.stderr,
        "mean_ratio": mean_ratio.value,
        "mean_ratio_stderr": mean_ratio.stderr,
        "effective_share": float(weights.sum()) ** 2 / float(squares.sum()) / tokens,
        "clipped": float(clipped.sum()) / tokens,
    }


def _of_groups(rewards: Real[np.ndarray, " N"], by: Clusters) -> dict[str, float]:
    low, high = extremes(rewards.astype(np.float64), by)
    return {"zero_std_groups": float(np.mean(low == high))}


def monitor(prefix: str = "rlkl/") -> Monitor:
    """A function of a batch's arrays that returns numbers to log, with `prefix` before their names."""
    return Monitor(prefix)
