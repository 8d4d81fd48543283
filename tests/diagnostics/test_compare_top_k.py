"""Bounds on KLs from top-k log-probabilities: against full distributions, optimisers and every vertex."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special

from rlkl.diagnostics.compare import top_k


def models(seed: int, vocabulary: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=spread, size=vocabulary)
    return special.softmax(logits), special.softmax(logits + draw.normal(scale=draw.choice([0.1, 1.0, 3.0]), size=vocabulary))


def show(p: np.ndarray, k: int, token: int | None = None, in_list: bool = False) -> top_k.Shown:
    """What a server shows of a distribution: its k likeliest tokens, and the text's, which some put into the list."""
    top = {int(i): math.log(p[i]) for i in [*np.argsort(-p)[:k], *([token] if in_list else [])]}
    return top_k.shown(top, token, -math.inf if token is None else math.log(p[token]))


CASES = list(itertools.product(range(12), ((6, 0.3), (9, 2.0), (40, 4.0)), (1, 3, 5)))


@pytest.mark.parametrize("with_vocabulary", [False, True])
@pytest.mark.parametrize("with_token, in_list", [(False, False), (True, False), (True, True)])
def test_the_true_kl_lies_between(with_vocabulary, with_token, in_list):
    finite = 0
    for seed, (vocabulary, spread), k in CASES:
        p, q = models(seed, vocabulary, spread)
        token = int(np.random.default_rng(seed).integers(vocabulary)) if with_token else None
        base, quant = show(p, k, token, in_list), show(q, k, token, in_list)
        for one, two, x, y in ((base, quant, p, q), (quant, base, q, p)):
            least, most = top_k.bounds(one, two, vocabulary if with_vocabulary else None)
            exact = special.rel_entr(x, y).sum()
            assert least <= exact + 1e-9 and exact <= most + 1e-9
            finite += math.isfinite(most)
            assert top_k.fault(one, two, vocabulary if with_vocabulary else None) is None
    assert (finite > 20) == with_vocabulary


def full(base: top_k.Shown, quant: top_k.Shown, completion: top_k.Completion, rest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both distributions over the tokens that both show, A only, B only, and R, spread evenly."""
    both = [name for name in base.p if name in quant.p]
    p_only = [value for name, value in base.p.items() if name not in quant.p]
    q_only = [value for name, value in quant.p.items() if name not in base.p]
    even = [np.full(rest, mass / rest) if rest else [] for mass in (completion.rest_p, completion.rest_q)]
    p = np.concatenate([[base.p[name] for name in both], p_only, completion.p, even[0]])
    return p, np.concatenate([[quant.p[name] for name in both], completion.q, q_only, even[1]])


@pytest.mark.parametrize("with_vocabulary", [False, True])
def test_the_lower_bound_is_attained_by_a_completion(with_vocabulary):
    for seed, (vocabulary, spread), k in CASES:
        base, quant = (show(x, k) for x in models(seed, vocabulary, spread))
        size = vocabulary if with_vocabulary else None
        rows = top_k.unknown(base, quant, size)
        completion = top_k.closest(rows)
        rest = int(rows.rest) if with_vocabulary else 10**5
        p, q = full(base, quant, completion, rest)
        assert p.sum() == pytest.approx(1.0, abs=1e-9) and q.sum() == pytest.approx(1.0, abs=2e-6)
        slack = 1.0 + 1e-9
        assert max([0.0, *completion.p]) <= base.cap * slack and max([0.0, *completion.q]) <= quant.cap * slack
        if rest:
            assert completion.rest_p <= rest * base.cap * slack and completion.rest_q <= rest * quant.cap * slack
        assert top_k.bounds(base, quant, size)[0] == pytest.approx(max(0.0, special.rel_entr(p, q).sum()), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 6, 7, 8])
def test_no_completion_has_less(seed):
    """A general optimiser over all unseen probabilities finds no smaller KL, and comes near to the bound."""
    vocabulary, k = 8, 3
    p, q = models(seed, vocabulary, 1.5)
    base, quant = show(p, k), show(q, k)
    least = top_k.bounds(base, quant, vocabulary)[0]
    free = [[i for i in range(vocabulary) if i not in side.p] for side in (base, quant)]
    split = len(free[0])

    def kl(x):
        one, two = p.copy(), q.copy()
        one[free[0]], two[free[1]] = x[:split], x[split:]
        return special.rel_entr(one, np.maximum(two, 1e-12)).sum()

    tails = p[free[0]].sum(), q[free[1]].sum()
    result = optimize.minimize(
        kl,
        np.concatenate([np.full(len(one), tail / len(one)) for one, tail in zip(free, tails, strict=True)]),
        method="SLSQP",
        bounds=[(1e-12, base.cap)] * split + [(1e-12, quant.cap)] * len(free[1]),
        constraints=[
            {"type": "eq", "fun": lambda x: x[:split].sum() - tails[0]},
            {"type": "eq", "fun": lambda x: x[split:].sum() - tails[1]},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert result.success
    assert least - 1e-6 <= result.fun <= least + 1e-5


def vertices(tail: float, cap: float, slots: int):
    """Every vertex of {0 <= x_i <= cap, sum x_i = tail}."""
    full_slots = int(tail / cap + 1e-12)
    for order in itertools.permutations(range(slots), min(full_slots + 1, slots)):
        x = np.zeros(slots)
        x[list(order[:full_slots])] = cap
        if full_slots < len(order):
            x[order[full_slots]] = tail - full_slots * cap
        yield x


def test_the_upper_bound_is_the_largest_vertex():
    finite = 0
    for seed in range(60):
        vocabulary, k = 7, 4
        p, q = models(seed, vocabulary, 0.2)
        base, quant = show(p, k), show(q, k)
        free = [[i for i in range(vocabulary) if i not in side.p] for side in (base, quant)]
        largest = 0.0
        for x in vertices(p[free[0]].sum(), base.cap, len(free[0])):
            for y in vertices(q[free[1]].sum(), quant.cap, len(free[1])):
                one, two = p.copy(), q.copy()
                one[free[0]], two[free[1]] = x, y
                largest = max(largest, special.rel_entr(one, two).sum())
        most = top_k.bounds(base, quant, vocabulary)[1]
        assert most == pytest.approx(largest, rel=1e-9)
        finite += math.isfinite(most)
    assert 10 < finite < 60


def test_without_caps_the_bound_is_that_of_lumping():
    """All but the shared tokens as one class, in a case worked out by hand."""
    base = top_k.Shown({"a": 0.5, "b": 0.2}, 1.0)
    quant = top_k.Shown({"a": 0.4, "c": 0.1}, 1.0)
    least, most = top_k.bounds(base, quant)
    assert least == pytest.approx(0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6), rel=1e-12)
    assert most == math.inf
    far = top_k.Shown({"a": 0.4, "c": 0.55}, 1.0)  # quant's tail is too small for b's share: b, c and nothing else are left
    expected = 0.5 * math.log(0.5 / 0.4) + 0.2 * math.log(0.2 / 0.05) + 0.3 * math.log(0.3 / 0.55)
    assert top_k.bounds(base, far)[0] == pytest.approx(expected, rel=1e-9)


def test_a_whole_distribution_has_its_kl():
    p, q = models(3, 5, 1.0)
    exact = special.rel_entr(p, q).sum()
    assert top_k.bounds(show(p, 5), show(q, 5), 5) == (pytest.approx(exact, rel=1e-9), pytest.approx(exact, rel=1e-9))
    assert top_k.known(show(p, 5), show(q, 5)) == pytest.approx(exact, rel=1e-12)


def test_minus_infinity_at_the_lists_end_leaves_no_tail():
    """As a server's processed log-probabilities after top-p: the KL is known from both sides."""
    base = top_k.shown({1: math.log(0.7), 2: math.log(0.3), 3: -math.inf}, None, math.nan)
    quant = top_k.shown({1: math.log(0.6), 2: math.log(0.4), 3: -math.inf}, None, math.nan)
    exact = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
    assert top_k.bounds(base, quant) == (pytest.approx(exact), pytest.approx(exact))
    narrow = top_k.shown({1: 0.0, 2: -math.inf, 3: -math.inf}, None, math.nan)
    assert top_k.bounds(base, narrow) == (math.inf, math.inf)
    assert top_k.bounds(narrow, base) == (pytest.approx(-math.log(0.7)), pytest.approx(-math.log(0.7)))


def test_rounding_of_a_sum_makes_no_bound_infinite():
    """Quant's list sums to 1 in float32, and base shows another token of probability 1e-9."""
    base = top_k.shown({1: math.log(1.0 - 2e-9), 2: math.log(1e-9)}, None, math.nan)
    quant = top_k.shown({1: 0.0, 3: math.log(1e-7)}, None, math.nan)
    assert top_k.bounds(base, quant)[0] < 1e-6


def test_the_top_k_kl_can_be_negative():
    p, q = np.array([0.5, 0.2, 0.3]), np.array([0.6, 0.3, 0.1])
    base, quant = (top_k.shown({i: math.log(x[i]) for i in range(2)}, None, math.nan) for x in (p, q))
    assert top_k.known(base, quant) == pytest.approx(0.5 * math.log(0.5 / 0.6) + 0.2 * math.log(0.2 / 0.3))
    assert top_k.known(base, quant) < 0.0 < top_k.bounds(base, quant)[0]


@pytest.mark.parametrize(
    "top, vocabulary, said",
    [
        ({1: math.log(0.7), 2: math.log(0.7)}, None, "its probabilities sum to 1.4"),
        ({1: math.log(0.5), 2: math.log(0.1)}, 3, "0.4 is more than its unseen tokens can have: at most 0.1 each"),
        ({1: math.log(0.5), 2: -math.inf}, None, "0.5 is more than its unseen tokens can have: at most 0 each"),
        ({1: math.log(0.5), 2: math.log(0.1)}, 1, "more tokens are shown than vocabulary=1 has"),
    ],
)
def test_what_is_no_distribution_is_refused(top, vocabulary, said):
    position = top_k.shown(top, None, math.nan)
    assert top_k.fault(position, position, vocabulary) == said
