"""Bounds on the error that rounded log-probabilities cause in a KL.

For each token, a row has a log-probability l^ in place of l (base), k^ in place of k (quant); p = exp(l) and so on. Where the
file does not floor a token, |l - l^| <= a and |k - k^| <= b: half a step of the row's grid and float32's own error. Where it
does, l^ is the floor: l <= l^ + a, and l lies an unknown distance below, of at most d nats.

The true rows sum to 1, so KL(p‖q) = sum_i f(p_i, q_i) with f(p, q) = p log(p/q) - p + q >= 0. What is shown is the sum of
f(p^_i, q^_i). Each token's error stays in its own term. Let u = l - k, N the tokens floored in neither row, F the others.

1. N. The derivative of f by l is p u, that by k is q - p. In the box of errors p <= e^a p^, |u| <= |u^| + a + b, and
   |q - p| <= |q^ - p^| + (e^a - 1) p^ + (e^b - 1) q^. By the mean value theorem the sum over N is wrong by at most
   E = a e^a sum_N p^ (|u^| + a + b) + b sum_N (|q^ - p^| + (e^a - 1) p^ + (e^b - 1) q^).
   It is small where the models are close: no constant a or b is left.
2. F. The true sum T is at least 0. As l <= l^ + a, and k >= k^ - b - d where quant is floored and k >= k^ - b elsewhere,
   T <= sum_F p (u^ + a + b)+ + d M + Q - P, with P and Q the true masses of F and M base's true mass on what quant floors.
   Masses are bounded by the file, P <= e^a sum_F p^, and by the rest of the row, 1 - e^a sum_N p^ <= P <= 1 - e^-a sum_N p^.
   The first sum is at most e^a sum_F p^ (u^ + a + b)+ and at most P max_F (u^ + a + b)+.
3. With S the sum over F that is shown: the error is at most E + max(S, U - S) + d M, where U is the bound of 2 without d M.

Nothing bounds d from the file, so the error is reported as a number and as a number for each nat of d. Source: none known.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rlkl.diagnostics.compare.stream import KLErrors


class Grid(NamedTuple):
    """What rounding did to rows: the largest error of a log-probability that is not floored, and which are floored."""

    error: Float[np.ndarray, " N"]
    floored: Bool[np.ndarray, "N V"]


class _Side(NamedTuple):
    """One model's probabilities with, by row: the error, sums over the tokens N, and bounds on the true mass of F."""

    p: Float[np.ndarray, "N V"]
    error: Float[np.ndarray, " N"]
    floored: Bool[np.ndarray, "N V"]
    kept: Float[np.ndarray, " N"]
    least: Float[np.ndarray, " N"]
    most: Float[np.ndarray, " N"]


def kl_errors(log_p: Float[np.ndarray, "N V"], log_q: Float[np.ndarray, "N V"], base: Grid, quant: Grid) -> KLErrors:
    """Bounds on the errors of both KLs at each position, as the module's docstring proves them."""
    cut = base.floored | quant.floored
    p, q = (_side(np.exp(rows), grid, cut) for rows, grid in ((log_p, base), (log_q, quant)))
    u = log_p - log_q
    return KLErrors(*_errors(p, q, u, cut), *_errors(q, p, -u, cut))


def _side(p: Float[np.ndarray, "N V"], grid: Grid, cut: Bool[np.ndarray, "N V"]) -> _Side:
    """cut: the tokens F, floored in either row."""
    kept, rest = _sum(p, ~cut), _sum(p, cut)
    up = np.exp(grid.error)
    least, most = (np.clip(1.0 - kept * factor, 0.0, None) for factor in (up, 1.0 / up))
    return _Side(p, grid.error, grid.floored, kept, least, np.minimum(up * rest, most))


def _errors(
    p: _Side, q: _Side, u: Float[np.ndarray, "N V"], cut: Bool[np.ndarray, "N V"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """The bound on the error of KL(p‖q) without the depth below the floor, and its factor of that depth."""
    a, b, both = p.error, q.error, p.error + q.error
    up = np.exp(a)
    inside = a * up * (_sum(p.p * np.abs(u), ~cut) + both * p.kept)
    inside += b * (_sum(np.abs(q.p - p.p), ~cut) + np.expm1(a) * p.kept + np.expm1(b) * q.kept)
    above = np.clip(u + both[:, None], 0.0, None)
    highest = np.max(above, axis=1, where=cut, initial=0.0)
    upper = np.minimum(up * _sum(p.p * above, cut), p.most * highest) + q.most - p.least
    shown = _sum(p.p * u - p.p + q.p, cut)
    return inside + np.maximum(shown, upper - shown), np.minimum(up * _sum(p.p, q.floored), p.most)


def _sum(x: Float[np.ndarray, "N V"], where: Bool[np.ndarray, "N V"]) -> Float[np.ndarray, " N"]:
    return np.sum(x, axis=1, where=where)
