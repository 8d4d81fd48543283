"""Preferences: who is asked, what is fitted, and the task that comes of it; against enumeration and closed forms."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from rlkl import exact, tasks
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.evaluation import metrics
from rlkl.evaluation.sampled_values import sample
from rlkl.exact import Objective, bandit_optimum
from rlkl.policies import Fixed
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import batch, scoring
from rlkl.runs.folder import artifacts, files
from rlkl.tasks.automaton import Comparisons
from rlkl.tasks.preferences import annotators, bradley_terry, fitted_reward
from rlkl.tasks.preferences.annotators import Preferences
from rlkl.tasks.preferences.bradley_terry import Pairs
from rlkl.tasks.transforms import unfold
from rlkl.training import blocks, describe, exact_losses, observe, spec
from tests.helpers import KINKED, PARAMS, random_rows, random_task, sequence_log_probability, sequences, shortened

WORDS = {"name": "bandit/words"}
RANDOM = {"name": "bandit/random"}
MOTIF = {"name": "sequence/motif", "horizon": 3}


def asked(groups: int, count: int, seed: int, covariates: int = 0):
    """Random pairs of as many items as groups, their answers drawn; with what they were drawn from."""
    draw = np.random.default_rng(seed)
    values, coefficients = draw.normal(size=groups), draw.normal(size=covariates)
    values -= values.mean()
    z = draw.normal(size=(groups, covariates))
    score = values + z @ coefficients
    first, second = draw.integers(groups, size=(2, count))
    answers = (draw.random(count) < expit(score[first] - score[second])).astype(float)
    return Pairs(first, second, answers, np.ones(count)), z, values


def minus_log_likelihood(at, pairs: Pairs, group, groups, z, ridge) -> float:
    score = at[:groups][group] + z @ at[groups:]
    d = score[pairs.first] - score[pairs.second]
    return float(pairs.weight @ -np.log(np.where(pairs.preferred > 0.5, expit(d), expit(-d))) + 0.5 * ridge * at @ at)


def test_a_fit_is_the_most_likely_by_another_optimiser():
    pairs, z, _ = asked(6, 300, 0, covariates=2)
    group = np.array([0, 1, 2, 0, 1, 2])
    found = bradley_terry.fit(pairs, group, 3, z, 0.1)
    best = minimize(minus_log_likelihood, np.zeros(5), (pairs, group, 3, z, 0.1), tol=1e-12)
    np.testing.assert_allclose(np.concatenate([found.values, found.coefficients]), best.x, atol=1e-5)


def test_standard_errors_are_the_inverse_information_s():
    """Against second differences of the likelihood."""
    pairs, z, _ = asked(6, 300, 1, covariates=2)
    group = np.array([0, 1, 2, 0, 1, 2])
    found = bradley_terry.fit(pairs, group, 3, z, 0.1)
    at, h = np.concatenate([found.values, found.coefficients]), 1e-4
    of = lambda x: minus_log_likelihood(x, pairs, group, 3, z, 0.1)  # noqa: E731
    step = np.eye(5) * h
    hessian = [[(of(at + a + b) - of(at + a - b) - of(at - a + b) + of(at - a - b)) / (4 * h * h) for b in step] for a in step]
    np.testing.assert_allclose(found.stderr, np.sqrt(np.diag(np.linalg.inv(hessian)))[3:], rtol=1e-4)


def test_expected_answers_give_the_values_themselves():
    _, _, values = asked(12, 1, 2)
    first, second = np.triu_indices(12, 1)
    pairs = Pairs(first, second, expit(values[first] - values[second]), np.full(len(first), 1.0 / len(first)))
    found = bradley_terry.fit(pairs, np.arange(12), 12, np.zeros((12, 0)))
    np.testing.assert_allclose(found.values, values, atol=1e-8)


def test_what_has_no_finite_fit_is_said_and_a_ridge_gives_one():
    none = np.zeros((3, 0))
    separated = Pairs(np.array([0, 0]), np.array([1, 1]), np.ones(2), np.ones(2))
    apart = Pairs(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3]), np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4))
    assert bradley_terry.fit(separated, np.arange(3), 3, none) is None
    assert bradley_terry.fit(apart, np.arange(4), 4, np.zeros((4, 0))) is None
    assert bradley_terry.fit(apart, np.zeros(4, int), 1, np.ones((4, 1))) is None
    assert bradley_terry.fit(separated, np.zeros(3, int), 1, np.arange(3.0)[:, None]) is None
    found = bradley_terry.fit(separated, np.arange(3), 3, none, 0.01)
    np.testing.assert_allclose(found.values[0], -found.values[1])
    assert found.values[2] == 0.0
    np.testing.assert_allclose(0.01 * found.values[0], 2.0 * expit(-2.0 * found.values[0]), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_reference_writes_comes_as_often_as_it_should(seed):
    draw = np.random.default_rng(seed)
    task = shortened(random_task(draw), 60)
    task = dataclasses.replace(task, log_reference=np.asarray(task.log_reference))
    count = 20_000
    tokens = annotators.sample_reference(task, count, draw, np.zeros(count, int))
    seen: dict[tuple, int] = {}
    for row, going in zip(tokens, task.automaton.walk(tokens)[:, :-1] < task.automaton.decisions, strict=True):
        key = tuple(row[going].tolist())
        seen[key] = seen.get(key, 0) + 1
    table = np.broadcast_to(task.log_reference, (task.automaton.horizon, *task.log_reference.shape))
    p = np.exp(sequence_log_probability(table, task.automaton))
    for (path, _), chance in zip(sequences(task.automaton), p, strict=True):
        share = seen.pop(tuple(token for _, _, token in path), 0) / count
        assert abs(share - chance) <= 5 * np.sqrt(chance * (1 - chance) / count) + 1e-12
    assert not seen


def gold_task(base: dict) -> tasks.Task:
    return annotators.under_gold(tasks.build(base["name"], **{k: v for k, v in base.items() if k != "name"}).task)


def test_annotators_answer_by_bradley_terry():
    """The sum of answers less their probabilities, weighed by the score, is within 4 standard errors of 0."""
    task = gold_task(RANDOM)
    by = annotators.ask(task, Preferences(0.7, 0.5), 20_000, 0)
    worth = (task.gold[by.sequences.end] + 0.7 * task.log_reference[0][by.sequences.tokens[:, 0]]) / 0.5
    change = worth[by.pairs.first] - worth[by.pairs.second]
    p = 1.0 / (1.0 + np.exp(-change))
    off = change * (by.pairs.preferred - p)
    assert abs(off.sum()) <= 4 * np.sqrt((change**2 * p * (1 - p)).sum())


@pytest.mark.parametrize(
    "base",
    [pytest.param(WORDS, marks=pytest.mark.slow), {"name": "sequence/grammar"}, {"name": "bandit/zipf", "size": 50}],
    ids=lambda b: b["name"],
)
def test_the_recovered_typicality_lies_within_three_standard_errors(base):
    task, put_in = gold_task(base), 0.5
    told = [annotators.recovered(task, annotators.ask(task, Preferences(put_in, 0.7), 1000, seed)) for seed in range(100)]
    z = np.array([(found - put_in) / stderr for found, stderr in told])
    assert (np.abs(z) <= 3.0).sum() >= 97
    assert 0.8 <= z.std() <= 1.2


def test_where_nothing_tells_the_typicality_it_is_said():
    facts = tasks.build("preference/any", base={"name": "sequence/brackets", "horizon": 4}).facts
    assert facts["recovered_typicality"] is None
    assert "log pi_ref" in facts["recovered_typicality_reason"]


def fitted(base, **options) -> tasks.Card:
    return tasks.build("preference/any", base=base, **options)


def listed_reward(task: tasks.Task) -> tuple[np.ndarray, np.ndarray]:
    """Total reward and probability under the reference of every sequence, by plain loops."""
    worth, chance = [], []
    for path, end in sequences(task.automaton):
        log_p = sum(float(task.log_reference[s, v]) for _, s, v in path)
        worth.append(float(task.reward[end]) + (float(task.typicality) * log_p if float(task.typicality) else 0.0))
        chance.append(np.exp(log_p))
    return np.array(worth), np.array(chance)


@pytest.mark.parametrize("seed", range(5))
def test_moments_of_the_reward_are_those_of_enumeration(seed):
    draw = np.random.default_rng(seed)
    task = jax.tree.map(np.asarray, shortened(random_task(draw, typicality=0.3 * (seed % 2)), 500))
    worth, p = listed_reward(task)
    mean = p @ worth
    np.testing.assert_allclose(fitted_reward.moments(task), (mean, np.sqrt(p @ (worth - mean) ** 2)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("standardise", [False, True])
def test_infinitely_many_answers_tell_gold_and_bias_on_a_bandit(standardise):
    card = fitted(RANDOM, pairs=None, typicality=0.5, temperature=0.7, standardise=standardise)
    task = card.task
    truth = task.gold[1:] + 0.5 * task.log_reference[0]
    truth = truth - np.exp(task.log_reference[0]) @ truth
    if standardise:
        truth = truth / np.sqrt(np.exp(task.log_reference[0]) @ truth**2)
    np.testing.assert_allclose(task.reward[1:], truth, atol=1e-12)
    assert float(task.typicality) == 0.0
    laid = annotators.comparisons(task, card.preferences)  # and so does a fit to every pair's expected answer
    pairs = Pairs(laid.first, laid.second, laid.preferred, laid.weight)
    found = bradley_terry.fit(pairs, laid.states[:, -1], task.automaton.states, np.zeros((len(laid.tokens), 0)))
    values = found.values[1:] / float(laid.scale)
    np.testing.assert_allclose(values - np.exp(task.log_reference[0]) @ values, truth, atol=1e-7)


def test_features_tell_the_bias_apart_on_sequences():
    card = fitted(MOTIF, pairs=None, typicality=0.5, model="features")
    np.testing.assert_allclose(float(card.task.typicality), 0.5)
    ends = card.task.automaton.outcomes
    assert np.ptp(card.task.reward[ends] - card.task.gold[ends]) <= 1e-12
    every = annotators.every_pair(card.task, card.preferences)
    found = bradley_terry.fit(
        every.pairs, every.sequences.end, card.task.automaton.states, every.sequences.log_reference[:, None]
    )
    np.testing.assert_allclose(found.coefficients, 0.5, atol=1e-6)
    many = fitted({"name": "sequence/grammar"}, pairs=20_000, typicality=0.5, model="features")
    assert abs(many.facts["reward_model_typicality"] - 0.5) <= 0.05


def test_a_table_of_end_states_is_the_likeliest_that_does_not_know_the_bias():
    """On sequences it cannot hold the bias: no end state's value can be moved to a smaller expected log-loss."""
    card = fitted(MOTIF, pairs=None, typicality=0.5)
    every = annotators.every_pair(card.task, card.preferences)
    values = card.task.reward[every.sequences.end]
    first, second, preferred, weight = every.pairs
    slope = weight * (expit(values[first] - values[second]) - preferred)
    at = np.arange(card.task.automaton.states)
    into = np.bincount(every.sequences.end[first], slope, len(at)) - np.bincount(every.sequences.end[second], slope, len(at))
    np.testing.assert_allclose(into, 0.0, atol=1e-9)
    ends = card.task.automaton.outcomes
    assert np.ptp(card.task.reward[ends] - card.task.gold[ends]) > 0.1


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_of_a_task_s_sequences_is_the_same_task(seed):
    task = jax.tree.map(np.asarray, shortened(random_task(np.random.default_rng(seed)), 300))
    task = dataclasses.replace(task, gold=2.0 * task.reward)
    names = tuple(str(i) for i in task.automaton.outcomes)
    tree = unfold(tasks.Card(task, names, tokens=tuple("abcdef")), "task.model", "network")
    after = tree.task
    if task.automaton.horizon > 1:
        ends = [end for _, end in sequences(after.automaton)]
        assert sorted(ends) == sorted(set(ends)) == after.automaton.outcomes.tolist()
        text = {end: " ".join("abcdef"[v] for _, _, v in path) for path, end in sequences(after.automaton)}
        assert tree.outcomes == tuple(text[end] for end in after.automaton.outcomes)

    def told(of):
        return {
            tuple(v for _, _, v in path): (of.reward[end], of.gold[end], sum(of.log_reference[s, v] for _, s, v in path))
            for path, end in sequences(of.automaton)
        }

    before, now = told(task), told(after)
    assert before.keys() == now.keys()
    for key, value in before.items():
        np.testing.assert_allclose(now[key], value)


@pytest.mark.slow
def test_a_network_reads_the_reward_off_the_tokens():
    card = fitted({"name": "sequence/brackets", "horizon": 4}, pairs=None, model="network", fit_steps=400, width=16)
    ends = card.task.automaton.outcomes
    assert len(ends) == 16
    assert "(())" in card.outcomes
    assert np.corrcoef(card.task.reward[ends], card.task.gold[ends])[0, 1] > 0.95
    finite = fitted(
        {"name": "sequence/motif", "horizon": 2, "motifs": ("ab",)},
        pairs=300,
        model="network",
        fit_steps=20,
        width=8,
        typicality=1.0,
    )
    assert len(finite.task.automaton.outcomes) == 64
    np.testing.assert_allclose(fitted_reward.moments(finite.task)[0], 0.0, atol=1e-9)


def run(*overrides: str):
    return build(compose(["tracking=none", *overrides])).run


BIASED = ["task=preference/any", "task.pairs=null", "task.typicality=0.5", "penalty.beta=0.25"]


def test_the_trained_policy_is_the_reference_sharpened():
    """pi_ref^(1 + a/beta) e^(r/beta), normalised; proxy and gold are both graded."""
    made = run(*BIASED)
    trained = blocks.train_runs([made])[0]
    p, gold = np.exp(made.task.log_reference[0]), made.task.gold[1:]
    weight = p ** (1.0 + 0.5 / 0.25) * np.exp(gold / 0.25)
    np.testing.assert_allclose(trained.final.outcomes.policy, weight / weight.sum(), atol=1e-6)
    pi, best = trained.final.outcomes.policy, p * np.exp(gold / 0.25)
    best /= best.sum()
    worth = lambda q: q @ gold - 0.25 * q @ np.log(q / p)  # noqa: E731
    report = trained.rows.report
    np.testing.assert_allclose(report.values.gold_reward[-1], pi @ gold, atol=1e-12)
    np.testing.assert_allclose(report.gold_regret[-1], worth(best) - worth(pi), atol=1e-12)
    assert report.gold_regret[-1] > 0.001
    assert report.regret[-1] <= 1e-6


def test_the_optimum_on_sentences_is_the_reference_sharpened():
    """By enumeration: the features' optimum stays Markov and exact."""
    made = jax.tree.map(
        jnp.asarray, run(*BIASED, "task@task.base=sequence/motif", "task.base.horizon=3", "task.model=features")
    )
    best = jax.jit(observe.optimum_at)(made, jnp.asarray(0.25))
    listed = batch.enumerate_all(made.task.automaton)
    log_ref = scoring.log_probability(made.reference, listed)
    weight = np.exp(np.asarray(log_ref) * (1.0 + 0.5 / 0.25)) * np.exp(np.asarray(made.task.gold)[listed.states[:, -1]] / 0.25)
    np.testing.assert_allclose(np.exp(best.log_probability(listed, log_ref)), weight / weight.sum(), atol=1e-12)
    gold = np.asarray(made.task.gold)[listed.states[:, -1]]
    np.testing.assert_allclose(
        best.gold_objective, 0.25 * np.log(np.exp(np.asarray(log_ref)) @ np.exp(gold / 0.25)), atol=1e-12
    )


@pytest.mark.slow
def test_estimated_gold_is_within_its_standard_errors():
    draw = np.random.default_rng(0)
    made = jax.tree.map(
        jnp.asarray, run(*BIASED, "task@task.base=sequence/motif", "task.base.horizon=3", "task.model=features")
    )
    task = made.task
    legal = np.broadcast_to(task.automaton.legal, (3, *task.automaton.legal.shape))
    policy = Fixed(jnp.asarray(random_rows(draw, legal)), 3)
    best = observe.optimum_at(made, jnp.asarray(0.25))
    kl, key = REGISTRY["kl_pi_ref"], jax.random.key(0)
    exactly = metrics.evaluate(Objective(task, made.reference, kl, PARAMS, jnp.asarray(0.25)), policy, best, key)
    about = metrics.report(sample(Objective(task, made.reference, kl, PARAMS, jnp.asarray(0.25)), policy, key, 4096), best)
    assert 0.0 < about.stderr["gold_reward"] < 0.1
    assert 0.0 < about.stderr["gold_regret"] < 0.1
    assert abs(about.values.gold_reward - exactly.values.gold_reward) <= 4 * about.stderr["gold_reward"]
    assert abs(about.gold_regret - exactly.gold_regret) <= 4 * about.stderr["gold_regret"]


def test_dpo_s_loss_is_least_at_the_proxy_s_optimum():
    """With all pairs, on a bandit and on sequences: the gradient of its loss vanishes there; elsewhere it does not."""
    for extra in ([], ["task@task.base=sequence/motif", "task.base.horizon=3", "task.model=features", "task.standardise=true"]):
        made = jax.tree.map(jnp.asarray, run(*BIASED, "algorithm=dpo", *extra))
        best = observe.optimum_at(made, jnp.asarray(0.25))
        support = jnp.asarray(made.task.automaton.legal)

        def slope(logits, made=made, support=support):
            algorithm, objective = made.settings.algorithm, spec.objective(made)
            return jax.grad(lambda x: exact_losses.loss(algorithm, objective, Tabular(x, support)))(logits)

        logits = jnp.where(support, best.log_pi, 0.0)
        assert float(jnp.abs(slope(logits)).max()) <= 1e-12
        assert float(jnp.abs(slope(0.9 * logits)).max()) >= 1e-5


def all_pairs(log_ref: np.ndarray, reward: np.ndarray) -> Comparisons:
    """Every pair of a bandit's arms, as often as the reference draws it, with its exact preference."""
    first, second = np.triu_indices(len(reward), 1)
    weight = np.exp(log_ref[first] + log_ref[second])
    tokens, states = np.arange(len(reward))[:, None], np.zeros((len(reward), 2), int)
    preferred = expit(reward[first] - reward[second])
    return Comparisons(tokens, states, first, second, preferred, weight / weight.sum(), np.asarray(1.0))


def loss_of_logits(name: str, log_ref, pairs: Comparisons, beta, alpha: float = 0.5):
    """The loss of direct preference optimisation of a bandit's policy, as a function of its logits."""
    params = PARAMS._replace(alpha=alpha)
    link = lambda logits: REGISTRY[name].slope(jax.nn.log_softmax(logits) - log_ref, params)  # noqa: E731
    return lambda logits: exact_losses.preference_loss(link(logits), pairs, beta)


LINKS = sorted(set(REGISTRY) - KINKED)


def test_with_every_pair_the_least_log_loss_is_at_the_optimum_of_each_divergence():
    """Its value there is the entropy of the answers, which no policy can undercut, and its gradient is zero."""

    @jax.jit
    def solved(log_ref, reward, beta, pairs):
        found = {}
        for name in LINKS:
            best = bandit_optimum.solve_by_root(REGISTRY[name], PARAMS, log_ref, reward, beta)
            loss = loss_of_logits(name, log_ref, pairs, beta)
            found[name] = best, *jax.value_and_grad(loss)(best), jax.grad(loss)(0.9 * best)
        return found

    draw = np.random.default_rng(0)
    for _ in range(3):
        log_ref, reward, beta = np.log(draw.dirichlet(np.ones(5))), draw.normal(size=5), 1.0 + draw.random()
        pairs = all_pairs(log_ref, reward)
        p = pairs.preferred
        entropy = -pairs.weight @ (p * np.log(p) + (1.0 - p) * np.log1p(-p))
        for name, (best, value, gradient, elsewhere) in solved(log_ref, reward, jnp.asarray(beta), pairs).items():
            assert np.isfinite(best).all(), name
            np.testing.assert_allclose(value, entropy, rtol=1e-10, err_msg=name)
            assert np.abs(gradient).max() <= 1e-10, name
            assert np.abs(elsewhere).max() >= 1e-6, name


@pytest.mark.parametrize(("name", "alpha", "best"), [("pearson", 0.5, (23 / 35, 12 / 35)), ("alpha", 2.0, (26 / 35, 9 / 35))])
def test_where_an_optimum_drops_outcomes_the_least_log_loss_is_elsewhere(name, alpha, best):
    """The link of a dropped arm is f'(0), and no longer its reward: the log-loss falls along its gradient, away from there.

    best: the two arms that are kept, from t_0 - t_1 = .5/(2 beta) or .5/beta and .4 t_0 + .3 t_1 = 1.
    """
    log_ref, reward, beta = np.log(np.array([0.4, 0.3, 0.3])), np.array([1.0, 0.5, -2.0]), 0.5
    assert REGISTRY[name].may_drop_outcomes(PARAMS._replace(alpha=alpha))
    logits = jnp.asarray([*np.log(best), -40.0])
    exact_gradient = bandit_optimum.gradient(
        REGISTRY[name],
        PARAMS._replace(alpha=alpha),
        logits.at[2].set(-jnp.inf),
        *map(jnp.asarray, (log_ref, reward, beta)),
    )
    np.testing.assert_allclose(exact_gradient[0], exact_gradient[1])
    assert exact_gradient[2] < exact_gradient[0]
    of = jax.value_and_grad(loss_of_logits(name, log_ref, all_pairs(log_ref, reward), beta, alpha))
    value, gradient = of(logits)
    assert np.abs(gradient).max() > 1e-3
    assert of(logits - gradient)[0] < value


def test_divergences_that_may_drop_outcomes_or_tell_no_reward_apart():
    dropping = {name for name in LINKS if REGISTRY[name].may_drop_outcomes(PARAMS)}
    assert dropping == {"pearson"}
    untold = {name for name in REGISTRY if not REGISTRY[name].identifies_rewards(PARAMS)}
    assert untold == {"total_variation", "root_pearson"}
    assert REGISTRY["alpha"].may_drop_outcomes(PARAMS._replace(alpha=1.5))


def test_pairs_beyond_the_largest_log_odds_have_no_gradient_and_the_others_keep_theirs():
    """Links of 3, 0 and -.5 at beta 1: the log-odds of the pairs are 3, 3.5 and .5, and the limit is 2."""
    link, pairs = jnp.asarray([3.0, 0.0, -0.5]), all_pairs(np.log(np.full(3, 1 / 3)), np.array([1.0, 0.0, 0.0]))
    value, gradient = jax.value_and_grad(lambda x: exact_losses.preference_loss(x, pairs, 1.0, 2.0))(link)
    p, odds = pairs.preferred, np.array([2.0, 2.0, 0.5])
    np.testing.assert_allclose(value, np.sum(pairs.weight * (np.logaddexp(0.0, odds) - p * odds)), rtol=1e-12)
    slope = pairs.weight[2] * (expit(0.5) - p[2])
    np.testing.assert_allclose(gradient, [0.0, slope, -slope], atol=1e-15)


@pytest.mark.slow
def test_chi_squared_preference_optimisation_trains_to_its_exact_optimum():
    made = run("task=preference/any", "task.base.size=5", "task.pairs=null", "algorithm=dpo", "penalty=kl_chi2")
    trained = blocks.train_runs([made])[0]
    assert abs(trained.rows.report.regret[-1]) <= 1e-6


def test_a_run_says_which_divergence_its_preferences_stand_for():
    says = describe.descends(run("task=preference/any", "algorithm=dpo", "penalty=kl_chi2")).says
    assert "E[r] - beta (KL(pi‖pi_ref) + ½χ²(pi‖pi_ref))" in says
    assert any("f'(0)" in text for text in describe.caveats(run("task=preference/any", "algorithm=dpo", "penalty=pearson")))
    assert not any("f'(0)" in text for text in describe.caveats(run("task=preference/any", "algorithm=dpo", "penalty=kl_chi2")))


@pytest.mark.parametrize(
    "extra",
    [["task.pairs=null"], pytest.param(["task.pairs=3000", "task.ridge=0"], marks=pytest.mark.slow)],
    ids=lambda e: e[0],
)
def test_dpo_reaches_the_optimum_of_the_reward_that_the_same_pairs_fit(extra):
    made = run("task=preference/any", "algorithm=dpo", "penalty.beta=0.5", "task.base.size=5", *extra)
    trained = blocks.train_runs([made])[0]
    assert abs(trained.rows.report.regret[-1]) <= 1e-6


REFUSED = [
    (["task@task.base=bandit/random", "task.model=features"], "task.model", "own value holds it"),
    (["task.pairs=0"], "task.pairs", "at least 1"),
    (["task.temperature=0"], "task.temperature", "above 0"),
    (["task.model=net"], "task.model", "network"),
    (["task.base.typicality=0.3"], "task.base.typicality", "task.typicality"),
    (["task.base.size=1"], "task.base.size", "at least 2"),
    (["task@task.base=bandit/custom"], "task.base.reward", "needs a value"),
    (
        ["task@task.base=sequence/grammar", "task.model=network", "task.fit_steps=5", "algorithm=exact"],
        "algorithm",
        "reads the whole history",
    ),
    (["task@task.base=sequence/grammar", "task.pairs=null", "task.typicality=0.5"], "task.pairs", "number of pairs"),
    (["task.pairs=3", "task.ridge=0"], "task.ridge", "no finite fit"),
    (["algorithm=dpo", "penalty=total_variation"], "penalty.divergence", "tells no reward apart"),
    (["algorithm=exact", "+algorithm.max_log_odds=2"], "algorithm.max_log_odds", "is of algorithm=dpo"),
    (["algorithm=dpo", "algorithm.max_log_odds=0"], "algorithm.max_log_odds", "above 0"),
    (["algorithm=dpo", "penalty=none"], "penalty.divergence", "there must be one"),
    (
        [
            "algorithm=dpo",
            "penalty=forward_kl",
            "task@task.base=bandit/custom",
            "task.base.reward=[0,1,0]",
            "task.base.reference=[0.5,0.5,0]",
        ],
        "policy.support",
        "no pair compares",
    ),
    (["algorithm=dpo", "algorithm.entropy_coef=0.1"], "algorithm.entropy_coef", "no reward"),
]


@pytest.mark.parametrize(("overrides", "key", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_is_refused_in_one_line(overrides, key, says):
    if overrides[-1] == "algorithm.entropy_coef=0.1":
        overrides = [overrides[0], "+" + overrides[1]]
    with pytest.raises(SettingsError) as refused:
        run("task=preference/any", *overrides)
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_dpo_without_preferences_is_refused():
    with pytest.raises(SettingsError, match="learns from preferences"):
        run("algorithm=dpo")


def test_remembering_tokens_keeps_the_gold_reward():
    made = run("task=preference/any", "task@task.base=sequence/motif", "task.base.horizon=3", "policy=ngram", "task.pairs=50")
    worth = {}
    for path, end in sequences(made.task.automaton):
        worth["".join("abcdefgh"[v] for _, _, v in path)] = made.task.gold[end]
    assert worth == {"".join(w): float("".join(w) in ("abc", "cfe")) for w in itertools.product("abcdefgh", repeat=3)}


def test_exact_gold_is_the_sum_over_sequences():
    task = jax.tree.map(jnp.asarray, shortened(random_task(np.random.default_rng(5)), 300))
    task = dataclasses.replace(task, gold=jnp.square(task.reward))
    legal = np.broadcast_to(task.automaton.legal, (task.automaton.horizon, *task.automaton.legal.shape))
    table = random_rows(np.random.default_rng(1), legal)
    p = np.exp(sequence_log_probability(table, task.automaton))
    reference = Fixed(task.log_reference, task.automaton.horizon)
    expected = sum(q * float(task.gold[end]) for q, (_, end) in zip(p, sequences(task.automaton), strict=True))
    np.testing.assert_allclose(exact.values(Objective(task, reference), jnp.asarray(table)).gold_reward, expected, rtol=1e-12)


def test_where_no_optimum_is_known_nothing_stands_in_for_it(tmp_path):
    """Under KL(pi_ref‖pi) the features' optimum depends on the history: it is null, never the reference. The gold's is
    known."""
    task = ["task=preference/grammar", "task.pairs=200", "penalty=forward_kl", "steps=2"]
    made = build(compose(["tracking=none", *task]))
    trained = blocks.train_runs([made.run])[0]
    files.fill(tmp_path, artifacts.files(made, trained, 0.0))
    graded = json.loads((tmp_path / "summary.json").read_text())
    for key in ("optimal_objective", "regret", "kl_pi_optimum", "kl_optimum_pi", "tv_optimum", "optimum_gold_reward"):
        assert graded[key] is None, key
        assert "depends on the history" in graded[f"{key}_reason"]
    assert graded["gold_regret"] > 0.1
    assert pd.read_csv(tmp_path / "outcomes.csv")["optimum"].isna().all()
    assert pd.read_csv(tmp_path / "diversity.csv")["optimum"].isna().all()
    assert "optimum" not in (tmp_path / "samples.txt").read_text() + (tmp_path / "positions.csv").read_text()
