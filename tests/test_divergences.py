"""Every registered divergence against its definition, its limits and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkl.divergences import REGISTRY, Divergence, Params, complaint, exact
from rlkl.penalties.estimators import k1, k2, k3
from tests.helpers import DEFINITIONS, PARAMS

NAMES = sorted(REGISTRY)


def dirichlet(seed: int, n: int = 6, count: int = 2):
    return np.random.default_rng(seed).dirichlet(np.ones(n), size=count)


@pytest.mark.parametrize("name", NAMES)
def test_generator_and_slope_vanish_at_equal_probabilities(name):
    f, slope = REGISTRY[name].both(jnp.asarray(0.0), PARAMS)
    assert abs(f) <= 1e-16
    assert abs(slope) <= 1e-16


@pytest.mark.parametrize("name", NAMES)
def test_slope_is_the_derivative_by_the_ratio(name):
    at = jnp.asarray([-3.0, -1.0, -0.1, 0.1, 1.0, 3.0])
    by_u = jax.vmap(jax.grad(lambda u: REGISTRY[name].both(u, PARAMS)[0]))(at)
    _, slope = REGISTRY[name].both(at, PARAMS)
    np.testing.assert_allclose(slope, by_u * jnp.exp(-at), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_generator_is_convex_in_the_ratio_and_never_negative(name):
    t = jnp.linspace(0.01, 10.0, 2001)
    f, slope = REGISTRY[name].both(jnp.log(t), PARAMS)
    assert (jnp.diff(slope) >= -1e-12).all()
    assert (f >= -1e-15).all()


@pytest.mark.parametrize("name", NAMES)
def test_declared_limits_are_the_generator_s(name):
    div = REGISTRY[name]
    low, _ = div.both(jnp.asarray(-60.0), PARAMS)
    high, _ = div.both(jnp.asarray(60.0), PARAMS)
    for declared, seen in (
        (div.limit("zero", PARAMS, float), low),
        (div.limit("infinity", PARAMS, float), high / jnp.exp(60.0)),
    ):
        if np.isinf(declared):
            assert seen > 25.0
        else:
            np.testing.assert_allclose(seen, declared, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_exact_value_is_the_definition(name, seed):
    q, p = dirichlet(seed)
    value = exact(REGISTRY[name], PARAMS, jnp.log(q), jnp.log(p))
    expected = DEFINITIONS[name](q, p) if name in DEFINITIONS else np.sum(p * REGISTRY[name].both(jnp.log(q / p), PARAMS)[0])
    np.testing.assert_allclose(value, expected, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_gradient_is_that_of_finite_differences_for_both_arguments(name, seed):
    draw = np.random.default_rng(seed)
    logits = jnp.asarray(draw.normal(size=(2, 5)))

    @jax.jit
    def value(logits):
        rows = jax.nn.log_softmax(logits, axis=-1)
        return exact(REGISTRY[name], PARAMS, rows[0], rows[1])

    gradient, step = jax.grad(value)(logits), 1e-6
    for at in np.ndindex(2, 5):
        nudge = jnp.zeros((2, 5)).at[at].set(step)
        numeric = (value(logits + nudge) - value(logits - nudge)) / (2 * step)
        np.testing.assert_allclose(gradient[at], numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_zero_probabilities_give_the_limits_and_never_nan(name):
    div = REGISTRY[name]
    full, lost = jnp.log(jnp.asarray([0.2, 0.3, 0.5])), jnp.log(jnp.asarray([0.4, 0.6, 0.0]))
    dropped = exact(div, PARAMS, lost, full)
    off = exact(div, PARAMS, full, lost)
    assert np.isinf(dropped) == np.isinf(div.limit("zero", PARAMS, float))
    assert np.isinf(off) == np.isinf(div.limit("infinity", PARAMS, float))
    nearly = jnp.log(jnp.asarray([0.4, 0.6 - 1e-13, 1e-13]))
    for limit, near in ((dropped, exact(div, PARAMS, nearly, full)), (off, exact(div, PARAMS, full, nearly))):
        if np.isfinite(limit):
            np.testing.assert_allclose(near, limit, atol=1e-5)
    assert exact(div, PARAMS, lost, lost) == 0.0
    for pair in ((lost, full), (full, lost), (lost, lost)):
        gradient = jax.grad(lambda log_pi, ref: exact(div, PARAMS, log_pi, ref))(*pair)
        assert not jnp.isnan(gradient).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_log_ratios_give_no_nan(name, dtype):
    deep = 60.0 if dtype == jnp.float32 else 200.0
    log_pi = jax.nn.log_softmax(jnp.asarray([0.0, -deep, -1.0], dtype))
    log_ref = jax.nn.log_softmax(jnp.asarray([0.0, -1.0, -deep], dtype))
    params = Params(jnp.asarray(0.5, dtype))
    value, gradient = jax.value_and_grad(lambda x: exact(REGISTRY[name], params, x, log_ref))(log_pi)
    assert not jnp.isnan(value)
    assert not jnp.isnan(gradient).any()
    assert value.dtype == dtype


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6), st.sampled_from(NAMES))
def test_zero_exactly_where_the_distributions_are_equal(weights, name):
    p = np.array(weights) / np.sum(weights)
    q = np.roll(p, 1)
    assert abs(exact(REGISTRY[name], PARAMS, jnp.log(p), jnp.log(p))) <= 1e-15
    distance = np.abs(p - q).max()
    if distance > 1e-6:
        assert exact(REGISTRY[name], PARAMS, jnp.log(q), jnp.log(p)) > 0.0


@pytest.mark.parametrize("alpha", [-1.0, -0.3, 0.0, 1e-9, 0.3, 0.5, 0.999999, 1.0, 1.5, 2.0, 4.0])
def test_alpha_family_holds_its_named_members_and_is_continuous(alpha):
    q, p = dirichlet(3)
    value = float(exact(REGISTRY["alpha"], Params(alpha), jnp.log(q), jnp.log(p)))
    if alpha in (0.0, 1.0):
        expected = DEFINITIONS["kl_ref_pi" if alpha == 0.0 else "kl_pi_ref"](q, p)
    elif alpha in (2.0, -1.0):
        expected = 0.5 * DEFINITIONS["pearson" if alpha == 2.0 else "neyman"](q, p)
    else:
        expected = (np.sum(q**alpha * p ** (1 - alpha)) - 1) / (alpha * (alpha - 1))
    np.testing.assert_allclose(value, expected, rtol=1e-6 if 0 < abs(alpha * (alpha - 1)) < 1e-5 else 1e-11)


def test_estimators_have_their_expectations():
    q, p = dirichlet(5)
    u = jnp.log(q / p)
    np.testing.assert_allclose(np.sum(q * k1(u)), DEFINITIONS["kl_pi_ref"](q, p), rtol=1e-12)
    np.testing.assert_allclose(np.sum(q * k3(u)), DEFINITIONS["kl_pi_ref"](q, p), rtol=1e-12)
    np.testing.assert_allclose(np.sum(q * k2(u)), 0.5 * np.sum(q * np.log(q / p) ** 2), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_generator_is_complained_of(name):
    assert complaint(REGISTRY[name]) is None


WRONG = {
    "one array": (lambda u, params: u * u, 1.0, 1.0, "must return (f, slope)"),
    "not zero at zero": (lambda u, params: (jnp.exp(u), jnp.ones_like(u)), 0.0, 1.0, "must be 0 at u = 0"),
    "slope of another": (lambda u, params: (u * jnp.expm1(u), 3.0 * u), jnp.inf, jnp.inf, "slope must be df/dt"),
    "zero": (lambda u, params: (u * jnp.expm1(u), u - jnp.expm1(-u)), 1.0, jnp.inf, "zero (f at t = 0)"),
    "infinity": (lambda u, params: (jnp.square(jnp.expm1(u)), 2.0 * jnp.expm1(u)), 1.0, 1.0, "infinity (f/t"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_generator_is_complained_of(case):
    both, zero, infinity, says = WRONG[case]
    assert says in complaint(Divergence("wrong", both, zero, infinity, None, ""))
