"""Rounding to fewer bits, against ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlkl import policies
from rlkl.policies import heads
from rlkl.policies.matrix import Matrix
from rlkl.policies.rounding import round_to
from tests.helpers import DTYPES, nearest


@pytest.mark.parametrize("own", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_numbers_are_those_of_ml_dtypes(dtype, own):
    draw = np.random.default_rng(0)
    spread = draw.normal(size=4000) * 2.0 ** draw.uniform(-30, 12, size=4000)
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(float)
    every = every[np.isfinite(every)]
    ties = (np.sort(every)[1:] + np.sort(every)[:-1]) / 2
    x = np.concatenate([spread, every, ties, [0.0, -0.0, 448.0, 449.0, 464.0, 465.0, -1e4]]).astype(np.float32).astype(own)
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda y: round_to(y, dtype))(x)), nearest(x, dtype))


def test_e4m3_saturates_and_has_its_own_range():
    rounded = np.asarray(round_to(jnp.asarray([1e9, -500.0, 250.0, 2.0**-9, 2.0**-10, 1.5 * 2.0**-10]), "float8_e4m3"))
    np.testing.assert_array_equal(rounded, [448.0, -448.0, 256.0, 2.0**-9, 0.0, 2.0**-9])


def test_each_part_of_a_policy_is_rounded_where_it_says():
    draw = np.random.default_rng(1)
    legal = np.array([[True, True, False], [True, True, True]])
    logits = draw.normal(size=(4, 2, 3)) * 3
    table = policies.tabular.Tabular(jnp.asarray(logits), jnp.asarray(legal))

    def log_softmax(x):
        x = np.where(legal, x, -np.inf)
        return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)

    for dtype in DTYPES:
        plain = log_softmax(logits)
        np.testing.assert_array_equal(
            policies.rounded(table, dtype).table(), np.where(legal, nearest(np.where(legal, plain, 0.0), dtype), -np.inf)
        )
        for what in ("logits", "weights"):
            expected = log_softmax(nearest(logits, dtype))
            np.testing.assert_allclose(policies.rounded(table, dtype, what).table(), expected, rtol=1e-12)


@pytest.mark.parametrize("what", ["logits", "weights"])
def test_a_network_s_head_is_rounded_after_or_before_its_product(what):
    draw = np.random.default_rng(2)
    weight, bias, base = draw.normal(size=(5, 3)), draw.normal(size=3), draw.normal(size=(2, 3))
    head = heads.Head(Matrix(jnp.asarray(weight)), jnp.asarray(bias), jnp.asarray(base), jnp.ones((2, 3), bool))
    automaton = 4
    network = policies.gru.Gru(
        jnp.asarray(draw.normal(size=(4, 15))), Matrix(jnp.asarray(draw.normal(size=(5, 15)))), jnp.zeros(15), head
    )
    tokens, states = jnp.zeros((2, automaton), jnp.int32), jnp.zeros((2, automaton + 1), jnp.int32)
    rounded = policies.rounded(network, "bfloat16", what)
    if what == "logits":
        features = jnp.asarray(draw.normal(size=(6, 5)))
        state = jnp.asarray([0, 1, 0, 1, 0, 1])
        logits = nearest(np.asarray(features) @ weight + base[np.asarray(state)] + bias, "bfloat16")
        expected = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        np.testing.assert_allclose(rounded.head(features, state), expected, rtol=1e-12)
    else:
        by_hand = jax.tree.map(lambda x: jnp.asarray(nearest(np.asarray(x), "bfloat16")) if x.dtype == float else x, network)
        np.testing.assert_array_equal(rounded.score(tokens, states), by_hand.score(tokens, states))
