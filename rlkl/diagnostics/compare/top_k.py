"""Bounds on KL(p‖q) from the log-probabilities of some tokens of each row.

Base shows p on a set A, quant shows q on B. The unseen mass t_p = 1 - p(A) of base lies on B\\A and on R, the tokens that
neither shows; t_q likewise on A\\B and R. An unseen token has at most the cap c_p (c_q), the least of the top tokens shown. R
has n tokens; n is known with the size of the vocabulary, else it may be any.

Lower bound: the least KL over all completions, which is attained.
1. Let R have masses r_p, r_q. By the log-sum inequality the sum over R is at least r_p log(r_p/r_q), with equality where both
   are spread evenly; the caps then say r_p <= n c_p and r_q <= n c_q. So R may be lumped into one class. (Data processing.)
2. Given p, the q of A\\B and R that lessens -sum_i p_i log q_i is q_i = min(cap, lambda p_i). Given q and r_p, the p of B\\A
   that lessens sum_i p_i log(p_i/q_i) is p_i = min(cap, mu q_i). (Stationarity; both are convex.)
3. KL is jointly convex, so what is left is convex in r_p, with slope log(r_p/r_q) - log mu: its zero is found by bisection.
   Where no cap binds, this is the KL with all tokens but those of A and B lumped.

Upper bound: the largest KL over all completions. It is infinite if quant may give a token no mass that base may draw: a token
of A\\B, or one of R where t_p > 0. It may unless t_q fills all its |A\\B| + n slots but less than one: then a slot has at
least m = t_q - (|A\\B| + n - 1) c_q > 0. A convex function is largest at a vertex: q has m in one slot and c_q in the others,
and p fills slots to c_p one after the other, those of the least q first: only -x log q_i differs between slots.

Servers compute in float32, so a tail below 1e-6 is not told from none. For the lower bound quant's counts as 1e-6, which
lessens the bound, unless its cap is 0. Source of the parts: Cover and Thomas, Elements of Information Theory, 2006, sections
2.7 and 2.8.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from rlkl.diagnostics.server_logprobs import Token

TAIL = 1e-6
SLACK = 1e-3  # how far from 1 rounding may put a sum of probabilities


class Shown(NamedTuple):
    """The probabilities that a model shows at a position, and the largest that an unseen token can have."""

    p: dict[Token, float]
    cap: float

    @property
    def unseen(self) -> float:
        """The mass of the tokens that are not shown; 0 where their cap is."""
        return max(0.0, 1.0 - math.fsum(self.p.values())) if self.cap > 0.0 else 0.0


class Completion(NamedTuple):
    """Probabilities of unseen tokens: base's on B\\A, quant's on A\\B (in the order of the dictionaries), both masses of R."""

    p: list[float]
    q: list[float]
    rest_p: float
    rest_q: float


class Unknown(NamedTuple):
    """What is not known of two rows: q of p's tokens (A\\B), p of q's tokens (B\\A), and of `rest` tokens both."""

    p_only: list[float]
    q_only: list[float]
    rest: float
    tail_p: float
    tail_q: float
    cap_p: float
    cap_q: float


def shown(top: dict[Token, float], token: Token | None, log_prob: float) -> Shown:
    """What a position shows: its top list, and the text's token where that is beyond the list.

    Some servers put the text's token into the list whatever its rank, so that it says nothing about the unseen ones.
    """
    p = {name: math.exp(value) for name, value in top.items()}
    cap = min((value for name, value in p.items() if name != token), default=1.0)
    if token is not None and token not in p and log_prob > -math.inf:
        p[token] = math.exp(log_prob)
    return Shown(p, cap)


def fault(position: Shown, other: Shown, vocabulary: int | None) -> str | None:
    """Why a position's numbers cannot be those of a distribution, or None."""
    total = math.fsum(position.p.values())
    if total > 1.0 + SLACK:
        return f"its probabilities sum to {total:.4g}"
    slots = _slots(position, other, vocabulary)
    if slots < 0:
        return f"more tokens are shown than vocabulary={vocabulary} has"
    if 1.0 - total > SLACK + (0.0 if position.cap == 0.0 else slots * position.cap):
        return f"{1.0 - total:.4g} is more than its unseen tokens can have: at most {position.cap:.4g} each"
    return None


def _slots(position: Shown, other: Shown, vocabulary: int | None) -> float:
    """The number of tokens that the position does not show; negative if both show more than there are."""
    if vocabulary is None:
        return math.inf
    return -1.0 if len(position.p.keys() | other.p.keys()) > vocabulary else float(vocabulary - len(position.p))


def unknown(base: Shown, quant: Shown, vocabulary: int | None) -> Unknown:
    """What two rows leave open."""
    p_only = [value for name, value in base.p.items() if name not in quant.p]
    q_only = [value for name, value in quant.p.items() if name not in base.p]
    rest = math.inf if vocabulary is None else float(vocabulary - len(base.p.keys() | quant.p.keys()))
    tail_p, tail_q = (
        min(side.unseen, (count + rest) * side.cap if side.cap > 0.0 else 0.0)
        for side, count in ((base, len(q_only)), (quant, len(p_only)))
    )
    return Unknown(p_only, q_only, rest, tail_p, tail_q, base.cap, quant.cap)


def known(base: Shown, quant: Shown) -> float:
    """The sum of p log(p/q) over the tokens that both show: the top-k KL that libraries distil with. It may be negative."""
    return math.fsum(_term(p, quant.p[name]) for name, p in base.p.items() if name in quant.p)


def bounds(base: Shown, quant: Shown, vocabulary: int | None = None) -> tuple[float, float]:
    """The least and the largest KL(base‖quant) that agree with what is shown."""
    seen, rows = known(base, quant), unknown(base, quant, vocabulary)
    return max(0.0, seen + _value(rows, closest(rows))), seen + _largest(rows)


def closest(rows: Unknown) -> Completion:
    """The completion of the least KL."""
    capacity = (len(rows.p_only) + rows.rest) * rows.cap_q if rows.cap_q > 0.0 else 0.0
    rows = rows._replace(tail_q=min(max(rows.tail_q, TAIL), capacity))
    low = max(0.0, rows.tail_p - len(rows.q_only) * rows.cap_p)
    high = rows.tail_p if math.isinf(rows.rest) else min(rows.tail_p, rows.rest * rows.cap_p)
    if not rows.q_only:
        low = high = rows.tail_p
    for _ in range(100):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (low, middle) if _slope(rows, middle) > 0.0 else (middle, high)
    return _completed(rows, 0.5 * (low + high))[0]


def _completed(rows: Unknown, rest_p: float) -> tuple[Completion, float]:
    """The closest completion with this mass of R under base, and mu."""
    p, mu = _filled(rows.q_only, rows.cap_p, rows.tail_p - rest_p)
    limit = math.inf if math.isinf(rows.rest) else rows.rest * rows.cap_q
    q, _ = _filled([*rows.p_only, rest_p], rows.cap_q, rows.tail_q, limit)
    if all(value >= rows.cap_q for value in q[:-1]):  # what the caps leave over goes to R, even if base has nothing there
        q[-1] = min(limit, max(q[-1], rows.tail_q - math.fsum(q[:-1])))
    return Completion(p, q[:-1], rest_p, q[-1]), mu


def _slope(rows: Unknown, rest_p: float) -> float:
    completion, mu = _completed(rows, rest_p)
    if completion.rest_q == 0.0:
        return math.inf
    return math.log(rest_p / completion.rest_q) - (math.log(mu) if mu > 0.0 else -math.inf)


def _filled(weights: list[float], cap: float, total: float, last_cap: float | None = None) -> tuple[list[float], float]:
    """Numbers min(cap, level x weight) that sum to `total`, and the level; the last may have a cap of its own."""
    caps = [cap] * len(weights)
    if last_cap is not None:
        caps[-1] = last_cap
    order = sorted(range(len(weights)), key=lambda i: math.inf if weights[i] == 0.0 else caps[i] / weights[i])
    values, left, weight, level = [0.0] * len(weights), total, math.fsum(weights), math.inf
    for place, i in enumerate(order):
        level = left / weight if weight > 0.0 else 0.0
        if level * weights[i] <= caps[i]:
            for j in order[place:]:
                values[j] = level * weights[j]
            return values, level
        values[i] = caps[i]
        left, weight = max(0.0, left - caps[i]), math.fsum(weights[j] for j in order[place + 1 :])
    return values, level


def _value(rows: Unknown, completion: Completion) -> float:
    """The part of a KL that lies outside of what both show."""
    pairs = [*zip(rows.p_only, completion.q, strict=True), *zip(completion.p, rows.q_only, strict=True)]
    return math.fsum(_term(p, q) for p, q in [*pairs, (completion.rest_p, completion.rest_q)])


def _term(p: float, q: float) -> float:
    if p == 0.0:
        return 0.0
    return math.inf if q == 0.0 else p * math.log(p / q)


def _largest(rows: Unknown) -> float:
    """The largest value of the part of a KL that lies outside of what both show."""
    may_draw_rest = rows.tail_p > 0.0 and rows.rest > 0
    if not (may_draw_rest or any(p > 0.0 for p in rows.p_only)):
        return _spread([(q, 1.0) for q in rows.q_only], rows)
    slots = len(rows.p_only) + rows.rest
    least = rows.tail_q - (slots - 1) * rows.cap_q if math.isfinite(slots) else 0.0
    return max(_vertices(rows, least)) if least > TAIL else math.inf


def _vertices(rows: Unknown, least: float) -> Iterator[float]:
    """The largest value for each slot that quant may leave at `least`: a token of base's, or one of R."""
    for low in range(len(rows.p_only) + (rows.rest > 0)):
        q = [least if i == low else rows.cap_q for i in range(len(rows.p_only))]
        in_rest = low == len(rows.p_only)
        rest = [(rows.cap_q, max(0.0, rows.rest - in_rest)), (least, float(in_rest))]
        yield math.fsum(map(_term, rows.p_only, q)) + _spread([*((one, 1.0) for one in rows.q_only), *rest], rows)


def _spread(slots: list[tuple[float, float]], rows: Unknown) -> float:
    """The largest sum of p log(p/q) with base's tail on slots of (q, how many): the least q are filled first."""
    total, left = 0.0, rows.tail_p
    for q, count in sorted(slots):
        full = min(count, left // rows.cap_p) if rows.cap_p > 0.0 else 0.0
        total += full * _term(rows.cap_p, q)
        left -= full * rows.cap_p
        if full < count and left > 0.0:
            return total + _term(left, q)
    return total
