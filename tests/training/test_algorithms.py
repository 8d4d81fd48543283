"""Sampled gradients against the exact one: by enumeration where that is possible, else by their standard error."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import algorithms, exact, policies, settings
from rlkl.config.build import build
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.exact import Objective
from rlkl.penalties import expected_gradient as penalties_expected_gradient
from rlkl.penalties import options
from rlkl.policies import base
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.settings import AGGREGATIONS
from rlkl.training import loop, sampled_losses, spec
from tests.helpers import KINKED, PARAMS, random_task

ARMS = {"name": "bandit/custom", "reward": [0.0, 1.0, 0.3, -0.5], "reference": [0.4, 0.1, 0.3, 0.2]}


def bandit_run(algorithm: str | dict, **groups) -> spec.Run:
    top = {key: groups.pop(key) for key in ("batch_size", "steps", "log_every", "dtype") if key in groups}
    algorithm = {"name": algorithm} if isinstance(algorithm, str) else algorithm
    plain = {"task": ARMS, "algorithm": algorithm, "policy": {"init": "random"}, **groups, **top}
    return jax.tree.map(jnp.asarray, build(plain).run)


def expected_gradient(run: spec.Run, policy, size: int):
    """E[gradient] of the sampled loss, by enumerating every batch of `size` draws."""
    task, log_pi = run.task, np.asarray(policy.table())[0, 0]

    @jax.jit
    def gradient(counts):
        def loss(logits):
            tokens = jnp.arange(4, dtype=jnp.int32)[:, None]
            states = jnp.stack([jnp.zeros(4, jnp.int32), jnp.arange(1, 5, dtype=jnp.int32)], axis=1)
            batch = Batch(tokens, states, (counts > 0)[:, None], counts / size, size)
            moved = policies.tabular.Tabular(logits, policy.support)
            positions = scoring.positions(task.automaton, moved, run.reference, batch)
            learned = sampled_losses.experience(run.settings, spec.objective(run), positions, batch, jnp.asarray(0.2))
            return sampled_losses.surrogate(run.settings, run.settings.penalty.beta, positions, batch, learned)

        return jax.grad(loss)(policy.logits)

    total = 0.0
    for draws in itertools.product(range(4), repeat=size):
        counts = np.bincount(draws, minlength=4).astype(float)
        total += np.exp(log_pi[list(draws)].sum()) * np.asarray(gradient(jnp.asarray(counts)))
    return total


def exact_gradient(run: spec.Run, policy):
    div = options.divergence(run.settings.penalty)

    def loss(logits):
        table = policies.tabular.Tabular(logits, policy.support).table()
        return -exact.objective_value(
            Objective(run.task, run.reference, div, PARAMS, jnp.asarray(run.settings.penalty.beta)), table
        )

    return np.asarray(jax.jit(jax.grad(loss))(policy.logits))


UNBIASED = sorted(set(algorithms.REGISTRY) - {"grpo"})  # but for a factor
OFFERED = [
    (name, divergence, entry)
    for name in UNBIASED
    for divergence in sorted(REGISTRY)
    for entry in options.combinations(divergence, 1)
    if entry.gradient == "naive" and entry.sampler == "policy"
    if penalties_expected_gradient.expected_gradient(entry, 1, algorithms.gradient_kind(name) == "scaled").kind == "exact"
]


def factor(algorithm: str, size: int) -> float:
    """dr_grpo's baseline holds the draw itself, which makes its advantages (B-1)/B of the unbiased ones."""
    return (size - 1) / size if algorithm == "dr_grpo" else 1.0


def quick(algorithm: str, divergence: str, entry) -> bool:
    """Every divergence under rloo, by one estimator each but for the two KLs, and every algorithm under one of these."""
    estimator = "score" if divergence in ("alpha", "jensen_shannon", "neyman", "total_variation") else "full"
    if algorithm == "rloo":
        return divergence in ("kl_pi_ref", "kl_ref_pi") or (entry.estimator == estimator and divergence != "kl_chi2")
    return divergence == "kl_pi_ref"


@pytest.mark.parametrize(
    ("algorithm", "divergence", "entry"),
    [each if quick(*each) else pytest.param(*each, marks=pytest.mark.slow) for each in OFFERED],
    ids=lambda value: getattr(value, "estimator", value),
)
def test_expected_gradient_of_every_offered_combination_is_exact(algorithm, divergence, entry):
    chosen = {"divergence": divergence, "beta": 0.3, "estimator": entry.estimator, "placement": entry.placement}
    run = bandit_run(algorithm, penalty=chosen, dtype="float64")
    policy = policies.tabular.Tabular(jnp.asarray([[[0.3, -0.2, 0.9, 0.1]]]), jnp.ones((1, 4), bool))
    for size in (2, 3):
        expected = factor(algorithm, size) * exact_gradient(run, policy)
        np.testing.assert_allclose(expected_gradient(run, policy, size), expected, atol=1e-12)


def four_tokens(draw: np.random.Generator):
    """A task of four tokens on which every sequence is legal."""
    return next(
        t
        for t in iter(lambda: random_task(draw), None)
        if t.automaton.horizon == 4 and t.automaton.legal.all() and t.automaton.reachable.sum() > 6
    )


ON_SEQUENCES = [(name, "kl_pi_ref", "k1") for name in UNBIASED] + [
    ("rloo", divergence, "score") for divergence in sorted(set(REGISTRY) - KINKED)
]


@pytest.mark.parametrize(
    ("algorithm", "divergence", "estimator"),
    [
        each if each[0] == "rloo" and each[1] in ("kl_pi_ref", "kl_ref_pi") else pytest.param(*each, marks=pytest.mark.slow)
        for each in ON_SEQUENCES
    ],
)
def test_sampled_gradient_on_sequences_is_exact_within_its_standard_error(algorithm, divergence, estimator):
    """k1 in the reward with reward-to-go, and f'(pi/pi_ref) of the whole sequence, on an automaton of several tokens."""
    draw = np.random.default_rng(4)
    task = four_tokens(draw)
    chosen = {"divergence": divergence, "estimator": estimator, "placement": "reward", "beta": 0.3}
    run = bandit_run(algorithm, penalty=chosen, dtype="float64")
    run = spec.make_run(run.settings, jax.tree.map(jnp.asarray, task))
    logits = jnp.asarray(task.log_reference + 0.5 * draw.normal(size=(task.automaton.horizon, *task.log_reference.shape)))
    policy = policies.tabular.Tabular(logits, jnp.asarray(task.automaton.legal))

    def one(key):
        def loss(logits):
            return sampled_losses.loss(
                run.settings, spec.objective(run), policies.tabular.Tabular(logits, policy.support), jnp.asarray(0.1), key
            )[0]

        return jax.grad(loss)(policy.logits)

    samples = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)))
    error = samples.std(axis=0) / np.sqrt(len(samples))
    expected = factor(algorithm, run.settings.batch_size) * exact_gradient(run, policy)
    z = (samples.mean(axis=0) - expected) / np.where(error > 0, error, 1.0)
    assert np.abs(z).max() < 5.0
    assert np.abs(z[error > 0]).mean() < 1.3


def a_batch(returns: np.ndarray) -> Batch:
    size, horizon = returns.shape
    whole = np.zeros((size, horizon), np.int32)
    return Batch(whole, np.zeros((size, horizon + 1), np.int32), whole == 0, np.full(size, 1 / size), size)


def test_group_advantages_are_those_of_their_papers():
    returns = np.random.default_rng(0).normal(size=(5, 3))
    batch, of = (
        a_batch(returns),
        lambda name: algorithms.advantages(settings.AlgorithmSettings(name), jnp.asarray(returns), batch, jnp.asarray(0.0)),
    )
    centred = returns - returns.mean(axis=0)
    np.testing.assert_allclose(of("dr_grpo"), centred, atol=1e-15)
    np.testing.assert_allclose(of("grpo"), centred / returns[:, 0].std(ddof=1), atol=1e-14)
    others = np.stack([np.delete(returns, i, axis=0).mean(axis=0) for i in range(5)])
    np.testing.assert_allclose(of("rloo"), returns - others, atol=1e-14)
    np.testing.assert_allclose(of("ppo"), returns - others, atol=1e-14)


def test_a_group_of_equal_returns_teaches_nothing():
    returns = jnp.full((4, 2), 0.1 + 0.2)
    assert np.abs(algorithms.grpo(returns, a_batch(np.asarray(returns)), jnp.asarray(0.0))).max() < 1e-15


def test_aggregations_are_those_of_their_names():
    draw = np.random.default_rng(1)
    values, lengths = draw.normal(size=(4, 3)), np.array([3, 1, 2, 3])
    batch = a_batch(values)._replace(mask=np.arange(3)[None, :] < lengths[:, None])
    kept = [row[:n] for row, n in zip(values, lengths, strict=True)]
    expected = {
        "seq-mean-token-sum": np.mean([row.sum() for row in kept]),
        "seq-mean-token-mean": np.mean([row.mean() for row in kept]),
        "token-mean": np.concatenate(kept).mean(),
    }
    assert set(expected) == set(AGGREGATIONS)
    for kind, number in expected.items():
        np.testing.assert_allclose(algorithms.aggregate(kind, jnp.asarray(values), batch), number, atol=1e-15)


def test_ppo_takes_its_epochs_on_one_batch():
    """One epoch is a step of rloo but for the form of its loss; four are four updates of the optimiser."""
    chosen = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "dtype": "float64", "steps": 10}

    @jax.jit
    def stepped(run):
        state = loop.start(run)
        return state, loop.step(run, state)

    start, once = stepped(bandit_run("rloo", **chosen))
    _, one = stepped(bandit_run({"name": "ppo", "epochs": 1}, **chosen))
    _, four = stepped(bandit_run({"name": "ppo", "epochs": 4}, **chosen))
    np.testing.assert_allclose(one.policy.logits, once.policy.logits, atol=1e-12)
    counts = [int(leaf) for leaf in jax.tree.leaves(four.optimizer) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts == [4] * len(counts)
    apart = lambda state: np.abs(state.policy.logits - start.policy.logits).max()  # noqa: E731
    assert apart(four) > 2 * apart(one)


def test_every_batch_is_logged_with_its_k1_k2_and_k3():
    """Whatever the penalty, none too; recomputed from the batch that the step drew."""
    for chosen in ({"divergence": "none", "beta": 0.0}, {"divergence": "kl_ref_pi", "beta": 0.3}):
        run = bandit_run("rloo", penalty=chosen, dtype="float64", steps=10)
        state = jax.jit(loop.start)(run)
        after = jax.jit(loop.step)(run, state)
        batch = sampling.sample(
            jax.random.fold_in(state.key, state.step), run.task.automaton, state.policy, run.settings.batch_size
        )
        u = np.asarray(state.policy.table() - run.reference.table())[0, 0]
        for name, k in {"k1": u, "k2": u**2 / 2, "k3": np.exp(-u) - 1 + u}.items():
            np.testing.assert_allclose(after.batch_stats.kl[name], np.sum(np.asarray(batch.weight) * k), rtol=1e-9)


def test_a_row_has_the_statistics_of_its_step_and_other_steps_none():
    """With limits, a controller and scaled advantages, so that no statistic is NaN where it is logged."""
    limits = {"clamp": 0.02, "truncation": 1.01, "controller": "adaptive", "target_kl": 0.1}
    penalty = {"divergence": "kl_ref_pi", "estimator": "score", "beta": 0.3, **limits}
    algorithm = {"name": "grpo", "group_size": 32, "surrogate": "ppo"}
    run = bandit_run(algorithm, penalty=penalty, dtype="float64", steps=25, log_every=10)
    run = base.cast(run, jnp.float64)
    step, steps, state, chunk = jax.jit(loop.step), jax.jit(loop.steps), loop.start(run), loop.start(run)
    for number in range(1, 26):
        unlogged = step(run, state, jnp.asarray(False)).batch_stats
        state = step(run, state, jnp.asarray(True))
        stats = state.batch_stats
        assert (unlogged.reward, unlogged.controller_kl) == (stats.reward, stats.controller_kl)
        only_logged = (unlogged.kl, unlogged.beta_effective, unlogged.zero_std, unlogged.clamped, unlogged.truncated)
        assert np.isnan(unlogged.touched)
        assert np.isnan(jax.tree.leaves(only_logged)).all()
        if number in (10, 20, 25):
            chunk = steps(run, chunk, jnp.asarray(5 if number == 25 else 10))
            got, expected = jax.tree.leaves(chunk.batch_stats), jax.tree.leaves(stats)
            np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=f"step {number}")
            assert np.isfinite(expected).all()


def test_returns_to_go_are_the_sums_from_each_position_on():
    rewards = np.random.default_rng(0).normal(size=(4, 9))
    expected = [[row[t:].sum() for t in range(9)] for row in rewards]
    np.testing.assert_allclose(algorithms.returns_to_go(jnp.asarray(rewards)), expected, rtol=1e-13)


def test_the_defaults_are_exact_everywhere():
    for kind, name, horizon in itertools.product(("exact", "sampled", "scaled"), sorted(REGISTRY), (1, 4)):
        if kind == "scaled" and REGISTRY[name].root:  # it has no part in the reward, and one in the loss is not scaled
            with pytest.raises(SettingsError, match="at beta times the advantages' scale"):
                options.resolve_penalty(kind, settings.PenaltySettings(name), horizon)
            continue
        filled = options.resolve_penalty(kind, settings.PenaltySettings(name), horizon)
        assert penalties_expected_gradient.expected_gradient(filled, horizon, kind == "scaled").kind == "exact"
        assert filled.placement == "reward" or kind != "scaled"
    assert options.default("sampled", "kl_pi_ref", 4) == ("k1", "reward")
    assert options.default("sampled", "kl_ref_pi", 4) == ("score", "reward")
    assert options.default("sampled", "kl_ref_pi", 1) == ("full", "loss")
