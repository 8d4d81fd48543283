"""Controllers: their updates by hand, and the KL that they bring training to."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import errors, settings
from rlkl.config.build import build
from rlkl.divergences import REGISTRY
from rlkl.exact import bandit_optimum
from rlkl.penalties import controllers
from rlkl.training import blocks
from tests.helpers import PARAMS


def moved(controller: str, kl: float, sequences: int | None = 64, **rest) -> float:
    chosen = settings.PenaltySettings(controller=controller, target_kl=0.5, **rest)
    return float(controllers.after(chosen, jnp.asarray(0.1), jnp.asarray(kl), sequences))


def test_adaptive_is_ziegler_s_update():
    for kl, error in ((0.5, 0.0), (0.55, 0.1), (5.0, 0.2), (0.0, -0.2), (0.45, -0.1)):
        np.testing.assert_allclose(moved("adaptive", kl), 0.1 * (1 + error * 64 / 10_000), rtol=1e-12)
    np.testing.assert_allclose(moved("adaptive", 5.0, None, horizon=100.0), 0.1 * 1.002, rtol=1e-12)


def test_lagrangian_ascends_where_the_budget_is_overdrawn():
    np.testing.assert_allclose(moved("lagrangian", 0.6), 0.1 * np.exp(0.005 * 0.2), rtol=1e-12)
    np.testing.assert_allclose(moved("lagrangian", 50.0), 0.1 * np.exp(0.005), rtol=1e-12)
    np.testing.assert_allclose(moved("lagrangian", 0.25, controller_rate=0.1), 0.1 * np.exp(-0.05), rtol=1e-12)
    assert moved("fixed", 50.0) == 0.1


def trained(controller: str, target: float, task: str = "bandit/random", algorithm: str = "rloo", seed: int = 0, **rest):
    penalty = {"controller": controller, "target_kl": target}
    plain = {"task": {"name": task}, "algorithm": {"name": algorithm}, "penalty": penalty, "seed": seed}
    run = build(plain | rest).run
    return run, blocks.train_runs([run])[0]


def late(rows) -> float:
    """The mean exact KL of the last tenth of training."""
    return float(np.mean(rows.report.values.kl_pi_ref[-len(rows.step) // 10 :]))


@pytest.mark.parametrize("controller", ["adaptive", "lagrangian"])
def test_a_controller_brings_the_kl_to_its_target_and_is_graded_at_its_last_coefficient(controller):
    run, done = trained(controller, 0.3)
    np.testing.assert_allclose(late(done.rows), 0.3, rtol=0.05)
    beta = float(done.rows.beta[-1])
    assert abs(beta - 0.1) > 0.01
    arms = run.task.reward[1:]
    log_ref = jnp.asarray(run.task.log_reference[0])
    best = bandit_optimum.solve_bandit(REGISTRY["kl_pi_ref"], PARAMS, log_ref, jnp.asarray(arms), jnp.asarray(beta))
    p, ref = np.exp(best), np.exp(run.task.log_reference[0])
    worth = np.sum(p * arms) - beta * np.sum(p * np.log(p / ref))
    np.testing.assert_allclose(done.optimum.objective, worth, rtol=1e-9)
    np.testing.assert_allclose(done.rows.report.objective[-1] + done.rows.report.regret[-1], worth, rtol=1e-9)


@pytest.mark.slow
def test_exact_gradients_are_steered_too():
    _, done = trained("lagrangian", 0.3, algorithm="exact")
    np.testing.assert_allclose(late(done.rows), 0.3, rtol=0.05)


def test_without_a_controller_the_coefficient_stays():
    _, done = trained("fixed", None, steps=30)
    assert (done.rows.beta == 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["adaptive", "lagrangian"])
@pytest.mark.parametrize("target", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("task", ["bandit/zipf", "sequence/grammar"])
def test_default_gains_hold_on_words_and_sentences(task, target, controller):
    for seed in range(3):
        _, done = trained(controller, target, task, seed=seed)
        np.testing.assert_allclose(late(done.rows), target, rtol=0.05)


@pytest.mark.parametrize(
    ("chosen", "key"),
    [
        ({"controller": "adaptive"}, "penalty.target_kl"),
        ({"controller": "lagrangian", "target_kl": 0}, "penalty.target_kl"),
        ({"controller": "pid"}, "penalty.controller"),
        ({"divergence": "none", "beta": 0, "controller": "adaptive", "target_kl": 1}, "penalty.controller"),
    ],
)
def test_a_controller_that_cannot_steer_is_refused(chosen, key):
    with pytest.raises(errors.SettingsError) as refused:
        build({"task": {"name": "bandit/random"}, "penalty": chosen})
    assert refused.value.key == key
