"""How hard a penalty pulls the policy towards the reference on a run's own tokens, beside what it may descend.

A penalty's gradient is E[sum_t c_t grad log pi(y_t)], with a score weight c_t for each token. Its pull is minus its derivative
along the mixture (1 - x) pi + x pi_ref at x = 0: E[sum_t c_t (1 - pi_ref/pi)]. The mean of 1 - pi_ref/pi is zero in every state
that the policy covers, so that samples tell the pull without bias, whatever baseline c_t has. The weights of a divergence with
slope f' are f'(pi/pi_ref) of the sequence (exact) or of each token (its semi-gradient); for KL(pi‖pi_ref) the sums of
log pi/pi_ref from the token on are exact, too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rlkl.diagnostics.diagnose.measures.estimates import Estimate, ratio
from rlkl.diagnostics.diagnose.measures.run import Run
from rlkl.diagnostics.diagnose.measures.sequence_sums import TokenValues, summed
from rlkl.diagnostics.diagnose.reading.chunk import Chunk
from rlkl.divergences import REGISTRY, Params
from rlkl.errors import SettingsError, nearest
from rlkl.settings import PenaltySettings, numerics

Function = Callable[[np.ndarray], np.ndarray]
VALUES: dict[str, Function] = {"k1": lambda u: u, "k2": lambda u: 0.5 * u * u, "k3": lambda u: np.expm1(-u) + u, "abs": np.abs}
SLOPES: dict[str, Function] = {"k1": np.ones_like, "k2": lambda u: u, "k3": lambda u: -np.expm1(-u), "abs": np.sign}
BOTH = ("kl_pi_ref", "kl_ref_pi")
MINE = "pull"  # the column of the user's penalty


class PullRow(NamedTuple):
    """The pull of one gradient, in nats a sequence, and how many times as hard as it the user's penalty pulls.

    gradient: what it is the gradient of. kind: exact, or semi for semi-gradients.
    """

    gradient: str
    kind: str
    pull: float
    stderr: float
    ratio: float
    ratio_stderr: float


def check_estimator(penalty: PenaltySettings) -> None:
    """Raise `SettingsError` for an estimator whose score weights are not known, and for weights of samples that are not."""
    known = (*VALUES, "full", "score")
    for key, name in (("estimator", penalty.estimator), ("gradient_estimator", penalty.gradient_estimator)):
        if name not in known:
            raise SettingsError(f"penalty.{key}", name, nearest(str(name), known))
    if penalty.sampler == "reference":
        raise SettingsError("penalty.sampler", "reference", "reads the reference's own samples: its pull is exact on those")
    corrections = ("none", "token", "sequence")
    if penalty.importance_correction not in corrections:
        rule = "the pull is known of: " + ", ".join(corrections)
        raise SettingsError("penalty.importance_correction", penalty.importance_correction, rule)
    for key, unset in (("importance_limit", "truncate"), ("importance_min", None), ("kl_mask", "none")):
        if getattr(penalty, key) != unset:
            raise SettingsError(f"penalty.{key}", getattr(penalty, key), "the pull is known of weights without it")


def targets(penalty: PenaltySettings) -> list[tuple[str, str]]:
    """The divergences and kinds of gradient that a penalty is compared with: both KLs, and the one that it names."""
    names = dict.fromkeys((penalty.divergence, *BOTH))
    return [(name, kind) for name in names for kind in ("exact", "semi")]


def column(name: str, kind: str) -> str:
    """The column of the pull of a divergence."""
    return f"{MINE} {kind} {name}"


def pulls(penalty: PenaltySettings, chunk: Chunk, tokens: TokenValues) -> dict[str, Float[np.ndarray, " N"]]:
    """The pull of each sequence: of the penalty, and of the divergences it is compared with, before aggregation.

    Where the tokens are the sampler's, they are weighted by pi/mu: of each token for semi-gradients, of the sequence for exact
    gradients, and as `importance_correction` says for the penalty.
    """
    u, lengths = tokens.u, chunk.lengths
    assert u is not None and tokens.ref_ratio is not None
    direction = 1.0 - tokens.ref_ratio
    weight = np.ones_like(u) if tokens.ratio is None else tokens.ratio
    with np.errstate(over="ignore", invalid="ignore"):
        whole_weight = weight if tokens.v is None else np.exp(-np.repeat(summed(tokens.v, lengths), lengths))
        correction = {"none": np.ones_like(u), "token": weight, "sequence": whole_weight}[penalty.importance_correction]
        columns = {MINE: summed(score_weights(penalty, u, lengths) * direction * correction, lengths)}
        whole = np.repeat(summed(u, lengths), lengths)
        for name, kind in targets(penalty):
            if kind == "semi":
                weights = slopes(name, penalty, u)
            else:
                weights = to_go(u, lengths) if name == "kl_pi_ref" else slopes(name, penalty, whole)
            by = weight if kind == "semi" else whole_weight
            columns[column(name, kind)] = summed(weights * direction * by, lengths)
    return columns


def score_weights(
    penalty: PenaltySettings, u: Float[np.ndarray, " M"], lengths: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " M"]:
    """The score weights of a resolved penalty at each token. u: log-ratios of the tokens."""
    whole = penalty.level == "sequence"
    if penalty.estimator == "full":  # a sum over the vocabulary, which samples tell in expectation
        terms = estimates(penalty.divergence, penalty, u)
        later = to_go(terms, lengths) - terms  # a state's own divergence does not depend on the token
        if penalty.placement == "reward":
            return later if penalty.credit == "reward_to_go" else np.zeros_like(u)
        return slopes(penalty.divergence, penalty, u) + (later if penalty.future_kl else 0.0)
    read = np.repeat(summed(u, lengths), lengths) if whole else u
    limited = read if penalty.clamp is None else np.clip(read, -penalty.clamp, penalty.clamp)
    if penalty.estimator == "score":
        return slopes(penalty.divergence, penalty, limited)
    value, slope = VALUES[str(penalty.estimator)](limited), SLOPES[str(penalty.estimator)](limited)
    if penalty.placement == "reward":
        return value if whole or penalty.credit == "immediate" else to_go(value, lengths)
    slope = np.where(limited == read, slope, 0.0)
    if penalty.gradient == "unbiased":
        slope = slope + value
    elif penalty.gradient == "straight_through":
        slope = np.where(limited == read, SLOPES[penalty.gradient_estimator](limited), 0.0)
    return slope + (to_go(u, lengths) - u if penalty.future_kl else 0.0)


def to_go(values: Float[np.ndarray, " M"], lengths: Int[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
    """The sum of the values from each token to the end of its sequence."""
    before = np.cumsum(values) - values
    ends = np.repeat(np.cumsum(lengths), lengths)
    total = np.append(0.0, np.cumsum(values))
    return total[ends] - before


def slopes(name: str, penalty: PenaltySettings, u: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """The slope f' of a divergence at log-ratios, up to a constant."""
    if name == "kl_pi_ref":
        return u
    return -np.expm1(-u) if name == "kl_ref_pi" else _generator(name, penalty, u)[1]


def estimates(name: str, penalty: PenaltySettings, u: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Terms at log-ratios whose mean over the policy's tokens is the divergence: f(pi/pi_ref) pi_ref/pi."""
    return u if name == "kl_pi_ref" else _generator(name, penalty, u)[0] * np.exp(-u)


def _generator(name: str, penalty: PenaltySettings, u: Float[np.ndarray, " M"]) -> list[np.ndarray]:
    """The generator f and its slope at log-ratios."""
    import jax.numpy as jnp

    with numerics.pinned():
        size = 1 << max(len(u) - 1, 1).bit_length()  # few lengths, so that few programs are compiled
        first, second = penalty.weights
        params = Params(jnp.asarray(penalty.alpha, float), (jnp.asarray(first, float), jnp.asarray(second, float)))
        both = REGISTRY[name].both(jnp.asarray(np.pad(u, (0, size - len(u)))), params)
        return [np.asarray(each)[: len(u)] for each in both]


def pull_rows(run: Run, penalty: PenaltySettings, aggregation: str) -> list[PullRow]:
    """The pulls of the divergences, with the ratio of the user's to each; the first row is the user's own.

    Under seq-mean-token-mean the user's sequences are weighted by 1/length, relative to its mean.
    """
    mine = run.table[MINE]
    if aggregation == "seq-mean-token-mean":
        inverse = 1.0 / np.maximum(run.length, 1)
        mine = mine * inverse / inverse.mean()
    ones = np.ones(len(mine))
    rows = [PullRow("your penalty", "", *_pair(ratio(mine, ones, run.clusters)), 1.0, 0.0)]
    for name, kind in targets(penalty):
        other = run.table[column(name, kind)]
        pull, share = ratio(other, ones, run.clusters), ratio(mine, other, run.clusters)
        rows.append(PullRow(REGISTRY[name].formula, kind, *_pair(pull), *_pair(share)))
    return rows


def _pair(estimate: Estimate) -> tuple[float, float]:
    return estimate.value, estimate.stderr
