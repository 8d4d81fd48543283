"""Rewards that read the history, where the sequences are too many to list: against the same on the tree of the sequences."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from rlkl import exact, tasks
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.evaluation import metrics
from rlkl.exact import Objective, best_of_n, methods, optimal_policy
from rlkl.policies import Fixed
from rlkl.policies.tabular import Tabular
from rlkl.reports import plots
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.runs.folder import artifacts, files
from rlkl.runs.load import load
from rlkl.tasks import automaton as automata
from rlkl.tasks.preferences import fitted_reward
from rlkl.tasks.transforms import export, unfold
from rlkl.training import blocks, loop, reward_shaping
from tests.helpers import PARAMS, sampled_loss

MOTIF = ["task=sequence/motif", "task.horizon=3", "policy=tabular", "penalty.beta=0.2", "algorithm=reinforce", "dtype=float64"]
MARA = ["reward_shaping=mara", "reward_shaping.threshold=1"]
NETWORK = {"base": {"name": "sequence/motif", "horizon": 2, "motifs": ("ab",)}, "model": "network", "fit_steps": 20, "width": 8}
GRAMMAR = ["task=preference/any", "task@task.base=sequence/grammar", "task.model=network", "task.fit_steps=5", "task.width=4"]


@pytest.fixture
def unlistable(monkeypatch):
    """Few enough sequences to enumerate in a test are too many for the code."""
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 8)


def built(*overrides: str):
    return build(compose(["tracking=none", *overrides]))


def everything(run, policy):
    """Every sequence of a run's task, weighted by the policy, and its log-probability under the reference."""
    batch = enumerate_all(run.task.automaton)
    batch = batch._replace(tokens=jnp.asarray(batch.tokens), states=jnp.asarray(batch.states), mask=jnp.asarray(batch.mask))
    batch = batch._replace(weight=jnp.exp(scoring.log_probability(policy, batch)))
    return batch, scoring.log_probability(run.reference, batch)


def some_policy(task, seed: int = 0) -> Tabular:
    at = task.automaton
    logits = np.random.default_rng(seed).normal(size=(at.horizon, at.decisions, at.vocabulary))
    return Tabular(jnp.asarray(logits), jnp.asarray(at.legal))


def test_mara_by_batch_of_all_sequences_is_mara_on_the_tree(monkeypatch, request):
    tree = built(*MOTIF, *MARA).run
    tree = jax.tree.map(jnp.asarray, tree)
    shaped = loop.training_objective(tree, loop.start(tree)).task
    on_tree = {tuple(t): shaped.reward[s[-1]] for t, s in zip(*tree.task.automaton.enumerated(), strict=True)}
    request.getfixturevalue("unlistable")
    run = built(*MOTIF, *MARA).run
    assert reward_shaping.by_batch(run.settings.reward_shaping, run.task)
    assert run.task.automaton.states < tree.task.automaton.states
    batch, log_ref = everything(run, some_policy(run.task))
    plain = exact.sequence_rewards(run.task, batch, jnp.float64)
    earned = reward_shaping.on_batch(
        run.settings, run.task, run.settings.penalty.beta, plain, jnp.log(batch.weight), log_ref, batch
    )
    found = [float(on_tree[tuple(t)]) for t in np.asarray(batch.tokens).tolist()]
    np.testing.assert_allclose(jnp.sum(earned, axis=1), found, rtol=1e-12)
    np.testing.assert_allclose(earned[:, :-1], 0.0)


@pytest.mark.parametrize(("name", "variant"), [("reverse_kl", 1), ("reverse_kl", 2), ("forward_kl", 1), ("forward_kl", 2)])
def test_mara_by_batch_descends_what_its_paper_says(unlistable, name, variant):
    """The expected gradient, from all sequences, is that of a sum over sequences: of the rewards as augmented and the penalty,
    which under KL(pi_ref‖pi) the second variant takes from pi_ref(z) in place of pi_ref(y)."""
    run = jax.tree.map(jnp.asarray, built(*MOTIF, *MARA, f"penalty={name}", f"reward_shaping.variant={variant}").run)
    policy = some_policy(run.task)
    of_states = np.random.default_rng(1).uniform(0.7, 1.3, run.task.automaton.states)
    run = dataclasses.replace(run, task=dataclasses.replace(run.task, reward=jnp.asarray(of_states)))
    batch, log_ref = everything(run, policy)
    reward = of_states[np.asarray(batch.states)[:, -1]]
    above = reward >= 1.0
    assert 1 < len(set(reward[above])) < above.sum() < len(above)
    likeliest = np.argmax(np.where(above, log_ref, -np.inf))
    gap = np.where(above, log_ref[likeliest] - np.asarray(log_ref), 0.0)
    moved = variant == 2 and name == "forward_kl"
    level = np.where(above, reward[likeliest], reward)
    augmented, anchored = level + (0.0 if moved else 0.2 * gap), log_ref + (gap if moved else 0.0)

    def worth(logits):
        log_pi = scoring.log_probability(Tabular(logits, policy.support), batch)
        if name == "reverse_kl":
            return jnp.sum(jnp.exp(log_pi) * (augmented - 0.2 * (log_pi - log_ref)))
        return jnp.sum(jnp.exp(log_pi) * augmented) + 0.2 * jnp.sum(jnp.exp(anchored) * log_pi)

    def loss(logits):
        own = Tabular(logits, policy.support)
        at = scoring.positions(run.task.automaton, own, run.reference, batch)
        return sampled_loss(run, at, batch)

    np.testing.assert_allclose(-jax.grad(loss)(policy.logits), jax.grad(worth)(policy.logits), atol=1e-10)


def test_without_a_sequence_above_the_threshold_mara_changes_nothing(unlistable):
    run = built(*MOTIF, *MARA).run
    batch, log_ref = everything(run, some_policy(run.task))
    low = np.asarray(run.task.reward)[np.asarray(batch.states)[:, -1]] < 1.0
    batch, log_ref = jax.tree.map(lambda x: x[low] if jnp.ndim(x) else x, (batch, log_ref))
    earned = exact.sequence_rewards(run.task, batch, jnp.float64)
    after = reward_shaping.on_batch(
        run.settings, run.task, run.settings.penalty.beta, earned, jnp.log(batch.weight), log_ref, batch
    )
    np.testing.assert_allclose(jnp.sum(after, axis=1), jnp.sum(earned, axis=1))


@pytest.fixture
def read(monkeypatch, request):
    """A card whose reward a network reads off the tokens, and the same on the tree of its sequences."""
    tree = tasks.build("preference/any", **NETWORK, pairs=300, temperature=0.5)
    request.getfixturevalue("unlistable")
    return tasks.build("preference/any", **NETWORK, pairs=300, temperature=0.5), tree


def rewards(task) -> tuple[Batch, np.ndarray]:
    """Every sequence of a task, and its reward."""
    batch = enumerate_all(task.automaton)
    return batch, np.asarray(jnp.sum(exact.sequence_rewards(task, batch, jnp.float64), axis=1))


def test_the_network_s_reward_is_the_one_on_the_tree(read):
    """But for the constant that centres it, which is a mean over a sample of the reference."""
    card, tree = read
    assert card.task.reward_model is not None
    assert tree.task.reward_model is None
    batch, here = rewards(card.task)
    theirs, there = rewards(tree.task)
    np.testing.assert_array_equal(batch.tokens, theirs.tokens)
    np.testing.assert_allclose(here - here[0], there - there[0], atol=1e-5)
    p = np.exp(scoring.log_probability(Fixed(jnp.asarray(card.task.log_reference), 2), batch))
    spread = np.sqrt(p @ there**2 - (p @ there) ** 2)
    assert abs(p @ here) <= 4.0 * spread / math.sqrt(fitted_reward.MOMENTS)
    assert np.ptp(here) > 0.1


def test_a_standardised_network_has_spread_one(unlistable):
    card = tasks.build("preference/any", **NETWORK, pairs=None, standardise=True, temperature=0.5)
    batch, here = rewards(card.task)
    p = np.exp(scoring.log_probability(Fixed(jnp.asarray(card.task.log_reference), 2), batch))
    np.testing.assert_allclose(p @ here, 0.0, atol=0.03)
    np.testing.assert_allclose(np.sqrt(p @ here**2), 1.0, atol=0.03)


@pytest.mark.slow
def test_infinitely_many_pairs_tell_the_network_what_the_annotators_hold(unlistable):
    card = tasks.build("preference/any", **(NETWORK | {"fit_steps": 400, "width": 16}), pairs=None, typicality=0.5)
    batch, here = rewards(card.task)
    log_p = np.asarray(scoring.log_probability(Fixed(jnp.asarray(card.task.log_reference), 2), batch))
    held = np.asarray(card.task.gold)[np.asarray(batch.states)[:, -1]] + 0.5 * log_p
    assert np.corrcoef(here, held)[0, 1] > 0.98


def test_what_is_estimated_under_a_network_s_reward_is_what_enumeration_gives(read):
    """Reward and objective of a table, over 200 samples; the optimum and all that hangs on it is unknown."""
    task, div, beta = read[0].task, REGISTRY["kl_pi_ref"], jnp.asarray(0.3)
    reference, policy = Fixed(jnp.asarray(task.log_reference), 2), some_policy(task)
    assert methods.values_method(Objective(task, reference, div), policy) == "samples"
    best = optimal_policy.solve(Objective(task, reference, div, PARAMS, beta))
    assert bool(best.no_unique_policy)
    best = best._replace(gold_objective=jnp.zeros(()))
    batch, earned = rewards(task)
    pi = np.exp(scoring.log_probability(policy, batch))
    u = np.asarray(scoring.log_probability(policy, batch) - scoring.log_probability(reference, batch))
    of = jax.jit(jax.vmap(lambda key: metrics.evaluate(Objective(task, reference, div, PARAMS, beta), policy, best, key, 256)))
    report = of(jax.random.split(jax.random.key(0), 200))
    for name, found, true in (
        ("reward", report.values.reward, pi @ earned),
        ("objective", report.objective, pi @ earned - 0.3 * pi @ u),
    ):
        z = (np.asarray(found) - true) / np.asarray(report.stderr[name])
        assert abs(z.mean()) <= 0.3, name
        assert 0.8 <= z.std() <= 1.2, name
    assert np.isnan(report.regret).all()
    assert np.isnan(report.stderr["regret"]).all()
    assert np.isnan(report.kl_pi_optimum).all()


def test_best_of_n_by_a_network_s_reward_is_estimated(read):
    task, n = read[0].task, 4
    reference = Fixed(jnp.asarray(task.log_reference), 2)
    found = best_of_n.evaluate(task, reference, n, jax.random.key(0))
    batch, earned = rewards(task)
    p = np.exp(scoring.log_probability(reference, batch))
    kept = best_of_n.pmf(p, earned, n)
    assert abs(found.reward - kept @ earned) <= 4.0 * found.stderr["reward"]
    assert abs(found.kl_pi_ref - kept @ np.log(kept / p)) <= 4.0 * found.stderr["kl_pi_ref"]


@pytest.mark.slow
def test_a_run_under_a_network_s_reward_says_what_it_does_not_know(tmp_path):
    made = built(*GRAMMAR, "algorithm=rloo", "steps=2")
    trained = blocks.train_runs([made.run])[0]
    for name in ("0", "1"):
        files.fill(tmp_path / name, artifacts.files(made, trained, 0.0))
    graded = json.loads((tmp_path / "0" / "summary.json").read_text())
    for key in ("optimal_objective", "regret", "kl_pi_optimum", "kl_optimum_pi", "tv_optimum", "regret_stderr"):
        assert graded[key] is None
        assert graded[f"{key}_reason"].startswith("the reward model reads the whole history")
    assert graded["mode_mass"] is None
    assert graded["exact"] is False
    assert math.isfinite(graded["gold_regret"])
    assert math.isfinite(graded["gold_optimal_objective"])
    ends = pd.read_csv(tmp_path / "0" / "outcomes.csv")
    assert ends[["reward", "optimum"]].isna().all(axis=None)
    drawn = plots.draw(load(tmp_path / "0"))
    assert [axes.get_title() for axes in drawn.axes][1:] == ["no optimum is known", "before and after"]
    assert [text.get_text() for text in drawn.axes[2].get_legend().get_texts()] == ["reference", "policy"]
    assert [axes.get_title() for axes in plots.draw(load(tmp_path)).axes] == ["no optimum is known", "2 runs", "final entropy"]


def test_a_network_s_reward_cannot_be_written_out(read):
    with pytest.raises(SettingsError, match="no place for a reward model"):
        export(read[0])


def test_what_cannot_be_listed_has_no_tree(unlistable):
    card = tasks.build("sequence/motif", horizon=3)
    assert unfold(card, "task.model", "network") is card
