"""A penalty whose reference is not the graded one: uniform, the start, or the policy itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.config.build import build
from rlkl.errors import SettingsError
from rlkl.training import blocks, describe, loop, spec

REWARD, REFERENCE = [1.0, 0.2, 0.5, 0.0], [0.1, 0.4, 0.3, 0.2]


def built(reference=REFERENCE, reward=REWARD, algorithm="exact", init="uniform", penalising="graded", **groups) -> spec.Run:
    config = {
        "task": {"name": "bandit/custom", "reward": reward, "reference": reference}, "algorithm": {"name": algorithm},
        "policy": {"init": init}, "reference": {"penalising": penalising}, "dtype": "float64", "steps": 30,
    }  # fmt: skip
    return build(config | groups).run


def trained(run: spec.Run, steps: int = 10) -> np.ndarray:
    """The logits after some steps."""
    run = jax.tree.map(jnp.asarray, run)
    return np.asarray(jax.jit(lambda given: loop.steps(given, loop.start(given), steps).policy.logits)(run))


@pytest.mark.parametrize("algorithm", ["exact", "rloo"])
def test_against_the_uniform_policy_it_is_the_penalty_of_a_uniform_reference(algorithm):
    other = built(algorithm=algorithm, penalising="uniform")
    uniform = built(reference=[0.25] * 4, algorithm=algorithm)
    np.testing.assert_allclose(trained(other), trained(uniform), atol=1e-12)
    assert np.abs(trained(other) - trained(built(algorithm=algorithm))).max() > 1e-3


def test_training_against_uniform_ends_at_its_optimum_and_is_graded_against_the_reference():
    run = built(penalising="uniform", steps=2000, penalty={"beta": 0.5})
    done = blocks.train_runs([run])[0]
    target = np.exp(np.array(REWARD) / 0.5)
    pi = target / target.sum()
    np.testing.assert_allclose(np.exp(done.state.policy.table()[0, 0]), pi, atol=1e-4)
    values = done.rows.report.values
    np.testing.assert_allclose(values.kl_pi_ref[-1], np.sum(pi * np.log(pi / np.array(REFERENCE))), rtol=1e-3)


@pytest.mark.parametrize("algorithm", ["exact", "rloo"])
def test_against_the_policy_itself_it_is_no_penalty(algorithm):
    other = built(algorithm=algorithm, penalising="policy", init="reference")
    none = built(algorithm=algorithm, init="reference", penalty={"divergence": "none", "beta": 0.0})
    np.testing.assert_allclose(trained(other), trained(none), atol=1e-10)


def test_against_the_start_the_policy_stays_there_without_a_reward():
    flat = [0.0] * 4
    stays, leaves = (built(reward=flat, penalising=penalising) for penalising in ("start", "graded"))
    np.testing.assert_allclose(trained(stays), 0.0, atol=1e-12)
    assert np.abs(trained(leaves)).max() > 0.1
    done = blocks.train_runs([built(penalising="start", steps=40)])[0]
    log_pi = np.asarray(done.state.policy.table())[0, 0]
    np.testing.assert_allclose(done.rows.kl_pi_anchor[-1], np.sum(np.exp(log_pi) * (log_pi - np.log(0.25))), rtol=1e-9)


def test_a_run_says_which_reference_penalises():
    for penalising, says, kind in (
        ("uniform", "KL(pi‖uniform)", "other"),
        ("start", "KL(pi‖pi_0)", "other"),
        ("policy", "nothing: its expected gradient is zero", "inert"),
        ("graded", "KL(pi‖pi_ref)", "exact"),
    ):
        run = built(penalising=penalising)
        assert (describe.descends(run).says, describe.descends(run).kind) == (says, kind)
        assert len(describe.caveats(run)) == (penalising != "graded")


@pytest.mark.parametrize(
    "groups",
    [
        {"penalising": "start", "init": "reference"},
        {"penalising": "uniform", "reference": [0.25] * 4},
        {"penalising": "policy", "penalty": {"divergence": "none", "beta": 0.0}},
        {"penalising": "base"},
    ],
)
def test_what_is_no_other_reference_is_refused(groups):
    with pytest.raises(SettingsError) as refused:
        built(**groups)
    assert refused.value.key == "reference.penalising"


@pytest.mark.parametrize("moved", [{"update": "ema"}, {"temperature": 2.0}])
def test_another_reference_neither_moves_nor_is_tempered(moved):
    with pytest.raises(SettingsError, match=r"reference\.penalising"):
        build({"task": {"name": "bandit/random"}, "reference": {"penalising": "uniform", **moved}})
