"""The coders of the compression experiment: what is sent can be read, and is as short as theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.compression import coders


def test_huffmans_code_of_a_dyadic_distribution_is_its_surprise():
    words = coders.huffman(np.array([0.5, 0.25, 0.125, 0.125, 0.0]))
    assert [len(word) for word in words] == [1, 2, 3, 3, 0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 40), st.floats(0.05, 5.0))
def test_huffman_is_read_back_is_complete_and_loses_less_than_a_bit(seed, symbols, concentration):
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.full(symbols, concentration)) + 1e-9
    p /= p.sum()
    words = coders.huffman(p)
    lengths = np.array([len(word) for word in words])
    assert np.sum(0.5**lengths) == pytest.approx(1.0)  # Kraft
    assert -1e-9 <= p @ lengths + p @ np.log2(p) < 1.0
    tokens = draw.choice(symbols, 50, p=p).tolist()
    assert coders.huffman_decode("".join(words[token] for token in tokens), words) == tokens


def test_no_prefix_code_of_four_symbols_is_shorter_than_huffmans():
    shapes = ([2, 2, 2, 2], [1, 2, 3, 3])  # the complete codes, up to order
    for p in np.random.default_rng(0).dirichlet(np.ones(4), 50):
        best = min(np.sort(p)[::-1] @ np.array(shape) for shape in shapes)
        assert p @ [len(word) for word in coders.huffman(p)] == pytest.approx(best)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 30), st.floats(0.05, 5.0), st.integers(0, 200))
def test_the_range_coder_is_read_back_within_two_words_of_the_surprise(seed, symbols, concentration, length):
    draw = np.random.default_rng(seed)
    rows = draw.dirichlet(np.full(symbols, concentration), 3)
    rows[rows < 1e-4] = 0.0  # what the 24 bits of a probability keep to a thousandth
    rows /= rows.sum(1, keepdims=True)
    at = draw.integers(0, 3, length)
    tokens = [int(draw.choice(symbols, p=rows[row])) for row in at]
    message = coders.encode(tokens, rows[at])
    assert coders.decode(message, rows[at]) == tokens
    surprise = -sum(np.log2(rows[row, token]) for row, token in zip(at, tokens, strict=True))
    assert surprise - 1.0 <= coders.WORD * len(message) <= 1.001 * surprise + 2 * coders.WORD
