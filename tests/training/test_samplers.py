"""Samplers as deployed: what they draw from, report and log, and their expected gradients, against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import policies, settings
from rlkl.config.build import build
from rlkl.config.resolve import resolve
from rlkl.errors import SettingsError
from rlkl.penalties import mismatch
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.runs.folder import summary
from rlkl.settings import RolloutSettings
from rlkl.training import blocks, describe, sampled_losses, spec
from tests.helpers import nearest, random_rows, sampled_loss, sequences, short_task

SAMPLERS = {
    "temperature": RolloutSettings(temperature=0.6),
    "top_k": RolloutSettings(top_k=2),
    "top_p": RolloutSettings(top_p=0.7),
    "min_p": RolloutSettings(min_p=0.4),
    "all rules": RolloutSettings(temperature=1.5, top_k=2, top_p=0.9, min_p=0.1),
}
SAMPLERS = {
    **{f"{name}, {reported}": dataclasses.replace(rollout, reported=reported)
       for name, rollout in SAMPLERS.items() for reported in ("raw", "processed")},
    **{f"{what} in {dtype}": RolloutSettings(dtype=dtype, rounded=what)
       for dtype in ("bfloat16", "float16", "float8_e4m3") for what in ("log_probs", "logits", "weights")},
    "logits in float8_e4m3, top_p, processed": RolloutSettings(
        dtype="float8_e4m3", rounded="logits", top_p=0.7, reported="processed"),
}  # fmt: skip
CORRECTIONS = ("none", "token", "sequence")


def normalised(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def processed(row: np.ndarray, rollout: RolloutSettings) -> np.ndarray:
    """The rules applied to one row of log-probabilities, from their definitions."""
    row = normalised(row / (rollout.temperature or 1.0))
    if rollout.top_k is not None:
        row = normalised(np.where(row >= np.sort(row)[-rollout.top_k], row, -np.inf))
    if rollout.top_p is not None:
        keep, mass = np.zeros(len(row), bool), 0.0
        for token in np.argsort(-row, kind="stable"):
            if mass >= rollout.top_p:
                break
            keep[token], mass = True, mass + np.exp(row[token])
        row = normalised(np.where(keep, row, -np.inf))
    if rollout.min_p is not None:
        row = normalised(np.where(np.exp(row) >= rollout.min_p * np.exp(row.max()), row, -np.inf))
    return row


def by_hand(logits: np.ndarray, rollout: RolloutSettings) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities that a sampler draws from and reports, from logits [T, D, V] of legal tokens."""
    if rollout.dtype is None:
        told = normalised(logits)
    elif rollout.rounded == "log_probs":
        told = nearest(normalised(logits), rollout.dtype)
    else:
        told = normalised(nearest(logits, rollout.dtype))
    if not rollout.processes:
        return normalised(told), told
    drawn = np.apply_along_axis(processed, -1, told, rollout)
    return drawn, drawn if rollout.reported == "processed" else told


def case(horizon: int):
    """A random task, logits of a policy, and a run of reward and penalty on it."""
    task, draw = short_task(4, horizon)
    task = dataclasses.replace(task, reward=draw.normal(size=task.automaton.states))
    penalty = settings.PenaltySettings(beta=0.3, estimator="k1")
    chosen = settings.Settings(penalty=penalty, algorithm=settings.AlgorithmSettings("reinforce"))
    chosen = dataclasses.replace(resolve(chosen, task), dtype="float64")
    run = jax.tree.map(jnp.asarray, spec.make_run(chosen, task))
    return task, run, draw.normal(size=(horizon, *task.log_reference.shape)) * 2.0


def expected_gradient(task, run, logits, drawn, told, correction) -> np.ndarray:
    """Minus sum_y mu(y) sum_t w_t (r + ... - beta sum_{s>=t} u_s) grad log pi(y_t), by plain loops."""
    log_pi, beta = normalised(logits), float(run.settings.penalty.beta)
    gradient = np.zeros(logits.shape)
    for path, end in sequences(task.automaton):
        mu = np.exp(sum(drawn[at] for at in path))
        if mu == 0.0:
            continue
        u = np.array([log_pi[at] - np.asarray(task.log_reference)[at[1:]] for at in path])
        ratio = np.array([log_pi[at] - told[at] for at in path])
        weight = {"none": np.ones(len(u)), "token": np.exp(ratio), "sequence": np.full(len(u), np.exp(ratio.sum()))}[correction]
        for i, (t, s, v) in enumerate(path):
            score = -np.exp(log_pi[t, s])
            score[v] += 1.0
            gradient[t, s] -= mu * weight[i] * (task.reward[end] - beta * u[i:].sum()) * score
    return gradient


def drawn_batch(task, sampler):
    batch = sampling.weighted_batch(jax.random.key(0), task.automaton, sampler.policy, 1)
    return batch._replace(mask=batch.mask & (batch.weight > 0.0)[:, None])


@pytest.mark.parametrize("horizon", [1, 3])
def test_expected_gradients_of_all_samplers_are_plain_sums(horizon):
    task, run, logits = case(horizon)
    legal = jnp.asarray(task.automaton.legal)

    def loss(x, batch, reported, correction):
        penalty = dataclasses.replace(run.settings.penalty, importance_correction=correction)
        own = dataclasses.replace(run, settings=dataclasses.replace(run.settings, penalty=penalty))
        at = scoring.positions(task.automaton, Tabular(x, legal), run.reference, batch)
        return sampled_loss(own, at, batch, reported)

    gradients = jax.jit(lambda *given: [jax.grad(loss)(*given, correction) for correction in CORRECTIONS])
    policy = Tabular(jnp.asarray(logits), legal)
    for name, rollout in SAMPLERS.items():
        sampler, (drawn, told) = policies.deployed(policy, rollout), by_hand(logits, rollout)
        batch = drawn_batch(task, sampler)
        reported = scoring.token_log_probability(sampler.reported, batch)
        for correction, gradient in zip(CORRECTIONS, gradients(jnp.asarray(logits), batch, reported), strict=True):
            expected = expected_gradient(task, run, logits, drawn, told, correction)
            np.testing.assert_allclose(gradient, expected, atol=1e-10, err_msg=f"{name}, {correction}")


@pytest.mark.parametrize("name", ["top_p, raw", "all rules, processed", "log_probs in bfloat16"])
def test_a_step_draws_from_the_sampler_and_is_told_what_it_reports(name):
    task, run, logits = case(3)
    rollout = SAMPLERS[name]
    algorithm = dataclasses.replace(run.settings.algorithm, group_size=20_000)
    chosen = dataclasses.replace(run.settings, rollout=rollout, batch_size=20_000, algorithm=algorithm)
    policy = Tabular(jnp.asarray(logits), jnp.asarray(task.automaton.legal))
    step = jax.jit(lambda key: sampled_losses.gather(chosen, spec.objective(run), None, policy, key))(jax.random.key(0))
    drawn, told = by_hand(logits, rollout)
    counts: dict = {}
    for tokens, mask in zip(np.asarray(step.batch.tokens), np.asarray(step.batch.mask), strict=True):
        counts[tuple(tokens[mask].tolist())] = counts.get(tuple(tokens[mask].tolist()), 0) + 1
    for path, _ in sequences(task.automaton):
        p = np.exp(sum(drawn[at] for at in path))
        share = counts.get(tuple(token for _, _, token in path), 0) / 20_000
        assert abs(share - p) <= 5.0 * np.sqrt(p * (1.0 - p) / 20_000), path
    states, mask = np.asarray(step.batch.states)[:, :-1], np.asarray(step.batch.mask)
    for t in range(3):
        rows = told[t, np.minimum(states[:, t], task.automaton.decisions - 1), np.asarray(step.batch.tokens)[:, t]]
        np.testing.assert_allclose(step.sampler_log_pi[:, t], np.where(mask[:, t], rows, 0.0), atol=1e-12)


def enumerated_mismatch(task, logits, rollout) -> mismatch.Mismatch:
    policy = Tabular(jnp.asarray(logits), jnp.asarray(task.automaton.legal))
    sampler = policies.deployed(policy, rollout)
    batch = drawn_batch(task, sampler)
    kept = scoring.kept_mass(task.automaton, policy, sampler.policy, batch)
    log_pi, told = (scoring.token_log_probability(p, batch) for p in (policy, sampler.reported))
    return jax.tree.map(float, mismatch.measure(log_pi, told, kept, batch))


@pytest.mark.parametrize("name", ["top_p, processed", "top_k, processed", "min_p, processed"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_mean_ratio_of_a_truncated_sampler_is_its_kept_mass(horizon, name):
    task, _, logits = case(horizon)
    stats = enumerated_mismatch(task, logits, SAMPLERS[name])
    drawn, _ = by_hand(logits, SAMPLERS[name])
    mass = np.where(drawn > -np.inf, np.exp(normalised(logits)), 0.0).sum(axis=-1)
    tokens, total = 0.0, 0.0
    for path, _ in sequences(task.automaton):
        mu = np.exp(sum(drawn[at] for at in path))
        tokens, total = tokens + mu * len(path), total + mu * sum(mass[at[:2]] for at in path)
    assert 0.3 < total / tokens < 0.99
    np.testing.assert_allclose([stats.mean_ratio, stats.kept_mass], total / tokens, atol=1e-12)
    raw = enumerated_mismatch(task, logits, dataclasses.replace(SAMPLERS[name], reported="raw"))
    np.testing.assert_allclose([raw.mean_ratio, raw.ess, raw.kept_mass], [1.0, 1.0, stats.kept_mass], atol=1e-12)
    np.testing.assert_allclose([raw.mismatch_k1, raw.mismatch_k3, raw.mismatch_inverse_k3], 0.0, atol=1e-12)


@pytest.mark.parametrize("horizon", [1, 3])
def test_each_logged_number_has_the_direction_that_it_is_said_to_have(horizon):
    """KL(mu‖pi) of sequences, and chi2(mu‖pi) - KL(mu‖pi) of tokens, by plain sums; none is KL(pi‖mu)."""
    task, _, logits = case(horizon)
    stats = enumerated_mismatch(task, logits, SAMPLERS["temperature, processed"])
    log_mu, log_pi = by_hand(logits, SAMPLERS["temperature, processed"])[0], normalised(logits)
    mu, pi = np.exp(log_mu), np.exp(log_pi)
    kl_rows, chi2_rows = np.sum(mu * (log_mu - log_pi), axis=-1), np.sum(mu**2 / pi, axis=-1) - 1.0
    kl, other, squares, whole = 0.0, 0.0, 0.0, 0.0
    for path, _ in sequences(task.automaton):
        of_mu, of_pi = (np.exp(sum(table[at] for at in path)) for table in (log_mu, log_pi))
        kl += of_mu * np.log(of_mu / of_pi)
        whole += of_pi * np.log(of_pi / of_mu)
        other += of_mu * sum(chi2_rows[at[:2]] - kl_rows[at[:2]] for at in path)
        squares += of_pi**2 / of_mu
    np.testing.assert_allclose([stats.mismatch_k1, stats.mismatch_k3], kl, rtol=1e-11)
    np.testing.assert_allclose(stats.mismatch_inverse_k3, other, rtol=1e-11)
    np.testing.assert_allclose([stats.mean_ratio, stats.ess], [1.0, 1.0 / squares], rtol=1e-11)
    assert min(abs(whole - stats.mismatch_k3), abs(whole - stats.mismatch_inverse_k3)) > 1e-3


def test_the_example_of_the_theory():
    mu, pi = np.array([0.5, 0.3, 0.2]), np.array([0.8, 0.15, 0.05])
    batch = enumerate_all(short_task(0, 1)[0].automaton)._replace(weight=mu)
    log_pi, log_mu = (jnp.asarray(np.log(p)[:, None]) for p in (pi, mu))
    stats = mismatch.measure(log_pi, log_mu, None, batch)
    np.testing.assert_allclose(stats.mismatch_inverse_k3, np.sum(mu**2 / pi) - 1 - np.sum(mu * np.log(mu / pi)), rtol=1e-12)
    np.testing.assert_allclose([stats.mismatch_inverse_k3, np.sum(pi * np.log(pi / mu))], [0.462, 0.203], atol=5e-4)
    assert np.isnan(stats.kept_mass)


BASE = {"task": {"name": "bandit/random"}, "algorithm": {"name": "rloo"}, "steps": 20, "log_every": 10}
COLUMNS = {"batch_mean_ratio", "batch_ess", "batch_mismatch_k1", "batch_mismatch_k3", "batch_mismatch_inverse_k3"}


def built(**groups) -> spec.Run:
    return build(BASE | groups).run


@pytest.mark.parametrize(
    ("rollout", "columns"),
    [({}, set()), ({"staleness": 2}, COLUMNS), ({"top_p": 0.7, "reported": "processed"}, {*COLUMNS, "batch_kept_mass"})],
)
def test_the_mismatch_is_logged_where_the_sampler_is_not_the_policy(rollout, columns):
    history = summary.history(blocks.train_runs([built(rollout=rollout)])[0].rows)
    assert {name for name in history if name in COLUMNS | {"batch_kept_mass"}} == columns
    if "top_p" in rollout:
        np.testing.assert_allclose(history["batch_mean_ratio"][1:], history["batch_kept_mass"][1:], rtol=1e-5)
        assert (history["batch_kept_mass"][1:] < 1.0).all()


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        ({"rollout": {"rounded": "logits"}}, "rollout.rounded"),
        ({"rollout": {"reported": "raw"}}, "rollout.reported"),
        ({"rollout": {"reported": "processed", "dtype": "float16"}}, "rollout.reported"),
        ({"rollout": {"top_k": 10}}, "rollout.top_k"),
        ({"rollout": {"top_p": 1.0}}, "rollout.top_p"),
        ({"rollout": {"dropout": 0.1}}, "rollout.dropout"),
        ({"rollout": {"dtype": "float8_e4m3fn"}}, "rollout.dtype"),
        ({"rollout": {"min_p": 0.1}, "algorithm": {"name": "exact"}}, "rollout.min_p"),
        (
            {"rollout": {"dtype": "float16", "rounded": "logits"}, "policy": {"name": "gaussian", "scale": 3.0}},
            "rollout.rounded",
        ),
    ],
)
def test_a_sampler_without_effect_is_refused(groups, key):
    with pytest.raises(SettingsError) as refused:
        built(**groups)
    assert refused.value.key == key


def test_a_run_says_what_samples():
    run = built(rollout={"dtype": "bfloat16", "top_p": 0.9}, penalty={"importance_correction": "token"})
    assert run.settings.rollout.rounded == "log_probs"
    assert run.settings.rollout.reported == "raw"
    assert describe.caveats(run) == [
        "off-policy: samples of a policy with log-probabilities rounded to bfloat16, top_p 0.9, which reports its raw "
        "log-probabilities, corrected by each token's importance weight"
    ]


def test_rules_apply_to_a_stale_and_rounded_policy():
    draw = np.random.default_rng(0)
    row = random_rows(draw, np.ones((1, 1, 5), bool))
    policy = Tabular(jnp.asarray(row), jnp.ones((1, 5), bool))
    rollout = RolloutSettings(staleness=2, dtype="float16", rounded="logits", temperature=0.5, top_k=3, reported="raw")
    sampler = policies.deployed(policy, rollout)
    drawn, told = by_hand(row, rollout)
    np.testing.assert_allclose(sampler.policy.table(), drawn, rtol=1e-12)
    np.testing.assert_allclose(sampler.reported.table(), told, rtol=1e-12)
