"""The audit of trust regions and corrections, against plain NumPy sums over sequences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import settings, surrogates
from rlkl.config.resolve import resolve
from rlkl.diagnostics.audit import command, trust_regions
from rlkl.policies.tabular import Tabular
from rlkl.training import spec
from tests.helpers import sequences, short_task
from tests.surrogates import plain

BETA, BATCH = 0.3, 8


@pytest.fixture(scope="module")
def audited():
    task, draw = short_task(5, 3)
    task = dataclasses.replace(task, reward=draw.normal(size=task.automaton.states))
    algorithm = settings.AlgorithmSettings("rloo", surrogate="ppo", clip_low=0.1, clip_high=0.4)
    chosen = settings.Settings(penalty=settings.PenaltySettings(beta=BETA), algorithm=algorithm, batch_size=BATCH)
    run = jax.tree.map(jnp.asarray, spec.make_run(dataclasses.replace(resolve(chosen, task), dtype="float64"), task))
    legal = jnp.asarray(task.automaton.legal)
    policy, sampler = (Tabular(jnp.asarray(draw.normal(size=(3, *legal.shape))), legal) for _ in range(2))
    rows = {row.method: row for row in trust_regions.audit(run, policy, sampler, jax.random.key(0))}
    return rows, task, np.asarray(policy.table()), np.asarray(sampler.table())


def moments(tokens: plain.Tokens, c, task, log_pi) -> tuple[np.ndarray, float]:
    """The mean and the variance of the gradient of one sequence, by plain loops."""
    mean, square, number = np.zeros_like(log_pi), 0.0, 0
    for path, _ in sequences(task.automaton):
        gradient = np.zeros_like(log_pi)
        for t, state, token in path:
            gradient[t, state] += c[number] * ((np.arange(log_pi.shape[2]) == token) - np.exp(log_pi[t, state]))
            mu, number = tokens.weight[number], number + 1
        mean, square = mean + mu * gradient, square + mu * np.sum(gradient**2)
    return mean, square - np.sum(mean**2)


@pytest.fixture(scope="module")
def tokens(audited) -> plain.Tokens:
    _, task, log_pi, log_mu = audited
    rows, mean = [], 0.0
    for number, (path, end) in enumerate(sequences(task.automaton)):
        cost = [BETA * (log_pi[at] - np.asarray(task.log_reference)[at[1:]]) for at in path]
        mu, reward = np.exp(sum(log_mu[at] for at in path)), float(task.reward[end])
        mean += mu * (reward - sum(cost))
        rows += [(log_pi[at], log_mu[at], reward - sum(cost[t:]), number, mu) for t, at in enumerate(path)]
    log_p, log_m, returns, number, mu = map(np.array, zip(*rows, strict=True))
    return plain.Tokens(log_p, log_m, returns - mean, number, mu)


@pytest.mark.parametrize("name", [*(each for each in surrogates.REGISTRY if each != "none"), *trust_regions.CORRECTIONS])
def test_errors_cosines_variances_and_shares_are_plain_sums(name, audited, tokens):
    rows, task, log_pi, _ = audited
    weight, c = np.ones(len(tokens.weight)), tokens.advantage
    if name in surrogates.REGISTRY:
        options = dict(surrogates.REGISTRY[name].options) | ({"clip_low": 0.1, "clip_high": 0.4} if name == "ppo" else {})
        c, touched = plain.coefficients(name, tokens, tokens.log_mu, options)
    else:
        weight, touched = plain.importance(tokens, dict(trust_regions.CORRECTIONS[name]))
    exact, _ = moments(
        tokens, plain.importance(tokens, {"importance_correction": "sequence"})[0] * tokens.advantage, task, log_pi
    )
    mean, variance = moments(tokens, weight * c, task, log_pi)
    row, scale = rows[name], np.linalg.norm(exact)
    np.testing.assert_allclose(row.relative_error, np.linalg.norm(mean - exact) / scale, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(row.variance, variance / BATCH, rtol=1e-10)
    np.testing.assert_allclose(row.touched, tokens.weight @ touched / tokens.weight.sum(), rtol=1e-10, atol=1e-15)
    if np.any(mean):
        np.testing.assert_allclose(row.cosine, np.sum(mean * exact) / np.linalg.norm(mean) / scale, rtol=1e-10)
    assert row.stderr == 0.0


def test_sequence_weights_alone_are_exact(audited):
    exact = {name for name, row in audited[0].items() if row.relative_error < 1e-12}
    assert "sequence weights" in exact
    assert not exact & {*surrogates.REGISTRY, "uncorrected", "token weights", "geometric weights"}


def test_the_audit_is_a_table(audited):
    assert command.trust_regions_table(list(audited[0].values())).row_count == len(audited[0])


@pytest.mark.slow
@pytest.mark.parametrize("task", [["task=bandit/custom", "task.reward=[0,1,0.5]", "task.reference=[0,0.6,0.4]"]])
def test_tokens_that_no_policy_takes_are_left_out(task):
    rows = command.trust_region_rows(task)
    assert np.isfinite([row.relative_error for row in rows]).all()
    assert {row.method for row in rows if row.relative_error < 1e-10} >= {"token weights", "sequence weights"}
