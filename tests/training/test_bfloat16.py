"""dtype=bfloat16: the products of networks are rounded as bfloat16 says, and everything else is as in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.config.build import build
from rlkl.errors import SettingsError
from rlkl.exact import sequence_rewards
from rlkl.policies import base
from rlkl.policies.matrix import Matrix
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import blocks, spec
from tests.policies.test_networks import FEW, NETWORKS, run_of

ROUNDING = 2.0**-8  # largest relative error of rounding to bfloat16, which has 8 significant bits
OF_A_PRODUCT = 2 * ROUNDING + ROUNDING**2 + 1e-5  # of both factors, and of a short sum in float32


def test_a_product_and_its_gradients_are_within_the_rounding_of_their_factors():
    draw = np.random.default_rng(0)
    x, weights, direction = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((7, 12), (12, 5), (7, 5)))
    product, pull = jax.vjp(lambda x, weights: Matrix(weights, bfloat16=True).product(x), x, weights)
    wide = [np.asarray(part, np.float64) for part in (x, weights, direction)]
    of_x, of_weights = pull(direction)
    for value, left, right in (
        (product, wide[0], wide[1]),
        (of_x, wide[2], wide[1].T),
        (of_weights, wide[0].T, wide[2]),
    ):
        error = np.abs(np.asarray(value, np.float64) - left @ right)
        assert value.dtype == jnp.float32
        assert (error <= OF_A_PRODUCT * (np.abs(left) @ np.abs(right))).all()
        assert error.max() > ROUNDING / 16  # bfloat16, and not float32


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_gradient_is_that_of_float64_to_the_precision_of_its_products(name):
    run = run_of(FEW, name, policy={"init": "random"}, dtype="bfloat16")
    policy = jax.jit(lambda run: spec.first_policy(run, jax.random.key(0)))(run)
    batch = enumerate_all(run.task.automaton)
    weight = np.cos(np.arange(len(batch.tokens)))

    @jax.jit
    def gradient(policy):
        def loss(policy):
            return jnp.sum(
                jnp.asarray(weight, base.number_dtype(policy.head.bias.dtype)) * scoring.log_probability(policy, batch)
            )

        return jax.grad(loss, allow_int=True)(policy)

    ours, exact = ([np.asarray(x, np.float64).ravel() for x in (g.embedding, g.head.weight.weights)] for g in (
        gradient(policy), gradient(base.cast(policy, jnp.float64))
    ))  # fmt: skip
    products = sum(isinstance(x, Matrix) for x in jax.tree.leaves(policy, is_leaf=lambda x: isinstance(x, Matrix)))
    passes = 1 if name == "transformer" else run.task.automaton.horizon  # a recurrent product follows the one before
    for value, wanted in zip(ours, exact, strict=True):
        error = np.linalg.norm(value - wanted) / np.linalg.norm(wanted)
        assert 1e-5 < error < 2 * products * passes * OF_A_PRODUCT  # each product is passed forward and backward


def test_training_keeps_float32_and_a_run_alone_is_the_same_and_its_grade_is_in_float64():
    runs = [run_of(FEW, "gru", steps=20, log_every=10, seed=seed, dtype="bfloat16") for seed in (0, 1)]
    together, (alone,) = blocks.train_runs(runs), blocks.train_runs(runs[1:])
    for ours, theirs in zip(jax.tree.leaves(together[1].state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    policy = alone.state.policy
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(policy) if jnp.issubdtype(leaf.dtype, jnp.floating))
    task, batch = runs[1].task, enumerate_all(runs[1].task.automaton)
    probability = np.exp(jax.jit(scoring.log_probability)(base.cast(policy, jnp.float64), jax.tree.map(jnp.asarray, batch)))
    reward = np.sum(sequence_rewards(task, batch, jnp.float64), axis=1)
    np.testing.assert_allclose(alone.rows.report.values.reward[-1], probability @ reward, rtol=1e-12)


def test_a_table_is_refused():
    with pytest.raises(SettingsError, match="dtype='bfloat16': is for networks: a table has no matrix products"):
        build({"task": FEW, "dtype": "bfloat16", "policy": {"name": "tabular"}, "algorithm": {"name": "rloo"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_regret_after_training_agrees_with_that_of_float32(name):
    seeds, regrets = range(6), {}
    for dtype in ("float32", "bfloat16"):
        runs = [run_of(FEW, name, steps=200, log_every=100, seed=seed, dtype=dtype) for seed in seeds]
        regrets[dtype] = np.array([trained.rows.report.regret[-1] for trained in blocks.train_runs(runs)])
    both = list(regrets.values())
    error = np.sqrt(sum(np.var(x, ddof=1) / len(x) for x in both))
    assert abs(both[0].mean() - both[1].mean()) < 3 * error
