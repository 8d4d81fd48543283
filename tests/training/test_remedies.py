"""Remedies against lost diversity, and decoding: against closed forms, enumeration, and what a row of probabilities must be."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.nn import log_softmax

from rlkl import exact, policies, settings
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.exact import Objective, optimal_policy
from rlkl.policies import Fixed, base
from rlkl.rollouts import batch, scoring
from rlkl.runs.folder import artifacts, files
from rlkl.training import blocks, loop
from tests.helpers import random_rows

SIX = [
    "task=bandit/custom", "task.reward=[1,1.2,0.9,0.2,0,1]", "task.reference=[0.4,0.05,0.2,0.2,0.1,0.05]", "penalty.beta=0.3",
]  # fmt: skip
MARA = [*SIX, "reward_shaping=mara", "reward_shaping.threshold=0.85"]
GOOD = np.array([0, 1, 2, 5])


def built(*overrides: str):
    return build(compose(["tracking=none", *overrides]))


def recorded(folder: Path, *overrides: str):
    """A run trained and written to a folder: its summary, and itself."""
    made = built(*overrides)
    trained = blocks.train_runs([made.run])[0]
    files.fill(folder, artifacts.files(made, trained, 0.0))
    return json.loads((folder / "summary.json").read_text()), trained


def end(*overrides: str) -> np.ndarray:
    """Where exact training ends."""
    return blocks.train_runs([built(*overrides).run])[0].final.outcomes.policy


def spread(policy: np.ndarray) -> float:
    """By how much the outcomes above the threshold differ, relative to their mean."""
    return float(np.ptp(policy[GOOD]) / policy[GOOD].mean())


@pytest.mark.parametrize("variant", [1, 2])
def test_mara_is_uniform_above_the_threshold_under_reverse_kl(variant):
    """And below it the ratios are those of R(z) and R: pi(y)/pi(z) = pi_ref(y)/pi_ref(z) e^((R(y) - R(z))/beta), z the
    anchor."""
    policy = end(*MARA, f"reward_shaping.variant={variant}")
    assert spread(policy) <= 1e-6
    np.testing.assert_allclose(policy[3] / policy[0], 0.2 / 0.4 * math.exp((0.2 - 1.0) / 0.3), rtol=1e-5)


@pytest.mark.slow
def test_under_forward_kl_the_first_variant_is_not_uniform_and_the_second_is():
    """The second is beta p/(L - R) with p = pi_ref(z), R = R(z) above the threshold: an unnormalised reference."""
    assert spread(end(*MARA, "penalty=forward_kl")) > 0.1
    policy = end(*MARA, "penalty=forward_kl", "reward_shaping.variant=2")
    assert spread(policy) <= 1e-6
    p, reward = np.array([0.4, 0.4, 0.4, 0.2, 0.1, 0.4]), np.array([1.0, 1.0, 1.0, 0.2, 0.0, 1.0])
    level = 0.3 * p / policy + reward
    np.testing.assert_allclose(level, level[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "variant"),
    [("reverse_kl", 1), *(pytest.param(name, 2, marks=pytest.mark.slow) for name in ("reverse_kl", "forward_kl"))],
)
def test_mara_on_sequences_is_uniform_over_those_above_the_threshold(name, variant):
    """On the tree of sequences: the exact optimum of what is learned from."""
    task = ["task=sequence/motif", "task.horizon=3", "policy=tabular", f"penalty={name}", "penalty.beta=0.2"]
    run = built(*task, "reward_shaping=mara", "reward_shaping.threshold=1", f"reward_shaping.variant={variant}").run
    run = jax.tree.map(jnp.asarray, run)
    state = loop.start(run)
    shaped = loop.training_objective(run, state)
    best = optimal_policy.solve(shaped)
    listed = batch.enumerate_all(run.task.automaton)
    log_pi = np.asarray(best.log_probability(listed, scoring.log_probability(shaped.reference, listed)))
    above = np.asarray(run.task.reward)[listed.states[:, -1]] >= 1.0
    assert above.sum() == 2
    assert np.ptp(log_pi[above]) <= 1e-9
    assert np.ptp(log_pi[~above]) > 1.0
    np.testing.assert_allclose(slope_of(shaped, best.log_pi), 0.0, atol=1e-9)  # exact training stands still there


def slope_of(objective: Objective, log_pi):
    """The gradient of J by logits."""
    support = jnp.asarray(objective.task.automaton.legal)

    def worth(logits):
        rows = jnp.where(support, log_softmax(jnp.where(support, logits, -jnp.inf), axis=-1), -jnp.inf)
        return exact.objective_value(objective, rows)

    return jax.grad(worth)(jnp.where(jnp.isfinite(log_pi), log_pi, 0.0))


def test_the_objective_that_grades_is_never_shaped():
    plain, shaped = (blocks.train_runs([built(*SIX, "steps=20", *extra).run])[0] for extra in ([], MARA[-2:]))
    np.testing.assert_allclose(plain.optimum.objective, shaped.optimum.objective, rtol=1e-14)
    report, p = shaped.rows.report, shaped.final.outcomes
    worth = p.policy @ p.reward - 0.3 * p.policy @ np.log(p.policy / p.reference)
    np.testing.assert_allclose(report.objective[-1], worth, atol=1e-12)


def test_the_typicality_correction_takes_the_bias_back():
    """With infinitely many answers what was recovered is what was put in, and the run ends at the gold reward's optimum."""
    made = built(
        "task=preference/any", "task.pairs=null", "task.typicality=0.5", "reward_shaping=typicality", "penalty.beta=0.25"
    )
    assert made.run.settings.reward_shaping.weight == made.resolved["reward_shaping"]["weight"] == 0.5
    trained = blocks.train_runs([made.run])[0]
    p, gold = np.exp(made.run.task.log_reference[0]), made.run.task.gold[1:]
    weight = p * np.exp(gold / 0.25)
    np.testing.assert_allclose(trained.final.outcomes.policy, weight / weight.sum(), atol=1e-6)
    assert trained.rows.report.regret[-1] > 1e-3
    assert trained.rows.report.gold_regret[-1] <= 1e-6


def test_a_tempered_reference_penalises_and_the_reference_grades():
    policy = end(*SIX, "reference.temperature=2")
    p, reward = np.array([0.4, 0.05, 0.2, 0.2, 0.1, 0.05]), np.array([1, 1.2, 0.9, 0.2, 0, 1])
    weight = p**0.5 * np.exp(reward / 0.3)
    np.testing.assert_allclose(policy, weight / weight.sum(), atol=1e-6)
    trained = blocks.train_runs([built(*SIX, "reference.temperature=2", "steps=5").run])[0]
    assert trained.rows.report.values.kl_pi_ref[0] <= 1e-20  # a run starts at the reference itself


@pytest.mark.parametrize("sampled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_stops_at_the_first_logged_row_beyond_its_budget(sampled, tmp_path):
    algorithm = ["algorithm=rloo", "steps=300", "log_every=5"] if sampled else ["steps=100", "log_every=1"]
    algorithm += ["optimizer.learning_rate=0.02"]
    graded, trained = recorded(tmp_path, *SIX, *algorithm, "stop_kl=0.1")
    path = blocks.train_runs([built(*SIX, *algorithm).run])[0].rows
    kl = path.report.values.kl_pi_ref
    first = int(np.flatnonzero(kl > 0.1)[0])
    assert 0 < first < len(kl) - 1
    assert graded["stopped_at"] == graded["steps"] == int(path.step[first]) == int(trained.state.step)
    np.testing.assert_allclose(graded["kl_pi_ref"], kl[first], rtol=1e-4)
    assert graded["diverged_at"] is None
    assert "stop_kl=0.1" in graded["stopped_reason"]
    assert len(pd.read_csv(tmp_path / "history.csv")) == first + 1


def rows(count: int, seed: int = 0) -> np.ndarray:
    return random_rows(np.random.default_rng(seed), np.ones((count, 7), bool), 0.5)


def by_plain_loop(log_pi: np.ndarray, temperature=None, top_k=None, top_p=None, min_p=None) -> np.ndarray:
    """Decoding as it is defined, a row and a rule at a time."""
    p = np.exp(log_pi)
    if temperature is not None:
        p = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    order = np.argsort(-p, kind="stable")
    if top_k is not None:
        p = np.where(np.isin(np.arange(p.size), order[:top_k]), p, 0.0)
        p /= p.sum()
    if top_p is not None:
        kept, held = [], 0.0
        for v in order:
            if held >= top_p:
                break
            kept.append(v)
            held += p[v]
        p = np.where(np.isin(np.arange(p.size), kept), p, 0.0)
        p /= p.sum()
    if min_p is not None:
        p = np.where(p >= min_p * p.max(), p, 0.0)
        p /= p.sum()
    return p


@pytest.mark.parametrize(
    "rules",
    [{"temperature": 0.5}, {"top_k": 3}, {"top_k": 50}, {"top_p": 0.6}, {"top_p": 1e-9}, {"min_p": 0.2},
     {"temperature": 2.0, "top_k": 5, "top_p": 0.8, "min_p": 0.1}],
    ids=str,
)  # fmt: skip
def test_decoding_keeps_what_its_rules_keep(rules):
    log_pi = rows(40)
    found = policies.decoded(Fixed(jnp.asarray(log_pi), 1), settings.DecodingSettings(**rules)).table()[0]
    np.testing.assert_allclose(np.exp(found), [by_plain_loop(row, **rules) for row in log_pi], atol=1e-12)


def test_a_network_is_decoded_as_the_table_that_it_equals():
    run = built("task=sequence/motif", "task.horizon=2", "task.motifs=[ab]", "policy=gru", "policy.width=4").run
    state = loop.start(jax.tree.map(jnp.asarray, run))  # it starts at the reference
    rules, listed = settings.DecodingSettings(temperature=0.6, top_p=0.8), batch.enumerate_all(run.task.automaton)
    both = (base.cast(state.policy, jnp.float64), run.reference)
    told = [np.asarray(scoring.log_probability(policies.decoded(policy, rules), listed)) for policy in both]
    np.testing.assert_allclose(np.exp(told[0]), np.exp(told[1]), atol=1e-6)
    np.testing.assert_allclose(np.exp(told[0]).sum(), 1.0, rtol=1e-9)


@pytest.mark.slow
def test_the_decoded_policy_is_graded_beside_the_policy(tmp_path):
    graded, trained = recorded(tmp_path, *SIX, "steps=50", "decoding.temperature=0.5", "decoding.top_k=4")
    plain, _ = recorded(tmp_path / "plain", *SIX, "steps=50")
    assert {key: value for key, value in plain.items() if key != "seconds"}.items() <= graded.items()
    assert not any(key.startswith("decoded") for key in plain)
    ends = trained.final.outcomes
    cut = by_plain_loop(np.log(ends.policy), temperature=0.5, top_k=4)
    inside = cut > 0
    expected = {
        "decoded_reward": cut @ ends.reward,
        "decoded_kl_pi_ref": cut[inside] @ np.log(cut[inside] / ends.reference[inside]),
        "decoded_entropy": -cut[inside] @ np.log(cut[inside]),
        "decoded_log_probability": cut[inside] @ np.log(cut[inside]),
        "decoded_log_probability_by_policy": cut[inside] @ np.log(ends.policy[inside]),
    }
    np.testing.assert_allclose([graded[key] for key in expected], list(expected.values()), atol=1e-10)
    portrait = pd.read_csv(tmp_path / "diversity.csv").set_index("metric")
    np.testing.assert_allclose(portrait.loc["entropy", "decoded"], expected["decoded_entropy"], atol=1e-10)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "outcomes.csv")["decoded"], cut, atol=1e-10)
    assert "decoded" not in (tmp_path / "plain" / "diversity.csv").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["decoded_kl_ref_pi"] == "inf"


REFUSED = [
    (["reward_shaping=mara"], "reward_shaping.threshold", "needs a value"),
    (["reward_shaping=mara", "reward_shaping.threshold=5"], "reward_shaping.threshold", "no outcome earns it"),
    (["reward_shaping=mara", "reward_shaping.threshold=0.5", "penalty=pearson"], "reward_shaping", "KL(pi_ref‖pi)"),
    (["task=sequence/grammar", "algorithm=exact", *MARA[-2:]], "algorithm", "mara reads the whole history"),
    (["reward_shaping=typicality"], "reward_shaping.weight", "no preferences"),
    (["reference.temperature=0"], "reference.temperature", "above 0"),
    (["stop_kl=0"], "stop_kl", "above 0"),
    (["decoding.top_k=0"], "decoding.top_k", "at least 1"),
    (["decoding.top_p=1"], "decoding.top_p", "below 1"),
    (["decoding.min_p=-1"], "decoding.min_p", "above 0"),
]


@pytest.mark.parametrize(("overrides", "key", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_is_refused_in_one_line(overrides, key, says):
    with pytest.raises(SettingsError) as refused:
        built(*overrides)
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
