"""The wrong gradient: descents against closed forms, its table from runs, and whether its committed numbers are current."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import build
from experiments.wrong_gradient import figure, fixed_points, measured, targets
from rlkl import cli
from rlkl.config import build as config_build
from rlkl.penalties import options
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.runs.load import load
from rlkl.training import loop
from tests.experiments import house

HOME = build.HERE / "wrong_gradient"
LADDER, BANDIT = {"name": "automaton/custom", "path": str(HOME / "ladder.json")}, {"name": "bandit/random", "size": 4}
REF = np.array([0.4, 0.2, 0.4])  # of every rung: stop, climb, slip


def run_of(task: dict, divergence: str = "kl_pi_ref", **chosen):
    given = {"divergence": divergence, "beta": 0.2, "allow_biased": True, **chosen}
    built = config_build.build({"task": task, "algorithm": {"name": "reinforce"}, "dtype": "float64", "penalty": given})
    return jax.tree.map(jnp.asarray, built.run)


def listed(run, policy) -> np.ndarray:
    return np.asarray(jax.jit(scoring.log_probability)(policy, enumerate_all(run.task.automaton)))


def bandit_optimum(run, divergence: str) -> np.ndarray:
    """From the closed forms: p e^(r/beta)/Z, and beta p/(L - r) with L by bisection."""
    p, r, beta = np.exp(run.task.log_reference[0]), np.asarray(run.task.reward[1:]), float(run.settings.penalty.beta)
    if divergence == "kl_pi_ref":
        weight = p * np.exp(r / beta)
        return weight / weight.sum()
    low, high = r.max(), r.max() + beta
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if (beta * p / (middle - r)).sum() > 1 else (low, middle)
    return beta * p / (high - r)


def climbed(beta: float, direction: str, paid: bool) -> np.ndarray:
    """The ladder by hand: rung by rung from the top, each row the optimum of its own bandit. stop, climb, slip a rung."""
    above, rows = 1.0, []
    for ground in (False, False, True):
        r = np.array([0.5 if ground else 0.0, above, 0.0])
        row = REF * np.exp(r / beta) / (REF * np.exp(r / beta)).sum()
        if direction == "kl_ref_pi":
            low, high = r.max(), r.max() + beta
            for _ in range(200):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if (beta * REF / (middle - r)).sum() > 1 else (low, middle)
            row = beta * REF / (high - r)
        kl = (row * np.log(row / REF)).sum() if direction == "kl_pi_ref" else (REF * np.log(REF / row)).sum()
        above = row @ r - (beta * kl if paid else 0.0)
        rows.append(row)
    third, second, first = rows
    ends = [first[0], first[2], *(first[1] * second[[0, 2]]), *(first[1] * second[1] * third)]
    return np.sort(ends)


@pytest.mark.parametrize(
    ("chosen", "lands_on"),
    [
        ({"estimator": "k1", "placement": "reward"}, "kl_pi_ref"),
        ({"estimator": "k2", "placement": "loss"}, "kl_pi_ref"),
        ({"estimator": "k3", "placement": "loss"}, "kl_ref_pi"),
        ({"divergence": "kl_ref_pi", "estimator": "k1", "placement": "loss", "sampler": "reference"}, "kl_ref_pi"),
    ],
)
def test_on_a_bandit_a_descent_lands_on_the_closed_form_of_what_it_descends(chosen, lands_on):
    run = run_of(BANDIT, **chosen)
    reached = fixed_points.descend(run, jax.jit(loop.start)(run).policy)
    assert float(reached.gradient_norm) < 1e-8
    np.testing.assert_allclose(np.exp(listed(run, reached.policy)), bandit_optimum(run, lands_on), atol=1e-9)
    np.testing.assert_allclose(np.exp(targets.of(run)), bandit_optimum(run, lands_on), atol=1e-12)


@pytest.mark.parametrize("name", ["kl_pi_ref", "kl_ref_pi"])
@pytest.mark.parametrize("paid", [False, True])
def test_the_ladder_by_rows_is_the_ladder_by_hand(name, paid):
    found = np.sort(np.exp(targets.by_rows(run_of(LADDER), name, 1.0, paid)))
    np.testing.assert_allclose(found, climbed(0.2, name, paid), atol=1e-12)


def test_rows_that_pay_kl_pi_ref_are_the_optimum_of_sequences():
    run = run_of(LADDER)
    np.testing.assert_allclose(targets.by_rows(run, "kl_pi_ref", 1.0, True), targets.optimum(run, "kl_pi_ref"), atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "name"), [("k2", "kl_pi_ref"), ("k3", "kl_ref_pi")])
def test_a_semi_gradient_ends_at_the_myopic_policy(estimator, name):
    run = run_of(LADDER, estimator=estimator, placement="loss")
    reached = np.exp(listed(run, fixed_points.descend(run, jax.jit(loop.start)(run).policy).policy))
    np.testing.assert_allclose(np.sort(reached), climbed(0.2, name, False), atol=1e-8)
    assert np.abs(reached - np.exp(targets.optimum(run, name))).sum() > 0.2


def test_k1_in_the_loss_ends_at_the_best_arm_and_k3_in_the_reward_runs_away():
    inert, wild = (run_of(BANDIT, estimator=e, placement=p) for e, p in (("k1", "loss"), ("k3", "reward")))
    ended, away = (fixed_points.descend(run, jax.jit(loop.start)(run).policy) for run in (inert, wild))
    best = np.asarray(inert.task.reward[1:]).argmax()
    np.testing.assert_allclose(np.exp(listed(inert, ended.policy))[best], 1.0, atol=1e-8)
    assert int(ended.steps) == fixed_points.STEPS and float(ended.gradient_norm) < 1e-8
    assert int(away.steps) < fixed_points.STEPS and float(away.least) < -fixed_points.FAR
    assert float(away.gradient_norm) > 1e-2 and targets.of(wild) is None


def test_the_expected_gradient_is_that_of_the_objective_by_finite_differences():
    run = run_of(LADDER, estimator="k1", placement="reward", level="sequence")
    automaton = run.task.automaton
    logits = np.random.default_rng(0).normal(size=(automaton.horizon, automaton.decisions, automaton.vocabulary))
    batch = enumerate_all(automaton)
    worth = np.asarray(run.task.reward)[batch.states[:, -1]]
    log_ref = listed(run, run.reference)

    def objective(x):
        log_pi = x - np.log(np.exp(x).sum(-1, keepdims=True))
        steps = [log_pi[t, np.minimum(batch.states[:, t], 2), batch.tokens[:, t]] for t in range(3)]
        log_y = (np.stack(steps, 1) * batch.mask).sum(1)
        return np.exp(log_y) @ (worth - 0.2 * (log_y - log_ref))

    policy = Tabular(jnp.asarray(logits), jnp.ones(logits.shape[1:], bool))
    found = jax.jit(jax.grad(lambda x: fixed_points.expected_loss(run, dataclasses.replace(policy, logits=x))))(policy.logits)
    h = 1e-6
    for at in [(0, 0, 1), (1, 1, 0), (2, 2, 1), (0, 0, 2)]:
        step = np.zeros_like(logits)
        step[at] = h
        slope = (objective(logits + step) - objective(logits - step)) / (2 * h)
        np.testing.assert_allclose(-found[at], slope, atol=1e-8)


@pytest.mark.parametrize(
    ("way", "direction", "chosen"),
    [
        ("k2 in loss, token", "kl_pi_ref", {"estimator": "k2", "placement": "loss"}),
        ("k3 in loss, token + future KL", "kl_pi_ref", {"estimator": "k3", "placement": "loss", "future_kl": True}),
        ("full in loss + future KL", "kl_ref_pi", {"estimator": "full", "placement": "loss", "future_kl": True}),
    ],
)
def test_the_committed_numbers_are_current(way, direction, chosen):
    run = run_of(LADDER, direction, **chosen)
    drawn = house.committed("wrong_gradient")
    committed = drawn.query("task == 'ladder' and direction == @direction and way == @way and series == 'descended'")
    assert measured.label(run.settings.penalty) == way
    found = measured.trained_row(measured.way_of(run, direction, 0.2))
    for key in ("regret", "to_own", "reward", "kl_pi_ref", "kl_ref_pi"):
        np.testing.assert_allclose(found[key], committed[key].item(), atol=1e-6)
    assert found["end"] == committed["end"].item()


@pytest.mark.parametrize("column", ["regret", "to_own", "to_descended"])
def test_a_policy_that_is_not_finite_is_seen(column):
    wrong = house.committed("wrong_gradient")
    wrong.loc[(wrong["series"] == "descended") & (wrong["way"] == "k2 in loss, sequence"), column] = float("nan")
    assert not all(claim.verdict for claim in figure.claims(wrong))


@pytest.mark.slow
def test_the_table_of_short_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bandit = [
        "task=bandit/custom",
        "task.reward=[0,1]",
        "task.reference=[0.8,0.2]",
        "algorithm=rloo",
        "steps=2",
        "tracking=none",
    ]
    for number, chosen in enumerate(
        (["penalty=none"], ["penalty.beta=0.5", "penalty.estimator=k1", "penalty.placement=reward"])
    ):
        assert cli.main(["-m", *bandit, *chosen, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'runs' / str(number)}"]) == 0
    runs = load(tmp_path / "runs")
    rows = figure.table(runs)
    assert list(rows["series"]) == ["reference", "descended", "trained", "trained", "descended", "trained", "trained"]
    odds = 0.25 * np.e**2
    best = odds / (1 + odds)
    worth = best - 0.5 * (best * np.log(best / 0.2) + (1 - best) * np.log((1 - best) / 0.8))
    np.testing.assert_allclose(rows["regret"][0], worth - 0.2, atol=1e-12)
    np.testing.assert_allclose(rows["to_own"][0], best - 0.2, atol=1e-12)
    np.testing.assert_allclose(rows[["to_own", "to_descended"]].loc[1], [1 - best, 0.0], atol=1e-8)
    np.testing.assert_allclose(rows[["regret", "to_own", "to_descended"]].loc[4], 0.0, atol=1e-9)
    graded = runs.summary[runs.summary["divergence"] == "kl_pi_ref"]
    np.testing.assert_allclose(rows["regret"][5:], graded["regret"], atol=1e-6)


def test_labels_tell_every_way_apart():
    for horizon in (1, 3):
        for direction in ("kl_pi_ref", "kl_ref_pi"):
            ways = [way for way in options.combinations(direction, horizon) if way.gradient != "straight_through"]
            assert len({measured.label(way) for way in ways}) == len(ways)
