"""Sampled gradients against the exact one: by enumeration where that is possible, else by their standard error."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import algorithms, config, exact, penalty, policies, rollout, training
from rlkl.divergences import REGISTRY
from tests.conftest import PARAMS, random_task

ARMS = {"name": "bandit/custom", "reward": [0.0, 1.0, 0.3, -0.5], "reference": [0.4, 0.1, 0.3, 0.2]}


def bandit_run(algorithm: str, **groups) -> training.Run:
    top = {key: groups.pop(key) for key in ("batch_size", "steps", "dtype") if key in groups}
    plain = {"task": ARMS, "algorithm": {"name": algorithm}, "policy": {"init": "random"}, **groups, **top}
    return jax.tree.map(lambda leaf: np.asarray(leaf), config.build(plain).run)


def expected_gradient(run: training.Run, policy, size: int):
    """E[gradient] of the sampled loss, by enumerating every batch of `size` draws."""
    chosen, task = run.settings, run.task
    log_pi = np.asarray(policy.table())[0, 0]
    terms = penalty.make(chosen.penalty, jnp.float64)
    beta = jnp.asarray(chosen.penalty.beta)
    log_ref = run.reference.table()

    @jax.jit
    def gradient(counts):
        def loss(logits):
            table = policies.tabular.Tabular(logits, policy.support).table()
            tokens = jnp.arange(4, dtype=jnp.int32)[:, None]
            states = jnp.stack([jnp.zeros(4, jnp.int32), jnp.arange(1, 5, dtype=jnp.int32)], axis=1)
            batch = rollout.Batch(tokens, states, (counts > 0)[:, None], counts / size, size)
            positions = rollout.positions(task.automaton, table, log_ref, batch)
            u = jax.lax.stop_gradient(positions.at(positions.log_pi, batch) - positions.at(positions.log_ref, batch))
            rewards = algorithms.token_rewards(task, batch, jnp.float64) - beta * terms.in_reward(u, batch.mask)
            advantages = algorithms.ADVANTAGES[chosen.algorithm.name](rewards, batch, jnp.asarray(0.2))
            inside = beta * jnp.sum(batch.weight * jnp.sum(terms.in_loss(positions, batch), axis=1))
            return algorithms.score_loss(positions, batch, advantages) + inside

        return jax.grad(loss)(policy.logits)

    total = 0.0
    for draws in itertools.product(range(4), repeat=size):
        counts = np.bincount(draws, minlength=4).astype(float)
        total += np.exp(log_pi[list(draws)].sum()) * np.asarray(gradient(jnp.asarray(counts)))
    return total


def exact_gradient(run: training.Run, policy):
    div = penalty.divergence(run.settings.penalty)

    def loss(logits):
        table = policies.tabular.Tabular(logits, policy.support).table()
        return -exact.objective(run.task, div, PARAMS, jnp.asarray(run.settings.penalty.beta), table, run.reference.table())

    return np.asarray(jax.jit(jax.grad(loss))(policy.logits))


OFFERED = [
    (name, divergence, entry)
    for name in sorted(algorithms.ADVANTAGES)
    for divergence in sorted(REGISTRY)
    for entry in penalty.legal(name, divergence, 1)
]


@pytest.mark.parametrize(("algorithm", "divergence", "entry"), OFFERED, ids=lambda value: getattr(value, "estimator", value))
def test_expected_gradient_of_every_offered_combination_is_exact(algorithm, divergence, entry):
    chosen = {"divergence": divergence, "beta": 0.3, "estimator": entry.estimator, "placement": entry.placement}
    run = bandit_run(algorithm, penalty=chosen, dtype="float64")
    policy = policies.tabular.Tabular(jnp.asarray([[[0.3, -0.2, 0.9, 0.1]]]), jnp.ones((1, 4), bool))
    for size in (2, 3):
        np.testing.assert_allclose(expected_gradient(run, policy, size), exact_gradient(run, policy), atol=1e-12)


@pytest.mark.parametrize("algorithm", sorted(algorithms.ADVANTAGES))
def test_sampled_gradient_on_sequences_is_exact_within_its_standard_error(algorithm):
    """k1 in the reward, with reward-to-go, on an automaton of several tokens."""
    draw = np.random.default_rng(4)
    task = next(
        t
        for t in iter(lambda: random_task(draw), None)
        if t.automaton.horizon == 4 and t.automaton.legal.all() and t.automaton.reachable.sum() > 6
    )
    run = bandit_run(
        algorithm, penalty={"divergence": "kl_pi_ref", "estimator": "k1", "placement": "reward", "beta": 0.3}, dtype="float64"
    )
    run = training.make(run.settings, jax.tree.map(jnp.asarray, task))
    logits = jnp.asarray(draw.normal(size=(task.automaton.horizon, *task.log_reference.shape)))
    policy = policies.tabular.Tabular(logits, jnp.asarray(task.automaton.legal))

    def one(key):
        def loss(logits):
            return training.loss(run, policies.tabular.Tabular(logits, policy.support), jnp.asarray(0.1), key)[0]

        return jax.grad(loss)(policy.logits)

    samples = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)))
    error = samples.std(axis=0) / np.sqrt(len(samples))
    z = (samples.mean(axis=0) - exact_gradient(run, policy)) / np.where(error > 0, error, 1.0)
    assert np.abs(z).max() < 5.0
    assert np.abs(z[error > 0]).mean() < 1.3


def test_penalties_that_are_not_offered_are_refused_by_name():
    for chosen, key in (
        ({"divergence": "kl_pi_ref", "estimator": "k3", "placement": "loss"}, "penalty.estimator"),
        ({"divergence": "kl_ref_pi", "estimator": "k1", "placement": "reward"}, "penalty.estimator"),
        ({"divergence": "kl_pi_ref", "estimator": "k1", "placement": "loss"}, "penalty.placement"),
    ):
        with pytest.raises(config.SettingsError) as refused:
            bandit_run("rloo", penalty=chosen)
        assert refused.value.key == key


def test_full_in_the_loss_is_refused_on_sequences_and_k1_in_the_reward_offered():
    assert [(e.estimator, e.placement) for e in penalty.legal("rloo", "kl_pi_ref", 4)] == [("k1", "reward")]
    assert penalty.legal("rloo", "kl_ref_pi", 4) == []
