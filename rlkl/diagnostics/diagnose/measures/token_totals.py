"""Totals over all tokens of a run: tails, positions, token ids, clamps and clips. They can be added up chunk by chunk."""

import math

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.diagnose.measures.sequence_sums import TokenValues
from rlkl.diagnostics.diagnose.reading.chunk import Chunk

CLAMPS = (10.0, 20.0)  # common limits of log-ratios, in nats
LARGEST_K3 = 10.0  # verl clips k3 itself to 10, which log pi/pi_ref reaches at -2.61
CLIPS = ((0.2, 0.2), (0.2, 0.28))  # common clip ranges of pi/mu, below and above 1
LARGEST_ID = 2**22  # token ids from here on are not counted one by one
STEPS = 32  # bins of a histogram in each factor of 2: the share of the largest values is good to about 2%
SMALLEST, LARGEST = -60, 60  # exponents of 2 between which values are told apart


class Tail:
    """A histogram of values of at least 0 on a logarithmic scale, with the sum of the values of each bin."""

    def __init__(self) -> None:
        bins = (LARGEST - SMALLEST) * STEPS
        self.counts, self.sums = np.zeros(bins), np.zeros(bins)
        self.largest = 0.0

    def add(self, values: Float[np.ndarray, " M"]) -> None:
        """Count the values; infinite ones are left out."""
        values = values[np.isfinite(values)] if not np.isfinite(values.sum()) else values
        fraction, exponent = np.frexp(np.maximum(values, 2.0**SMALLEST))
        place = (exponent - 1 - SMALLEST) * STEPS + ((fraction - 0.5) * (2 * STEPS)).astype(np.int64)
        place = np.minimum(place, len(self.counts) - 1)
        self.counts += np.bincount(place, minlength=len(self.counts))
        self.sums += np.bincount(place, values, len(self.sums))
        self.largest = max(self.largest, float(values.max(initial=0.0)))

    def share_of_largest(self, part: float) -> float:
        """The share of the sum that the largest `part` of the values have; NaN where the sum is 0."""
        total = self.sums.sum()
        if total <= 0.0:
            return math.nan
        counts, sums = np.cumsum(self.counts[::-1]), np.cumsum(self.sums[::-1])
        return float(np.interp(part * counts[-1], np.append(0.0, counts), np.append(0.0, sums)) / total)


class Weights:
    """Sums of importance weights, for their effective sample size."""

    def __init__(self) -> None:
        self.count, self.total, self.squares, self.infinite = 0, 0.0, 0.0, 0

    def add(self, weights: Float[np.ndarray, " M"]) -> None:
        """Add weights; infinite ones are counted apart."""
        if not np.isfinite(weights.sum()):
            self.infinite += int(np.isinf(weights).sum())
            weights = weights[np.isfinite(weights)]
        self.count += len(weights)
        self.total += float(weights.sum())
        self.squares += float(weights @ weights)

    @property
    def effective_share(self) -> float:
        """Kish's effective sample size as a share of the tokens; 0 with an infinite weight, NaN without tokens."""
        if self.infinite or not self.squares:
            return 0.0 if self.infinite else math.nan
        return self.total**2 / self.squares / self.count


class ByKey:
    """Counts and sums of columns by a whole number: a position's bin, or a token id."""

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns
        self.counts = np.zeros(0)
        self.sums = {name: np.zeros(0) for name in columns}

    def add(self, keys: Int[np.ndarray, " M"], values: dict[str, np.ndarray]) -> None:
        """Add the values of each column at their keys."""
        self.counts = _added(self.counts, np.bincount(keys))
        for name in self.columns:
            if name in values:
                self.sums[name] = _added(self.sums[name], np.bincount(keys, values[name]))


def _added(total: np.ndarray, part: np.ndarray) -> np.ndarray:
    if len(part) > len(total):
        total, part = part.astype(float), total
    total[: len(part)] += part
    return total


class TokenTotals:
    """All totals over tokens. `add` takes a chunk."""

    def __init__(self) -> None:
        self.tokens = 0
        self.k3, self.m3 = Tail(), Tail()
        self.ref_weights, self.weights = Weights(), Weights()
        self.positions = ByKey(("k3", "m3", "surprise"))
        self.ids = ByKey(("k3", "m3"))
        self.clamped = np.zeros(len(CLAMPS))
        self.clamped_k3 = np.zeros(len(CLAMPS))
        self.total_k3 = 0.0
        self.large, self.large_k3 = 0, 0.0
        self.clipped = np.zeros((len(CLIPS), 2))  # tokens below and above the range
        self.cut = np.zeros(len(CLIPS))  # of those, tokens whose advantage's gradient the clip removes
        self.zero_probability = {"log_probs": 0, "ref_log_probs": 0, "sampler_log_probs": 0}
        self.has_advantages = False

    def add(self, chunk: Chunk, tokens: TokenValues) -> None:
        """Add the tokens of a chunk."""
        size = int(chunk.lengths.sum())
        if not size:
            return
        self.tokens += size
        for name in self.zero_probability:
            log_probs = getattr(chunk, name)
            if log_probs is not None and not np.isfinite(log_probs.min()):
                self.zero_probability[name] += int((log_probs == -np.inf).sum())
        values: dict[str, np.ndarray] = {}
        with np.errstate(invalid="ignore", over="ignore"):
            if tokens.u is not None and tokens.ref_ratio is not None:
                values["k3"] = tokens.ref_ratio - 1.0 + tokens.u
            if tokens.v is not None and tokens.ratio is not None:
                values["m3"] = tokens.ratio - 1.0 + tokens.v
        if chunk.log_probs is not None:
            values["surprise"] = -chunk.log_probs
        starts = np.cumsum(chunk.lengths) - chunk.lengths
        position = np.arange(size) - np.repeat(starts, chunk.lengths)
        self.positions.add(np.frexp(position.astype(np.float64))[1], values)  # 0, 1, 2-3, 4-7, ...
        if chunk.tokens is not None:
            counted = chunk.tokens < LARGEST_ID
            if counted.all():
                self.ids.add(chunk.tokens, values)
            else:
                self.ids.add(chunk.tokens[counted], {name: each[counted] for name, each in values.items()})
        if tokens.u is not None and tokens.ref_ratio is not None:
            self.k3.add(values["k3"])
            self.ref_weights.add(tokens.ref_ratio)
            self._clamps(np.abs(tokens.u), values["k3"])
        if tokens.ratio is not None:
            self.m3.add(values["m3"])
            self.weights.add(tokens.ratio)
            self._clips(tokens.ratio, chunk.advantages)

    def _clamps(self, size: np.ndarray, k3: np.ndarray) -> None:
        self.total_k3 += float(k3.sum())
        if k3.max() > LARGEST_K3:
            large = k3 > LARGEST_K3
            self.large += int(large.sum())
            self.large_k3 += float(k3[large].sum())
        if size.max() <= CLAMPS[0]:
            return
        for index, clamp in enumerate(CLAMPS):
            beyond = size > clamp
            self.clamped[index] += beyond.sum()
            self.clamped_k3[index] += float(k3[beyond].sum())

    def _clips(self, ratio: np.ndarray, advantages: np.ndarray | None) -> None:
        for index, (below, above) in enumerate(CLIPS):
            low, high = ratio < 1.0 - below, ratio > 1.0 + above
            self.clipped[index] += low.sum(), high.sum()
            if advantages is not None:
                self.has_advantages = True
                self.cut[index] += ((low & (advantages < 0.0)) | (high & (advantages > 0.0))).sum()
