"""Surrogates and importance corrections in plain NumPy, derived by hand: the weight c of each token's score.

The expected gradient of a loss on samples of mu is -sum_y mu(y) sum_t c(y, t) grad log pi(y_t | y_<t). Tokens are listed one by
one: arrays of one entry a token, `sequence` says which sequence a token is of.
"""

from typing import NamedTuple

import numpy as np


class Tokens(NamedTuple):
    """All tokens of all sequences: their log-probabilities, advantages, sequences, and the probability mu(y) of these."""

    log_pi: np.ndarray
    log_mu: np.ndarray
    advantage: np.ndarray
    sequence: np.ndarray
    weight: np.ndarray

    def per_sequence(self, how, values: np.ndarray) -> np.ndarray:
        """A statistic of each sequence's tokens, at each of them."""
        return np.array([how(values[self.sequence == own]) for own in self.sequence])


def coefficients(name: str, tokens: Tokens, log_old: np.ndarray, o: dict) -> tuple[np.ndarray, np.ndarray]:
    """c of each token under a surrogate with options o, and the share of its gradient that the surrogate changed."""
    advantage, u = tokens.advantage, tokens.log_pi - log_old
    ratio = np.exp(u)
    if name == "gspo":
        ratio = np.exp(tokens.per_sequence(np.mean, u))
    outside = np.zeros(len(u), bool)
    if "clip_low" in o and "dppo" not in name:
        too_high, too_low = ratio > 1 + o["clip_high"], ratio < 1 - o["clip_low"]
        outside = np.where(advantage > 0, too_high, too_low)
    free = ratio * advantage
    if name == "none":
        return advantage, np.zeros(len(u))
    if name in ("ppo", "gspo"):
        return np.where(outside, 0.0, free), outside * 1.0
    if name == "dual_clip":
        outside |= (advantage < 0) & (ratio > o["clip_ratio_c"])
        return np.where(outside, 0.0, free), outside * 1.0
    if name == "cispo":
        limited = np.clip(ratio, 1 - o["clip_low"], 1 + o["clip_high"])
        return limited * advantage, (limited != ratio) * 1.0
    if name == "sapo":  # d/d log pi of 4/tau sigmoid(tau (r - 1))
        tau = np.where(advantage > 0, o["tau_pos"], o["tau_neg"])
        gate = 1 / (1 + np.exp(-tau * (ratio - 1)))
        return 4 * gate * (1 - gate) * free, 1 - 4 * gate * (1 - gate)
    p, q = np.exp(log_old), np.exp(tokens.log_pi)
    if name.startswith("dppo"):
        far = np.abs(q - p) if name == "dppo_tv" else p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        masked = np.where(advantage > 0, (q > p) & (far > o["clip_high"]), (q < p) & (far > o["clip_low"]))
        return np.where(masked, 0.0, free), masked * 1.0
    share = tokens.weight / tokens.weight.sum()
    covariance = (advantage - share @ advantage) * (tokens.log_pi - share @ tokens.log_pi)
    if name == "clip_cov":
        between = (covariance > o["cov_low"]) & (covariance < o["cov_high"]) & ~outside
        drawn = between * min(1.0, o["cov_share"] / max(share[between].sum(), 1e-300))
        return np.where(outside, 0.0, free) * (1 - drawn), np.where(outside, 1.0, drawn)
    assert name == "kl_cov"
    chosen, left = np.zeros(len(u)), o["cov_share"]
    for token in sorted(range(len(u)), key=lambda i: -covariance[i]):
        chosen[token] = min(1.0, left / share[token])
        left -= min(left, share[token])
    return free - o["kl_coef"] * chosen * np.sign(u), chosen * (u != 0)


def importance(tokens: Tokens, o: dict) -> tuple[np.ndarray, np.ndarray]:
    """The importance weight of each token under the options o of the penalty, and which of them a limit changed."""
    u = tokens.log_pi - tokens.log_mu
    weight = {
        "none": np.ones(len(u)),
        "token": np.exp(u),
        "sequence": np.exp(tokens.per_sequence(np.sum, u)),
        "geometric": np.exp(tokens.per_sequence(np.mean, u)),
    }[o.get("importance_correction", "none")]
    least, most = o.get("importance_min", 0.0), o.get("truncation", np.inf)
    limited = np.clip(weight, least, most)
    changed = limited != weight
    if o.get("importance_limit") == "mask":
        limited = np.where(changed, 0.0, weight)
    name = o.get("kl_mask", "none")
    if name == "none":
        return limited, changed
    if name == "opsm":
        dropped = (tokens.advantage < 0) & (tokens.per_sequence(np.mean, -u) > o["kl_mask_limit"])
    else:
        level, estimate = name[: -len("_k1")], name[-2:]
        k = {"k1": -u, "k2": u**2 / 2, "k3": np.exp(u) - 1 - u}[estimate]
        how = {"token": None, "seq_sum": np.sum, "seq_mean": np.mean, "seq_max": np.max}[level]
        statistic = k if how is None else tokens.per_sequence(how, k)
        statistic = np.abs(statistic) if estimate == "k1" else statistic
        dropped = statistic > o["kl_mask_limit"]
    return np.where(dropped, 0.0, limited), changed | dropped
