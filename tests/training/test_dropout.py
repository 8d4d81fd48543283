"""Dropout of the trainer alone: which units it leaves out, and that the ratio of policy and sampler is not 1."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rlkl import policies
from rlkl.config.build import build
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import blocks, exact_losses, spec
from tests.helpers import sampled_loss

TRANSFORMER = {
    "task": {"name": "sequence/brackets", "horizon": 4}, "algorithm": {"name": "rloo"}, "steps": 20, "batch_size": 8,
    "policy": {"name": "transformer", "width": 8, "layers": 2, "heads": 2, "init": "random"}, "dtype": "float64",
}  # fmt: skip


def built(**groups) -> spec.Run:
    return build(TRANSFORMER | groups).run


def network(run: spec.Run, seed: int = 0) -> policies.AnyPolicy:
    return spec.first_policy(run, jax.random.key(seed))


def test_dropout_leaves_out_the_units_that_it_says():
    """All units kept: the network itself, its blocks scaled; none: the network without blocks. `step` is `score`."""
    run = built()
    whole = network(run)
    batch = enumerate_all(run.task.automaton)
    whole_batch = (jnp.asarray(batch.tokens), jnp.asarray(batch.states))
    partly = policies.transformer.dropped(whole, 0.4, jax.random.key(3))
    score = jax.jit(lambda p: p.score(*whole_batch))
    none = dataclasses.replace(partly, kept=jnp.zeros_like(partly.kept))
    bare = dataclasses.replace(whole, layers=())
    np.testing.assert_allclose(score(none), score(bare), atol=1e-12)
    every = dataclasses.replace(partly, kept=jnp.ones_like(partly.kept), dropout=0.5)
    twice = [
        dataclasses.replace(
            layer, project=jax.tree.map(lambda x: 2 * x, layer.project), contract=jax.tree.map(lambda x: 2 * x, layer.contract)
        )
        for layer in whole.layers
    ]
    np.testing.assert_allclose(score(every), score(dataclasses.replace(whole, layers=tuple(twice))), atol=1e-12)
    walked, stepped = sampling.sample_with_rows(jax.random.key(0), run.task.automaton, partly, 1)
    np.testing.assert_allclose(stepped, partly.score(walked.tokens, walked.states), atol=1e-12)
    kept = np.asarray(policies.transformer.dropped(whole, 0.25, jax.random.key(0)).kept)
    assert kept.shape == (2, 2, 4, 8)
    assert abs(kept.mean() - 0.75) < 0.12


@pytest.mark.slow
def test_weights_of_whole_batch_give_the_exact_gradient_of_the_network_with_dropout():
    """Of reward and penalty, on samples of the network without dropout."""
    plain = {"algorithm": {"name": "reinforce"}, "penalty": {"importance_correction": "sequence"}}
    run = jax.tree.map(jnp.asarray, built(**plain))
    automaton, every = run.task.automaton, enumerate_all(run.task.automaton)
    whole = network(run)
    batch = every._replace(weight=jnp.exp(scoring.log_probability(whole, every)))
    reported = scoring.token_log_probability(whole, batch)
    trainable, rest = eqx.partition(whole, eqx.is_inexact_array)

    def dropped(parameters):
        return policies.transformer.dropped(eqx.combine(parameters, rest), 0.3, jax.random.key(1))

    def sampled(parameters):
        return sampled_loss(run, scoring.positions(automaton, dropped(parameters), run.reference, batch), batch, reported)

    def exact(parameters):
        return exact_losses.exact_loss(spec.objective(run), dropped(parameters))

    both = jax.jit(lambda parameters: [jax.grad(loss)(parameters) for loss in (sampled, exact)])(trainable)
    first, second = (np.asarray(ravel_pytree(gradient)[0]) for gradient in both)
    assert np.linalg.norm(second) > 1e-2
    np.testing.assert_allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("algorithm", ["rloo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_with_dropout_the_ratio_is_not_one_on_policy(algorithm):
    run = built(algorithm={"name": algorithm}, rollout={"dropout": 0.3}, steps=2, log_every=1)
    stats = blocks.train_runs([run])[0].rows.batch_stats.mismatch
    assert (np.abs(np.log(stats.mean_ratio[1:])) > 1e-4).all()
    assert (stats.ess[1:] < 0.999).all()
