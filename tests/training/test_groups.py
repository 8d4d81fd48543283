"""Groups of samples: advantages, equal rewards, dynamic sampling, and training on several prompts."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import algorithms, settings, tasks
from rlkl.config.build import build
from rlkl.errors import SettingsError
from rlkl.evaluation.diversity import Estimate
from rlkl.policies import base
from rlkl.reports import tables
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch
from rlkl.runs.folder import artifacts
from rlkl.settings import AlgorithmSettings, numerics
from rlkl.training import blocks, dynamic_sampling, loop, sampled_losses, spec

PROMPTS = {"name": "bandit/prompts", "prompts": 3, "size": 4, "lowest": 0.05}


def a_batch(size: int, groups: int) -> Batch:
    """A batch of one-token sequences of equal weight."""
    states = np.stack([np.zeros(size, int), np.ones(size, int)], axis=1)
    return Batch(np.zeros((size, 1), int), states, np.ones((size, 1), bool), jnp.full(size, 1.0 / size), size, groups)


@pytest.mark.parametrize("std", ["sample", "population"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_advantages_of_groups_are_those_of_their_definitions(name, scale, std):
    returns = np.random.default_rng(0).normal(size=(3, 4))
    returns[1] = 0.3  # a group of equal returns
    chosen = AlgorithmSettings(name, group_size=4, scale_advantages=scale, std=std)
    flat = jnp.asarray(returns.reshape(-1, 1))
    measured = np.asarray(algorithms.advantages(chosen, flat, a_batch(12, 3), jnp.zeros(())))
    others = (returns.sum(1, keepdims=True) - returns) / 3
    expected = returns - (others if name == "rloo" else returns.mean(1, keepdims=True))
    ddof = 1 if std == "sample" else 0
    if scale == "batch":
        expected = expected / returns.std(ddof=ddof)
    elif scale == "group":
        expected = expected / np.where(np.ptp(returns, axis=1) > 0, returns.std(axis=1, ddof=ddof), 1.0)[:, None]
    np.testing.assert_allclose(measured, expected.reshape(-1, 1), atol=1e-12)


def test_the_effective_factor_averages_over_groups_and_counts_equal_ones_as_zero():
    returns = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 3.0]])
    chosen = AlgorithmSettings("grpo", group_size=2, scale_advantages="group", std="population")
    measured = algorithms.effective_factor(chosen, jnp.asarray(returns.reshape(-1, 1)), a_batch(6, 3))
    np.testing.assert_allclose(measured, 0.5 * (1 / 0.5 + 0.0 + 1 / 1.5) / 3, rtol=1e-12)


def equal_groups(count: int, size: int, seed: int):
    """Random counts of arms in groups on the prompts' task, and which groups have equal rewards, in NumPy."""
    task = tasks.build(**PROMPTS).task
    draw = np.random.default_rng(seed)
    start = draw.integers(0, 3, count)
    arms = np.stack([draw.choice(4, size, p=np.exp(task.log_reference[s])) for s in start])
    counts = np.stack([np.bincount(row, minlength=4) for row in arms])
    tokens = np.tile(np.arange(4), count)[:, None]
    states = np.stack([np.repeat(start, 4), task.automaton.next_state[start].ravel()], axis=1)
    weight = jnp.asarray(counts.ravel() / (count * size))
    batch = Batch(tokens, states, counts.reshape(-1, 1) > 0, weight, count * size, count)
    return task, batch, np.ptp((arms < 2).astype(float), axis=1) == 0.0


def test_groups_of_equal_rewards_are_found_and_dropped():
    task, batch, equal = equal_groups(12, 3, 0)
    assert 0 < equal.sum() < 12
    np.testing.assert_array_equal(dynamic_sampling.has_equal_rewards(task, batch), equal)
    kept = np.asarray(dynamic_sampling.without_groups(batch, jnp.asarray(equal)).weight).reshape(12, 4)
    np.testing.assert_allclose(kept.sum(1), np.where(equal, 0.0, 1.0 / (~equal).sum()), rtol=1e-12)
    none = dynamic_sampling.without_groups(batch, jnp.ones(12, bool))
    assert not np.asarray(none.weight).any()


def test_a_batch_without_groups_moves_nothing():
    """All groups of equal rewards: the loss and its gradient are zero, under every aggregation."""
    for aggregation in settings.AGGREGATIONS:
        algorithm = {"name": "grpo", "group_size": 4, "zero_std": "drop", "loss_aggregation": aggregation}
        made = build({"task": PROMPTS, "algorithm": algorithm, "batch_size": 8})
        run = base.cast(jax.tree.map(jnp.asarray, made.run), jnp.float32)
        policy = jax.jit(loop.start)(run).policy
        batch = a_batch(8, 2)._replace(weight=jnp.zeros(8, jnp.float32))
        positions = scoring.positions(run.task.automaton, policy, run.reference, batch)
        objective = spec.objective(run, jnp.float32(0.1))
        learned = sampled_losses.experience(run.settings, objective, positions, batch, jnp.float32(0.0))
        assert float(sampled_losses.surrogate(run.settings, objective.beta, positions, batch, learned)) == 0.0


def test_dynamic_sampling_draws_groups_given_that_their_rewards_differ():
    """The share of each prompt is that of its groups among all that differ, by the binomial distribution."""
    task = jax.tree.map(jnp.asarray, tasks.build(**PROMPTS).task)
    made = build({"task": PROMPTS, "algorithm": {"name": "grpo", "group_size": 3, "zero_std": "resample"}, "batch_size": 12})
    run = jax.tree.map(jnp.asarray, made.run)
    policy = jax.jit(loop.start)(run).policy
    objective = spec.objective(run, jnp.float32(0.1))

    def starts(key):
        rollout = sampled_losses.gather(run.settings, objective, None, policy, key)
        assert not isinstance(rollout.zero_std, Estimate)
        weight = rollout.batch.weight.reshape(4, -1).sum(1)
        return rollout.batch.states.reshape(4, -1, 2)[:, 0, 0], weight, rollout.zero_std

    start, weight, share = jax.jit(jax.vmap(starts))(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(weight, 0.25, rtol=1e-5)
    p = np.exp(np.asarray(task.log_reference))[:, :2].sum(1)
    differ = 1.0 - p**3 - (1.0 - p) ** 3
    expected = differ / differ.sum()
    measured = np.bincount(np.asarray(start).ravel(), minlength=3) / start.size
    np.testing.assert_array_less(np.abs(measured - expected), 4.5 * np.sqrt(expected * (1 - expected) / start.size))
    assert 0.0 < share.mean() < 1.0


def trained(**groups):
    plain = {"task": PROMPTS, "algorithm": {"name": "exact"}, "steps": 40, "log_every": 40}
    made = build(plain | groups)
    with numerics.pinned():
        return made, blocks.train_runs([made.run])[0]


def test_prompts_of_one_task_are_trained_as_runs_of_their_own():
    """By plain gradient steps, P times as large: a prompt's part of the mean is its own gradient over P."""
    rows = {"reward": [[0.0, 1.0, 0.5], [1.0, 0.0, 0.2]], "reference": [[0.5, 0.1, 0.4], [0.3, 0.3, 0.4]]}
    sgd = {"name": "sgd", "schedule": "constant"}
    _, whole = trained(task={"name": "bandit/custom", **rows}, optimizer=sgd | {"learning_rate": 2.0})
    grades = whole.final.prompts
    for i in range(2):
        task = {"name": "bandit/custom", "reward": rows["reward"][i], "reference": rows["reference"][i]}
        _, alone = trained(task=task, optimizer=sgd | {"learning_rate": 1.0})
        report = jax.tree.map(lambda x: x[-1], alone.rows).report
        np.testing.assert_allclose(grades.objective[i], report.objective, atol=1e-10)
        np.testing.assert_allclose(grades.optimal_objective[i], alone.optimum.objective, atol=1e-12)
        np.testing.assert_allclose(grades.values.kl_ref_pi[i], report.values.kl_ref_pi, atol=1e-10)


def read(text: str) -> dict[str, list[str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_the_files_of_prompts_add_up():
    made, result = trained(objective="utility", algorithm={"name": "exact", "group_size": 4})
    files = {name: content.decode() for name, content in artifacts.files(made, result, 1.0).items() if name.endswith("csv")}
    prompts = read(files["prompts.csv"])
    assert prompts["prompt"] == list(made.card.prompts)
    weight, columns = np.array(prompts["weight"], float), {k: np.array(v, float) for k, v in prompts.items() if k != "prompt"}
    history = read(files["history.csv"])
    for name in ("reward", "objective", "regret", "kl_pi_ref", "kl_ref_pi", "entropy"):
        np.testing.assert_allclose(weight @ columns[name], float(history[name][-1]), rtol=1e-10)
    np.testing.assert_allclose(columns["success_rate"], columns["reward"], rtol=1e-12)
    curve = read(files["pass_at_k.csv"])
    for k, value in zip(curve["k"], curve["policy"], strict=True):
        np.testing.assert_allclose(float(value), weight @ (1 - (1 - columns["success_rate"]) ** int(k)), rtol=1e-9)
    assert (columns["utility_optimum_success_rate"] >= columns["reference_success_rate"]).all()
    outcomes = read(files["outcomes.csv"])
    assert set(outcomes["prompt"]) == set(made.card.prompts)
    np.testing.assert_allclose(np.array(outcomes["policy"], float).sum(), 1.0, rtol=1e-10)
    assert float(history["utility_regret"][-1]) >= 0.0
    summary = json.loads(artifacts.files(made, result, 1.0)["summary.json"])
    gap = summary["optimal_utility_objective"] - summary["utility_objective"]
    np.testing.assert_allclose(gap, summary["utility_regret"], atol=1e-12)
    assert [row[0] for row in tables.result_rows(summary)][-2:] == [
        "utility's objective E[U(p)] - beta D", "regret in the utility's objective",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "policy", [{"name": "gru", "width": 4}, {"name": "transformer", "width": 4, "heads": 1, "layers": 1}], ids=str
)
def test_a_network_is_told_its_prompt(policy):
    """Two prompts with the same rows: the network's own rows differ, and scoring agrees with sampling."""
    task = {"name": "bandit/custom", "reward": [[0, 1], [1, 0]], "reference": [[0.5, 0.5], [0.5, 0.5]]}
    made = build({"task": task, "policy": policy | {"init": "random"}, "algorithm": {"name": "rloo", "group_size": 2}})
    run = jax.tree.map(jnp.asarray, made.run)
    network = jax.jit(loop.start)(run).policy
    states = jnp.asarray([[0, 2], [1, 4]], jnp.int32)
    rows = np.asarray(network.score(jnp.zeros((2, 1), jnp.int32), states))
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    _, first = network.step(network.start(2), jnp.asarray([2, 3], jnp.int32), states[:, 0])
    np.testing.assert_allclose(first, rows[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "batch", "key"),
    [
        ({"name": "grpo", "group_size": 3}, 8, "algorithm.group_size=3"),
        ({"name": "grpo", "group_size": 1}, 8, "algorithm.group_size=1"),
        ({"name": "rloo", "group_size": 1}, 8, "algorithm.group_size=1"),
        ({"name": "reinforce", "group_size": 1, "zero_std": "drop"}, 8, "algorithm.group_size=1"),
        ({"name": "rloo", "std": "sample"}, 8, "algorithm.std='sample'"),
        ({"name": "exact", "group_size": 4}, None, "algorithm.group_size=4"),
        ({"name": "exact", "zero_std": "drop"}, None, "algorithm.zero_std='drop'"),
        ({"name": "natural", "scale_advantages": "batch"}, None, "algorithm.scale_advantages='batch'"),
    ],
    ids=str,
)
def test_groups_that_cannot_be_are_refused(algorithm, batch, key):
    with pytest.raises(SettingsError) as error:
        build({"task": PROMPTS, "algorithm": algorithm, "batch_size": batch})
    assert key in str(error.value)


def test_the_batch_is_a_multiple_of_the_group():
    for size, expected in ((None, 64), (16, 64), (24, 48), (100, 100)):
        made = build({"task": PROMPTS, "algorithm": {"name": "grpo", "group_size": size}})
        assert (made.run.settings.batch_size, made.run.settings.algorithm.group_size) == (expected, size or 64)


@pytest.mark.slow
@pytest.mark.parametrize("zero_std", ["keep", "drop", "resample"])
def test_grpo_comes_close_to_the_optimum_of_every_prompt(zero_std):
    algorithm = {"name": "grpo", "group_size": 16, "zero_std": zero_std}
    _, result = trained(algorithm=algorithm, batch_size=192, steps=2000, log_every=500, penalty={"beta": 0.3})
    np.testing.assert_allclose(result.final.prompts.objective, result.final.prompts.optimal_objective, atol=0.02)
