"""The closed form of KL(mu‖pi) under rounding, against sums over a grid of rounding errors, and the task of its training."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from experiments.mismatch_grows import rows, training
from tests.helpers import DTYPES, sequences


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_unit_is_the_spacing_of_the_format(dtype):
    z = np.abs(np.random.default_rng(0).normal(size=200)) * 2.0 ** np.arange(200).clip(0, 7)
    here = np.floor(z * 2**4) / 2**4 + 0.03  # no number at which the spacing changes
    above = ml_dtypes.finfo(DTYPES[dtype])
    expected = 2.0 ** np.floor(np.log2(np.maximum(here, float(above.smallest_normal)))) * float(above.eps)
    np.testing.assert_allclose(rows.unit(jnp.asarray(here), dtype), expected, rtol=1e-12)


def test_the_closed_form_is_the_mean_over_all_rounding_errors():
    """Three tokens, each error on a grid within half a unit: by plain sums over all combinations."""
    z = np.array([24.0, 23.2, 20.5])
    h = 2.0**-3
    grid = h * ((np.arange(24) + 0.5) / 24 - 0.5)
    errors = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    log_pi = z - np.logaddexp.reduce(z)
    log_mu = z + errors
    log_mu -= np.logaddexp.reduce(log_mu, axis=1, keepdims=True)
    kl = np.sum(np.exp(log_mu) * (log_mu - log_pi), axis=1).mean()
    np.testing.assert_allclose(rows.closed_form(jnp.asarray(z), "bfloat16"), kl, rtol=5e-3)
    pi = np.exp(log_pi)
    np.testing.assert_allclose(rows.closed_form(jnp.asarray(z), "bfloat16"), h**2 / 24 * (1 - np.sum(pi**2)), rtol=1e-12)


def test_dithered_logits_round_to_errors_of_half_a_unit():
    z = jnp.linspace(17.0, 31.0, 2000)
    near = rows.dithered(jax.random.key(0), z, "bfloat16")
    errors = np.asarray(near).astype(ml_dtypes.bfloat16).astype(float) - np.asarray(near)
    assert np.abs(errors).max() <= 2.0**-4
    np.testing.assert_allclose(errors.var(), 2.0**-6 / 12, rtol=0.1)


@pytest.mark.parametrize("kind", training.KINDS)
def test_rewards_count_what_they_say(kind):
    task = training.task(kind, 3, 3)
    for path, end in sequences(task.automaton):
        tokens = [token for _, _, token in path]
        count = sum(token > 0 for token in tokens) if kind == "longer" else sum(token == 1 for token in tokens)
        assert task.reward[end] == pytest.approx(count / 3)
        assert len(tokens) == 3 or (kind != "peaked" and tokens[-1] == 0)
