"""algorithm=natural: the direction against a Fisher matrix built from scores, its exact contraction, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlkl
from rlkl import divergences, exact
from rlkl.divergences import Params
from rlkl.errors import SettingsError
from rlkl.exact import Objective
from rlkl.policies import Fixed
from rlkl.policies.base import normalise
from rlkl.training import exact_losses
from tests.helpers import random_rows, random_task, sequence_log_probability, sequences, shortened

KL = divergences.REGISTRY["kl_pi_ref"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_it_solves_the_fisher_matrix_of_whole_sequences(seed):
    draw = np.random.default_rng(seed)
    task = shortened(random_task(draw), 300)
    automaton = task.automaton
    shape = (automaton.horizon, automaton.decisions, automaton.vocabulary)
    support = jnp.broadcast_to(jnp.asarray(automaton.legal), shape)
    logits = jnp.asarray(draw.normal(size=shape))
    log_ref = jnp.broadcast_to(jnp.asarray(random_rows(draw, automaton.legal)), shape)
    table = lambda logits: normalise(logits, support)  # noqa: E731

    def worth(logits):
        return exact.objective_value(
            Objective(task, Fixed(log_ref, task.automaton.horizon), KL, Params(), jnp.asarray(0.3)), table(logits)
        )

    gradient = jax.grad(worth)(logits)
    found = np.asarray(exact_losses.natural_gradient(automaton, table(logits), gradient)).ravel()
    # Fisher by hand: the outer products of the scores of all sequences, weighed by their probability.
    pi = np.exp(np.asarray(table(logits)))
    scores = np.zeros((len(sequences(automaton)), *shape))
    for row, (path, _) in zip(scores, sequences(automaton), strict=True):
        for t, state, token in path:
            row[t, state] -= pi[t, state]
            row[t, state, token] += 1.0
    scores = scores.reshape(len(scores), -1)
    weight = np.exp(sequence_log_probability(np.asarray(table(logits)), automaton))
    fisher = scores.T @ (weight[:, None] * scores)
    np.testing.assert_allclose(fisher @ found, np.asarray(gradient).ravel(), atol=1e-12)
    assert np.abs(np.asarray(gradient)).max() > 1e-3


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_each_step_contracts_the_centred_logits_by_one_less_eta_beta(steps):
    reward, reference, beta, eta = np.array([1.0, 0.3, 0.0]), np.array([0.2, 0.3, 0.5]), 0.4, 0.5
    trained = rlkl.train([
        "task=bandit/custom", f"task.reward={reward.tolist()}", f"task.reference={reference.tolist()}", "algorithm=natural",
        "policy.init=uniform", f"penalty.beta={beta}", "optimizer=sgd", "optimizer.schedule=constant",
        f"optimizer.learning_rate={eta}", f"steps={steps}", "tracking=none",
    ])  # fmt: skip
    centred = lambda x: x - x.mean()  # noqa: E731
    best = centred(np.log(reference) + reward / beta)
    apart = centred(np.asarray(jax.tree.map(jnp.asarray, trained.policy).table())[0, 0]) - best
    np.testing.assert_allclose(apart, (1.0 - eta * beta) ** steps * (-best), rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_it_reaches_the_optimum_of_a_sequence_task():
    made = ["task=sequence/motif", "algorithm=natural", "penalty.beta=0.3", "optimizer=sgd", "optimizer.learning_rate=1"]
    assert rlkl.train([*made, "steps=60", "tracking=none"]).summary["regret"] < 1e-6


@pytest.mark.parametrize("policy", ["gaussian", "ngram", "gru"])
def test_other_policies_are_refused(policy):
    task = "task=bandit/bimodal" if policy == "gaussian" else "task=sequence/motif"
    with pytest.raises(SettingsError, match="takes policy=tabular alone"):
        rlkl.train([task, f"policy={policy}", "algorithm=natural", "tracking=none"])
