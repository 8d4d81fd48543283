"""Every metric against its definition in plain Python; every estimate against the exact value and its own error bar."""

import itertools
import lzma
import math
import time
import zlib
from fractions import Fraction

import numpy as np
import pytest

from rlkl.evaluation import diversity
from rlkl.evaluation.diversity import (
    compression_ratio,
    distinct,
    mode_coverage,
    mode_coverage_estimate,
    mode_entropy,
    mode_mass,
    mode_mass_estimate,
    modes,
    pass_at_k,
    pass_at_k_estimate,
    reward_quantiles,
)

TEXT = "the small cat sees the small dragon and the dragon sees the small cat by the river where the small cat sat"
ALL, NONE = np.array([True, True, True]), np.array([False, False, False])
P = np.array([0.2, 0.5, 0.3])


def seen(p, n):
    return 1 - (1 - p) ** n


# Corpora


def plain_distinct(sequences, n):
    grams = [tuple(s[i : i + n]) for s in sequences for i in range(len(s) - n + 1)]
    return len(set(grams)) / len(grams)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", [list, np.array])
def test_distinct_counts_different_n_grams(n, kind):
    draw = np.random.default_rng(0)
    ragged = [draw.integers(-2, 3, size=length).tolist() for length in draw.integers(1, 12, size=50)]
    words = [[int.from_bytes(word.encode(), "big") for word in line.split()] for line in TEXT.split("sat")]  # ids up to 2^48
    for sequences in (ragged, words):
        assert distinct([kind(s) for s in sequences if s], n) == plain_distinct(sequences, n)


def test_distinct_by_hand():
    assert distinct([[1, 2, 1, 2], [2, 1]], 2) == 2 / 4  # 12 21 12 | 21
    assert distinct([[1], [2]], 1) == 1.0
    assert distinct([[5] * 9], 3) == 1 / 7
    assert distinct([[1, 2], [3, 4]], 2) == 1.0  # and not (2, 3), which would span two sequences
    assert distinct([list(np.arange(3))], 2) == 1.0  # NumPy's integers in a list


@pytest.mark.parametrize(("sequences", "n"), [([], 1), ([[]], 1), ([[1, 2], [3]], 3), ([np.zeros(0, int)], 2)])
def test_distinct_of_no_n_gram_is_undefined(sequences, n):
    assert math.isnan(distinct(sequences, n))


def test_distinct_is_fast():
    corpus = list(np.random.default_rng(1).integers(0, 1000, size=(10_000, 16)))
    start = time.process_time()
    for n in (1, 2, 3, 4):
        distinct(corpus, n)
    assert time.process_time() - start < 2.0  # about .1 s


def test_compression_ratio_is_bytes_over_bytes():
    text = TEXT + " – ‖"  # of more than a byte each
    squeeze = zlib.compressobj(9)
    assert compression_ratio(text, "zlib") == len(text.encode()) / len(squeeze.compress(text.encode()) + squeeze.flush())
    whole = lzma.compress(text.encode(), preset=6, check=lzma.CHECK_NONE)
    lean = len(text.encode()) / compression_ratio(text, "lzma")
    assert lean == round(lean)
    assert 0 < len(whole) - lean < 70  # the container's header, index and footer
    raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=diversity.LZMA["filters"])
    assert raw.decompress(lzma.compress(text.encode(), **diversity.LZMA)) == text.encode()


@pytest.mark.parametrize("method", ["zlib", "lzma"])
def test_compression_ratio_rises_with_repetition(method):
    varied = "".join(map(chr, np.random.default_rng(2).integers(33, 127, size=2000)))
    once, twice, same = (compression_ratio(text, method) for text in (varied, varied[:1000] * 2, "a" * 2000))
    assert 1.0 < once < twice < same
    assert math.isnan(compression_ratio("", method))


# Modes


def test_modes_are_the_outcomes_of_the_largest_reward():
    assert modes(np.array([1.0, 3.0, 2.0, 3.0])).tolist() == [False, True, False, True]
    assert modes(np.array([3.0, 3.0 * (1 - 5e-10), 3.0 * (1 - 5e-9)])).tolist() == [True, True, False]
    assert modes(np.array([-2.0, -2.0 * (1 + 5e-10), -2.1])).tolist() == [True, True, False]
    assert modes(np.array([-np.inf, 0.0, -1e-300])).tolist() == [False, True, False]
    assert modes(np.full(4, 0.7)).all()
    assert modes(np.array([-1.0])).tolist() == [True]
    assert modes(np.zeros(0)).shape == (0,)


def test_mode_mass_and_entropy():
    held = np.array([True, False, True])
    assert mode_mass(P, held) == pytest.approx(0.5, rel=1e-15)
    assert mode_entropy(P, held) == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)), rel=1e-14)
    assert mode_entropy(P, ALL) == pytest.approx(-sum(p * math.log(p) for p in P.tolist()), rel=1e-14)
    subnormal = np.array([5e-324, 0.5, 0.5])
    assert mode_entropy(subnormal, ALL) == pytest.approx(math.log(2), rel=1e-14)
    assert mode_entropy(np.full(8, 1e-310), np.ones(8, bool)) == pytest.approx(math.log(8), rel=1e-12)


def test_mode_mass_and_entropy_at_the_edges():
    assert mode_mass(P, NONE) == 0.0
    assert math.isnan(mode_entropy(P, NONE))
    assert math.isnan(mode_entropy(np.array([0.0, 1.0]), np.array([True, False])))
    alone = mode_entropy(np.array([0.3, 0.7, 0.0]), np.array([True, False, True]))
    assert math.copysign(1.0, alone) == 1.0 and alone == 0.0  # not -0.0


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("held", [[True, False, True], [True, True, True], [False, True, False]])
def test_mode_coverage_over_every_sequence_of_draws(n, held):
    expected = sum(
        math.prod(P[i] for i in draws) * sum(held[i] for i in set(draws)) / sum(held)
        for draws in itertools.product(range(3), repeat=n)
    )
    assert mode_coverage(P, np.array(held), n) == pytest.approx(expected, rel=1e-13)


def test_mode_coverage_of_the_certain_and_the_rare():
    assert mode_coverage(np.array([1.0, 0.0]), np.array([True, True]), 7) == 0.5
    assert mode_coverage(np.array([1.0 + 2e-16]), np.array([True]), 7) == 1.0
    assert mode_coverage(np.array([1e-18]), np.array([True])) == pytest.approx(1e-16, rel=1e-12, abs=0.0)  # and not 0
    assert math.isnan(mode_coverage(P, NONE))


# Rewards


def expanded_quantile(weights, reward, level: Fraction):
    """From the sorted list in which each reward stands as often as its whole-numbered weight says."""
    values = sorted(r for w, r in zip(weights, reward, strict=True) for _ in range(w))
    return next(v for i, v in enumerate(values, 1) if Fraction(i, len(values)) >= level)


@pytest.mark.parametrize("seed", range(20))
def test_reward_quantiles_are_those_of_repeated_values(seed):
    draw = np.random.default_rng(seed)
    weights = draw.integers(0, 6, size=12)
    weights[0] += 1
    reward = draw.integers(-3, 4, size=12) / 2  # tied ones too
    total = int(weights.sum())
    levels = [Fraction(i, total) for i in range(total + 1)] + [Fraction(i, 37) for i in range(38)]
    found = reward_quantiles(weights / total, reward, np.array([float(q) for q in levels]))
    assert found.tolist() == [expanded_quantile(weights.tolist(), reward.tolist(), q) for q in levels]


def test_reward_quantiles_despite_rounding():
    tenths = np.full(10, 0.1)  # their sums are .7999..., .8999..., .9999...
    levels = np.arange(11) / 10
    assert reward_quantiles(tenths, np.arange(10.0), levels).tolist() == [0, *range(10)]
    rare = np.array([1e-15, 1.0 - 2e-15, 1e-15])
    assert reward_quantiles(rare, np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])).tolist() == [0, 1, 2]


def test_reward_quantiles_at_the_edges():
    levels = np.array([0.0, 0.5, 1.0])
    assert reward_quantiles(np.array([1.0]), np.array([4.0]), levels).tolist() == [4, 4, 4]
    assert reward_quantiles(P, np.full(3, 2.0), levels).tolist() == [2, 2, 2]
    assert reward_quantiles(P * 1.001, np.arange(3.0), np.array([0.2, 0.7])).tolist() == [0, 1]  # relative to the sum
    assert reward_quantiles(P * 0.999, np.arange(3.0), np.array([0.2, 0.7])).tolist() == [0, 1]
    never = np.array([0.0, 1.0, 0.0])
    assert reward_quantiles(never, np.array([-9.0, 0.0, 9.0]), levels).tolist() == [0, 0, 0]
    assert np.isnan(reward_quantiles(np.zeros(0), np.zeros(0), levels)).all()


def test_pass_at_k():
    success = np.array([True, False, True])
    for k in (1, 2, 4):
        tries = itertools.product(range(3), repeat=k)
        expected = sum(math.prod(P[i] for i in draws) for draws in tries if any(success[i] for i in draws))
        assert pass_at_k(P, success, k) == pytest.approx(expected, rel=1e-14)
    assert pass_at_k(P, NONE, 3) == 0.0
    assert pass_at_k(P, ALL, 3) == 1.0
    assert pass_at_k(np.array([1e-18, 1.0]), np.array([True, False]), 100) == pytest.approx(1e-16, rel=1e-12, abs=0.0)


# Estimates


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_estimate_is_the_share_of_subsets_with_a_success(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
            assert pass_at_k_estimate(n, c, k).value == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-14)


def test_pass_at_k_estimate_is_stable_in_large_numbers():
    for n, c, k in ((100_000, 3, 1000), (10_000, 5000, 20), (1000, 999, 2), (10**6, 1, 1)):
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        slope = Fraction(math.comb(n - c - 1, k - 1), math.comb(n - 1, k))
        value, stderr = pass_at_k_estimate(n, c, k)
        assert value == pytest.approx(float(exact), rel=1e-11)
        assert stderr == pytest.approx(math.sqrt((n - 1) / n * c * (n - c) / n) * float(slope), rel=1e-9, abs=1e-300)


def plain_jackknife(draws, held, n):
    """The estimate's value without each draw in turn."""

    def value(rest):
        return mode_coverage_estimate(np.array([rest.count(m) for m in held]), len(rest), n).value

    left_out = [value(draws[:i] + draws[i + 1 :]) for i in range(len(draws))]
    mean = sum(left_out) / len(draws)
    return math.sqrt((len(draws) - 1) / len(draws) * sum((x - mean) ** 2 for x in left_out))


@pytest.mark.parametrize("held", [[0], [0, 1], [0, 1, 2], [0, 2, 3]])  # 3 is never drawn
@pytest.mark.parametrize("n", [1, 2, 3])
def test_mode_coverage_estimate_over_every_sequence_of_draws(held, n):
    """Unbiased; its standard error that of leaving draws out, whose square is on average no less than the variance."""
    size, mean, square, claimed = 5, 0.0, 0.0, 0.0
    for draws in itertools.product(range(3), repeat=size):
        weight = math.prod(P[i] for i in draws)
        value, stderr = mode_coverage_estimate(np.array([draws.count(m) for m in held]), size, n)
        mean, square, claimed = mean + weight * value, square + weight * value**2, claimed + weight * stderr**2
        if draws == tuple(sorted(draws)):
            assert stderr == pytest.approx(plain_jackknife(draws, held, n), abs=1e-12)
    exact = sum(seen(P[m], n) for m in held if m < 3) / len(held)
    assert mean == pytest.approx(exact, rel=1e-12)
    variance = square - mean**2
    assert claimed >= variance * (1 - 1e-9) - 1e-15
    if n == 1:
        assert claimed == pytest.approx(variance, rel=1e-9, abs=1e-15)


def test_estimates_at_the_edges():
    assert mode_mass_estimate(0, 10) == (0.0, 0.0)
    assert mode_mass_estimate(10, 10) == (1.0, 0.0)
    assert np.isnan(mode_mass_estimate(0, 0)).all()
    assert pass_at_k_estimate(10, 0, 3) == (0.0, 0.0)
    assert pass_at_k_estimate(10, 10, 3) == (1.0, 0.0)
    assert pass_at_k_estimate(10, 10, 1) == (1.0, 0.0)
    assert pass_at_k_estimate(10, 8, 3).value == 1.0
    assert np.isnan(pass_at_k_estimate(3, 1, 4)).all()
    value, stderr = pass_at_k_estimate(4, 1, 4)
    assert value == 1.0 and math.isnan(stderr)
    assert np.isnan(mode_coverage_estimate(np.zeros(0, int), 10, 2)).all()
    value, stderr = mode_coverage_estimate(np.array([3, 0, 1, 0]), 5, 5)
    assert value == 0.5 and math.isnan(stderr)


def mass_case(draw):
    return mode_mass_estimate(int(draw.binomial(3000, 0.3)), 3000), 0.3


def pass_case(draw):
    return pass_at_k_estimate(2000, int(draw.binomial(2000, 0.05)), 10), seen(0.05, 10)


def coverage_case(draw):
    probability = np.array([0.3, 0.1, 0.05, 0.02, 0.01, 0.52])
    held = np.arange(6) < 5
    counts = draw.multinomial(3000, probability)
    return mode_coverage_estimate(counts[held], 3000, 30), float(np.mean(seen(probability[held], 30)))


def even_case(draw):
    """Every draw in a mode, so that the counts weigh on one another."""
    probability = np.array([0.4, 0.3, 0.2, 0.1])
    return mode_coverage_estimate(draw.multinomial(2000, probability), 2000, 3), float(np.mean(seen(probability, 3)))


@pytest.mark.parametrize("case", [mass_case, pass_case, coverage_case, even_case])
def test_error_bars_are_as_wide_as_the_errors(case):
    scores = []
    for seed in range(400):
        (value, stderr), exact = case(np.random.default_rng(seed))
        scores.append((value - exact) / stderr)
    assert abs(np.mean(scores)) < 0.15
    assert 0.85 < np.std(scores) < 1.15
