"""Attention and its gradient are those of the plain formula; what a transformer computed while it sampled is reused rightly."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from rlkl.policies import attention
from rlkl.rollouts import sampling
from tests.policies.test_networks import MANY, random_network


def plain(query, key, value):
    """Causal attention, one position and head after the other."""
    rows = []
    for t in range(query.shape[1]):
        match = jnp.sum(query[:, t, None] * key[:, : t + 1], axis=-1) / query.shape[-1] ** 0.5
        weight = jnp.exp(match) / jnp.sum(jnp.exp(match), axis=1, keepdims=True)
        rows.append(jnp.sum(weight[..., None] * value[:, : t + 1], axis=1))
    return jnp.stack(rows, axis=1)


def test_attention_and_its_gradient_are_those_of_the_plain_formula():
    draw = np.random.default_rng(0)
    inputs = [jnp.asarray(draw.normal(size=(3, 5, 2, 4))) for _ in range(3)]
    direction = jnp.asarray(draw.normal(size=(3, 5, 2, 4)))

    @functools.partial(jax.jit, static_argnums=0)
    def output_and_gradient(of, direction, *inputs):
        output, pull = jax.vjp(of, *inputs)
        return output, pull(direction)

    output, gradients = output_and_gradient(attention.causal, direction, *inputs)
    expected, wanted = output_and_gradient(plain, direction, *inputs)
    np.testing.assert_allclose(output, expected, atol=1e-14)
    for ours, theirs in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_a_transformers_sampled_sequences_have_the_rows_and_the_gradient_that_score_gives():
    run, policy = random_network("transformer", MANY)
    automaton = run.task.automaton
    trainable, rest = eqx.partition(policy, eqx.is_inexact_array)

    @jax.jit
    def both(trainable, key):
        def loss(parameters, scored_anew):
            network = eqx.combine(parameters, rest)
            batch, positions = sampling.sample_with_positions(key, automaton, network, network, 20)
            log_pi = network.score(batch.tokens, batch.states) if scored_anew else positions.log_pi
            log_pi = log_pi.reshape(20, automaton.horizon, -1)
            weight = jnp.cos(jnp.arange(20 * automaton.horizon, dtype=log_pi.dtype)).reshape(20, -1)
            entries = jnp.take_along_axis(log_pi, batch.tokens[..., None], axis=-1)[..., 0]
            return jnp.sum(jnp.where(batch.mask, weight * entries, 0.0))

        return jax.value_and_grad(loss)(trainable, False), jax.value_and_grad(loss)(trainable, True)

    reused, anew = both(trainable, jax.random.key(3))
    for ours, wanted in zip(jax.tree.leaves(reused), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-11 * (1.0 + np.abs(wanted).max()))
    assert all(np.abs(leaf).max() > 0.0 for leaf in jax.tree.leaves(reused[1].layers))
