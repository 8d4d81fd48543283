"""Dynamic programs against plain enumeration of every sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact
from rlkl.divergences import REGISTRY
from rlkl.exact import Objective
from rlkl.policies import Fixed
from rlkl.rollouts import sampling
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks import Automaton
from rlkl.tasks import automaton as automata
from tests.helpers import DEFINITIONS, PARAMS, POWERS, drawn, random_rows, random_task, sequence_log_probability, sequences


def close(a, b):
    assert np.all(np.abs(np.asarray(a) - b) <= 1e-12 * np.maximum(1.0, np.abs(b))), (a, b)


@jax.jit
def every_value(task, log_pi, log_ref):
    values = exact.values(Objective(task, Fixed(log_ref, task.automaton.horizon), REGISTRY["kl_pi_ref"], PARAMS), log_pi)
    powers = [exact.sequence_divergence(task.automaton, REGISTRY[name], PARAMS, log_pi, log_ref) for name in POWERS]
    return values, powers, exact.outcome_probabilities(task.automaton, log_pi)


def against_enumeration(seed: int, typicality: float) -> None:
    task, log_pi, log_ref = drawn(seed, typicality)
    automaton = task.automaton
    q, p = (sequence_log_probability(table, automaton) for table in (log_pi, log_ref))
    pi, ref = np.exp(q), np.exp(p)
    close(pi.sum(), 1.0)
    values, powers, by_end = every_value(task, log_pi, log_ref)
    ends = np.array([task.reward[end] for _, end in sequences(automaton)])
    close(values.reward, np.sum(pi * (ends + typicality * p)))
    close(values.kl_pi_ref, np.sum(pi * (q - p)))
    close(values.kl_ref_pi, np.sum(ref * (p - q)))
    close(values.entropy, -np.sum(pi * q))
    close(values.typicality, np.sum(pi * p))
    close(values.length, np.sum(pi * [len(path) for path, _ in sequences(automaton)]))
    for name, value in zip(POWERS, powers, strict=True):
        close(value, DEFINITIONS[name](pi, ref))
    by_state = np.zeros(automaton.states)
    np.add.at(by_state, [end for _, end in sequences(automaton)], pi)
    close(by_end, by_state)
    assert set(automaton.outcomes) == {end for _, end in sequences(automaton)}


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))])
def test_values_are_the_enumerated_ones(seed):
    against_enumeration(seed, typicality=0.7 * (seed % 2))


@pytest.mark.many
@pytest.mark.parametrize("seed", range(8, 200))
def test_values_are_the_enumerated_ones_on_many_automata(seed):
    against_enumeration(seed, typicality=0.7 * (seed % 2))


@pytest.mark.parametrize("name", ["kl_pi_ref", "kl_ref_pi", "hellinger", "pearson", "neyman", "alpha", "kl_chi2"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_gradient_of_the_objective_is_that_of_finite_differences(name, seed):
    task, log_pi, log_ref = drawn(seed)
    support = jnp.isfinite(jnp.asarray(log_pi))
    logits = jnp.where(support, jnp.asarray(log_pi), 0.0)

    @jax.jit
    def objective(logits):
        table = jnp.where(support, logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True, where=support), -jnp.inf)
        return exact.objective_value(
            Objective(task, Fixed(jnp.asarray(log_ref), task.automaton.horizon), REGISTRY[name], PARAMS, jnp.asarray(0.3)),
            table,
        )

    gradient, direction = (
        jax.jit(jax.grad(objective))(logits),
        jnp.asarray(np.random.default_rng(seed).normal(size=logits.shape)),
    )
    step = 1e-6
    numeric = (objective(logits + step * direction) - objective(logits - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["jensen_shannon", "total_variation"])
def test_divergences_without_a_chain_are_enumerated_where_sequences_are_few_and_undefined_elsewhere(name, monkeypatch):
    task, log_pi, log_ref = next(d for d in map(drawn, range(50)) if d[0].automaton.horizon > 1)
    of = lambda: exact.sequence_divergence(task.automaton, REGISTRY[name], PARAMS, jnp.asarray(log_pi), jnp.asarray(log_ref))  # noqa: E731
    pi, ref = (np.exp(sequence_log_probability(table, task.automaton)) for table in (log_pi, log_ref))
    close(of(), DEFINITIONS[name](pi, ref))
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 1)
    assert not exact.has_exact_divergence(task.automaton, REGISTRY[name])
    assert np.isnan(of())


@pytest.mark.parametrize("seed", range(12))
def test_every_legal_sequence_is_listed_once(seed):
    task, _, _ = drawn(seed)
    listed = enumerate_all(task.automaton)
    kept = zip(listed.tokens, listed.mask, listed.states, strict=True)
    found = {tuple(tokens[mask].tolist()): states[-1] for tokens, mask, states in kept}
    expected = {tuple(token for _, _, token in path): end for path, end in sequences(task.automaton)}
    assert found == expected
    assert len(listed.tokens) == len(expected) == task.automaton.sequences


def test_a_state_that_is_never_visited_may_have_an_infinite_divergence():
    automaton = Automaton(np.array([[1, 2], [2, 2]]), 3, 2)
    log_pi = jnp.log(jnp.asarray([[[0.0, 1.0], [0.5, 0.5]]] * 2))
    log_ref = jnp.log(jnp.asarray([[[0.0, 1.0], [0.0, 1.0]]] * 2))
    assert exact.sequence_divergence(automaton, REGISTRY["kl_pi_ref"], PARAMS, log_pi, log_ref) == 0.0


def test_automata_are_equal_and_hashed_by_content():
    a, b = (Automaton(np.array([[1, 2]]), 3, 1) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Automaton(np.array([[1, 2]]), 3, 2)
    assert a != Automaton(np.array([[2, 1]]), 3, 1)


@pytest.mark.parametrize("seed", range(2))
def test_drawn_sequences_have_the_table_s_probabilities(seed):
    """z-scores of every sequence's frequency, and no sequence of probability zero."""
    draw = np.random.default_rng(seed)
    task = next(t for t in iter(lambda: random_task(draw), None) if t.automaton.horizon <= 3)
    automaton, size = task.automaton, 40_000
    table = random_rows(draw, np.broadcast_to(automaton.legal, (automaton.horizon, *automaton.legal.shape)))
    batch = sampling.sample(jax.random.key(seed), automaton, Fixed(jnp.asarray(table), automaton.horizon), size)
    index = {tuple(token for _, _, token in path): i for i, (path, _) in enumerate(sequences(automaton))}
    frequency = np.zeros(len(index))
    for tokens, mask, weight in zip(np.asarray(batch.tokens), np.asarray(batch.mask), np.asarray(batch.weight), strict=True):
        if weight > 0:
            frequency[index[tuple(tokens[mask].tolist())]] += weight
    p = np.exp(sequence_log_probability(table, automaton))
    np.testing.assert_allclose(frequency.sum(), 1.0)
    assert (frequency[p == 0.0] == 0.0).all()
    z = (frequency - p) / np.sqrt(np.maximum(p * (1 - p), 1e-12) / size)
    assert np.abs(z[p * size > 5]).max(initial=0.0) < 5.0


def test_a_token_of_probability_zero_is_never_drawn():
    log_pi = jnp.log(jnp.asarray([0.0, 0.3, 0.0, 0.7 - 1e-7, 0.0]))
    uniform = jnp.concatenate([jnp.asarray([0.0, 1.0 - 2.0**-53]), jax.random.uniform(jax.random.key(0), (10_000,))])
    tokens = sampling.inverse_cdf(uniform, sampling.cumulative(log_pi)[None], jnp.zeros(uniform.size, jnp.int32)).tolist()
    assert set(tokens) == {1, 3}
