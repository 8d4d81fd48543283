"""A sampler that is not the policy: stale, rounded; and the importance weights that make up for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import policies, settings
from rlkl.config.build import build
from rlkl.config.resolve import resolve
from rlkl.errors import SettingsError
from rlkl.penalties import importance
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.training import exact_losses, loop, spec
from tests.helpers import random_rows, random_task, sampled_loss, sequences, shortened

BASE = {"task": {"name": "bandit/random"}, "algorithm": {"name": "rloo"}, "dtype": "float64", "steps": 20}


def built(**groups) -> spec.Run:
    return jax.tree.map(jnp.asarray, build(BASE | groups).run)


def token_ratios(task, log_pi, log_mu):
    """By plain loops: each token's log pi - log mu along every sequence."""
    return [np.array([log_pi[at] - log_mu[at] for at in path]) for path, _ in sequences(task.automaton)]


@pytest.mark.parametrize("most", [None, 1.5])
@pytest.mark.parametrize("correction", ["none", "token", "sequence"])
def test_weights_are_the_ratios_of_their_definition(correction, most):
    draw = np.random.default_rng(4)
    task = shortened(random_task(draw), 300)
    legal = np.broadcast_to(task.automaton.legal, (task.automaton.horizon, *task.automaton.legal.shape))
    log_pi, log_mu = random_rows(draw, legal), random_rows(draw, legal)
    batch = enumerate_all(task.automaton)._replace(weight=np.ones(len(sequences(task.automaton))))
    pi, mu = (policies.Fixed(jnp.asarray(table), task.automaton.horizon) for table in (log_pi, log_mu))
    chosen = settings.PenaltySettings(importance_correction=correction, truncation=most)
    told = [scoring.token_log_probability(policy, batch) for policy in (pi, mu)]
    found, cut = importance.weights(chosen, *told, told[0], batch)
    mine = {}
    for row, (tokens, mask) in enumerate(zip(batch.tokens, batch.mask, strict=True)):
        mine[tuple(tokens[mask].tolist())] = np.asarray(found)[row][mask]
    count = over = 0
    for (path, _), ratios in zip(sequences(task.automaton), token_ratios(task, log_pi, log_mu), strict=True):
        weight = {"none": np.ones(len(ratios)), "token": np.exp(ratios), "sequence": np.full(len(ratios), np.exp(ratios.sum()))}
        expected = weight[correction]
        if most is not None and correction != "none":
            count, over = count + len(ratios), over + int((expected > most).sum())
            expected = np.minimum(expected, most)
        np.testing.assert_allclose(mine[tuple(token for _, _, token in path)], expected, rtol=1e-10)
    if most is None or correction == "none":
        assert cut is None
    else:
        assert 0 < over < count
        np.testing.assert_allclose(cut, over / count, rtol=1e-12)


@pytest.mark.parametrize("correction", ["none", "sequence"])
def test_sequence_weights_make_a_stale_sampler_s_expected_gradient_the_policy_s_own(correction):
    """Reward and penalty together, against the exact gradient of the objective; without weights it is another."""
    draw = np.random.default_rng(1)
    task = shortened(random_task(draw), 300)
    chosen = settings.Settings(
        penalty=settings.PenaltySettings(beta=0.3, importance_correction=correction),
        algorithm=settings.AlgorithmSettings("reinforce"),
    )
    run = jax.tree.map(jnp.asarray, spec.make_run(dataclasses.replace(resolve(chosen, task), dtype="float64"), task))
    legal = jnp.asarray(task.automaton.legal)
    logits, older = (draw.normal(size=(task.automaton.horizon, *legal.shape)) for _ in range(2))
    sampler = policies.tabular.Tabular(jnp.asarray(older), legal)
    batch = enumerate_all(task.automaton)
    batch = batch._replace(weight=jnp.exp(scoring.log_probability(sampler, batch)))
    reported = scoring.token_log_probability(sampler, batch)

    def sampled(x):
        policy = policies.tabular.Tabular(x, legal)
        at = scoring.positions(task.automaton, policy, run.reference, batch)
        return sampled_loss(run, at, batch, reported)

    exactly = jax.grad(lambda x: exact_losses.exact_loss(spec.objective(run), policies.tabular.Tabular(x, legal)))(
        jnp.asarray(logits)
    )
    off = np.abs(np.asarray(jax.grad(sampled)(jnp.asarray(logits)) - exactly)).max()
    assert off <= 1e-12 if correction == "sequence" else off > 1e-2


def test_rounded_rows_are_of_the_dtype_s_numbers_and_are_drawn_normalised():
    run = built()
    policy = policies.tabular.Tabular(
        jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 10))), jnp.asarray(run.task.automaton.legal)
    )
    rows = {name: np.asarray(policies.rounded(policy, name).table()) for name in ("bfloat16", "float16")}
    import ml_dtypes

    for name, dtype in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        np.testing.assert_array_equal(rows[name], np.asarray(policy.table()).astype(dtype).astype(float))
    total = np.exp(rows["bfloat16"]).sum()
    assert abs(total - 1.0) > 1e-5
    every = enumerate_all(run.task.automaton)
    drawn = scoring.sampling_log_probability(policies.rounded(policy, "bfloat16"), every)
    np.testing.assert_allclose(np.exp(drawn), np.exp(rows["bfloat16"][0, 0]) / total, rtol=1e-12)
    batch = sampling.sample(jax.random.key(0), run.task.automaton, policies.rounded(policy, "bfloat16"), 200_000)
    spread = np.sqrt(np.exp(drawn) * (1 - np.exp(drawn)) / 200_000)
    assert (np.abs(np.asarray(batch.weight) - np.exp(drawn)) <= 5 * spread).all()


def test_a_stale_run_samples_from_the_policy_of_that_many_batches_ago():
    run = built(rollout={"staleness": 3}, task={"name": "sequence/brackets", "horizon": 4})
    step = jax.jit(loop.step)
    states = [jax.jit(loop.start)(run)]
    for _ in range(8):
        states.append(step(run, states[-1]))
    for number, state in enumerate(states[:-1]):
        sampler = states[max(0, number - 3)].policy
        batch = sampling.sample(jax.random.fold_in(state.key, number), run.task.automaton, sampler, run.settings.batch_size)
        u = scoring.log_probability(state.policy, batch) - scoring.log_probability(run.reference, batch)
        np.testing.assert_allclose(states[number + 1].batch_stats.kl["k1"], np.mean(u), rtol=1e-9, atol=1e-12)


def test_a_fresh_exact_sampler_changes_nothing_and_its_weights_are_one():
    plain, corrected = built(), built(penalty={"importance_correction": "sequence"})
    step = jax.jit(loop.step)
    for run in (plain, corrected):
        state = step(run, step(run, jax.jit(loop.start)(run)))
        if run is plain:
            first = state.policy.logits
    np.testing.assert_array_equal(first, state.policy.logits)


@pytest.mark.parametrize(
    ("policy", "algorithm"),
    [
        ("gru", "rloo"),
        ("tabular", "ppo"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("tabular", "rloo"), ("gru", "ppo"))),
    ],
)
def test_every_kind_of_policy_trains_off_policy(policy, algorithm):
    run = built(
        rollout={"staleness": 2, "dtype": "bfloat16"}, policy={"name": policy}, algorithm={"name": algorithm},
        task={"name": "sequence/brackets", "horizon": 4},
        penalty={"importance_correction": "sequence", "truncation": 2.0}, batch_size=8,
    )  # fmt: skip
    state = jax.jit(loop.start)(run)
    for _ in range(3):
        state = jax.jit(loop.step)(run, state)
    assert state.step == 3
    assert 0.0 <= state.batch_stats.truncated <= 1.0


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        ({"algorithm": {"name": "exact"}, "rollout": {"staleness": 2}}, "rollout.staleness"),
        ({"algorithm": {"name": "exact"}, "rollout": {"dtype": "bfloat16"}}, "rollout.dtype"),
        ({"rollout": {"dtype": "int8"}}, "rollout.dtype"),
        ({"rollout": {"staleness": -1}}, "rollout.staleness"),
        ({"penalty": {"truncation": 2.0}}, "penalty.truncation"),
        ({"penalty": {"importance_correction": "sentence"}}, "penalty.importance_correction"),
        ({"algorithm": {"name": "exact"}, "penalty": {"importance_correction": "token"}}, "penalty.importance_correction"),
        ({"penalty": {"clamp": 3.0}}, "penalty.clamp"),
    ],
)
def test_what_is_no_mismatch_is_refused(groups, key):
    with pytest.raises(SettingsError) as refused:
        built(**groups)
    assert refused.value.key == key
