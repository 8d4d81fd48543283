"""Distillation: its gradients by finite differences and by loops, its ends by gradient flow, its KLs by enumeration."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments.distillation import figure, measured, one_state, own_tokens, sequences
from tests.experiments import house

DRAW = np.random.default_rng(5)
Q, LOGITS = DRAW.dirichlet(np.ones(7)), DRAW.normal(size=7)
INSIDE = np.isin(np.arange(7), np.argsort(-Q)[:3])


def plain(loss: str, logits: np.ndarray) -> float:
    """The sum whose gradient a loss has."""
    pi = np.exp(logits) / np.exp(logits).sum()
    kept = [v for v in range(7) if INSIDE[v]]
    p, q = [pi[v] for v in kept], [Q[v] for v in kept]
    if loss == "full":
        p, q = list(pi), list(Q)
    if loss == "bucket":
        p, q = [*p, 1.0 - sum(p)], [*q, 1.0 - sum(q)]
    if loss == "renormalised":
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    if loss == "forward dropped":
        p, q = q, p
    value = sum(x * np.log(x / y) for x, y in zip(p, q, strict=True))
    return value - sum(p) + sum(q) if loss == "masked k1" else value


@pytest.mark.parametrize("loss", one_state.LOSSES)
def test_descents_are_minus_the_derivatives(loss):
    step = 1e-6 * np.eye(7)
    slope = [(plain(loss, LOGITS + each) - plain(loss, LOGITS - each)) / 2e-6 for each in step]
    np.testing.assert_allclose(one_state.descent(loss, LOGITS, Q, INSIDE), -np.array(slope), atol=1e-9)


def test_the_masked_log_ratio_as_a_reward_has_that_expected_gradient():
    """sum over tokens of pi times minus the log-ratio times the score, by a loop."""
    pi, expected = one_state.softmax(LOGITS), np.zeros(7)
    for v in range(7):
        reward = -np.log(pi[v] / Q[v]) if INSIDE[v] else 0.0
        expected += pi[v] * reward * ((np.arange(7) == v) - pi)
    np.testing.assert_allclose(one_state.descent("masked k1", LOGITS, Q, INSIDE), expected, atol=1e-14)


@pytest.mark.parametrize("loss", [each for each in one_state.LOSSES if each != "forward dropped"])
def test_flow_ends_at_the_closed_form_and_obeys_the_conservation_laws(loss):
    reached = one_state.flow(loss, LOGITS, Q, INSIDE, 1e5)
    np.testing.assert_allclose(one_state.softmax(reached), one_state.end(loss, LOGITS, Q, INSIDE), atol=1e-8)
    np.testing.assert_allclose(reached.sum(), LOGITS.sum(), atol=1e-8)
    if loss != "full":
        tail, before = (np.exp(-each[~INSIDE]) for each in (reached, LOGITS))
        np.testing.assert_allclose(tail - tail[0], before - before[0], atol=1e-6)


def test_the_ends_have_the_masses_that_are_derived():
    mass = {loss: one_state.end(loss, LOGITS, Q, INSIDE)[INSIDE].sum() / Q[INSIDE].sum() for loss in one_state.LOSSES}
    np.testing.assert_allclose([mass["dropped"], mass["bucket"], mass["masked k1"]], [np.exp(-1.0), 1.0, 1.0], rtol=1e-12)
    p, q = (each[INSIDE] / each[INSIDE].sum() for each in (one_state.softmax(LOGITS), Q))
    odds = lambda pi: pi[INSIDE].sum() / pi[~INSIDE].sum()  # noqa: E731
    grown = odds(one_state.end("renormalised", LOGITS, Q, INSIDE)) / odds(one_state.softmax(LOGITS))
    np.testing.assert_allclose(grown, np.exp(np.mean(np.log(p / q))), rtol=1e-12)


def test_a_clamp_stops_where_the_sum_is_zero():
    stopped = one_state.clamped_end(np.zeros(7), Q, INSIDE)
    assert plain("forward dropped", np.zeros(7)) > 0.1
    np.testing.assert_allclose(plain("forward dropped", np.log(stopped)), 0.0, atol=1e-8)
    ahead = np.where(INSIDE, 5.0, 0.0) + np.log(Q)
    np.testing.assert_allclose(one_state.clamped_end(ahead, Q, INSIDE), one_state.softmax(ahead))


@pytest.mark.parametrize("loss", ["dropped", "bucket"])
def test_stationary_sets_are_those_at_which_the_descent_is_zero(loss):
    q, count = np.array([0.34, 0.33, 0.31] + 9 * [0.02 / 9]) if loss == "dropped" else measured.Q, 0
    for chosen in itertools.combinations(range(12), 3):
        inside = np.isin(np.arange(12), chosen)
        pi = np.where(inside, q / (np.e if loss == "dropped" else 1.0), 0.0)
        pi[~inside] = (1.0 - pi.sum()) / 9
        rests = np.abs(one_state.descent(loss, np.log(pi), q, inside)).max() < 1e-12
        count += rests and pi[inside].min() > pi[~inside].max()
    assert own_tokens.stationary_sets(loss, q, 3) == count > 0


def test_divergences_of_sequences_are_sums_over_all_of_them():
    rows, others = sequences.teacher().rows, np.random.default_rng(0).dirichlet(np.ones(6), size=7)
    inside = one_state.top(rows, 2)
    kl = mass = 0.0
    for path in itertools.product(range(6), repeat=3):
        at = list(zip((0, path[0] + 1, path[1] + 1), path, strict=True))
        p, q = (np.prod([each[place] for place in at]) for each in (others, rows))
        kl, mass = kl + p * np.log(p / q), mass + p * all(inside[place] for place in at)
    np.testing.assert_allclose(sequences.divergence(others, rows, 3), kl, rtol=1e-12)
    np.testing.assert_allclose(sequences.inside_mass(others, inside, 3), mass, rtol=1e-12)


@pytest.mark.slow
def test_token_by_token_ends_at_the_least_only_where_rows_do_not_differ():
    least, reached = sequences.of_one_row(7)
    assert reached > least + 1e-3
    least, reached = sequences.of_one_row(7, length=1)
    np.testing.assert_allclose(reached, least, atol=1e-7)


def test_claims_hold_of_the_committed_numbers_and_of_no_others():
    committed = house.committed("distillation")
    assert [claim for claim in figure.claims(committed) if not claim.verdict] == []
    assert not any(claim.verdict for claim in figure.claims(pd.DataFrame(columns=committed.columns)))
    wrong = committed.assign(y=0.5 * committed["y"] + 0.01)
    assert sum(not claim.verdict for claim in figure.claims(wrong)) >= 20


def test_the_closed_forms_are_the_committed_ones():
    committed = house.committed("distillation")
    for row in measured.over_k():
        panel, name, x, y, _ = row
        near = committed[(committed["panel"] == panel) & (committed["series"] == name) & (committed["x"] == x)]["y"]
        np.testing.assert_allclose(near, y, rtol=1e-6, atol=1e-9)
