"""The experiments on where variety goes: what they compute, against closed forms and hand-worked steps."""

import numpy as np
import pandas as pd
import pytest

from experiments.harness import build


def test_exact_paths_start_where_they_are_told_and_descend():
    from experiments.flat_reward import paths

    rows = paths.follow("sgd", "kl_pi_ref", (0, 50, 100)).set_index(["start", "step"])
    p = np.array(paths.REFERENCE)
    np.testing.assert_allclose(rows.loc[("uniform", 0), "kl_pi_ref"], -np.log(6) - np.log(p).mean(), rtol=1e-12)
    without = np.where(np.arange(6) == 0, p * np.exp(-5.0), p)
    without /= without.sum()
    np.testing.assert_allclose(rows.loc[("lost 5", 0), "kl_ref_pi"], p @ np.log(p / without), rtol=1e-12)
    advantage = np.log(without / p) - without @ np.log(without / p)
    np.testing.assert_allclose(rows.loc[("lost 5", 0), "gradient_norm"], np.linalg.norm(without * advantage), rtol=1e-9)
    assert rows.loc[("lost 5", 100), "kl_pi_ref"] < rows.loc[("lost 5", 50), "kl_pi_ref"] < rows.loc[("lost 5", 0), "kl_pi_ref"]


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_the_tilted_reference_is_the_oracles_optimum(beta):
    from experiments.harness import optima
    from rlkl import tasks

    task = tasks.build("bandit/random").task
    expected = optima.over_beta(task, "kl_pi_ref", np.array([beta]))
    found = optima.tilted(task.log_reference[0], task.reward[1:], np.array([beta]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_bandit_that_is_trained_on_is_the_first_of_the_curves():
    from experiments.over_optimisation import curves
    from rlkl.config.compose import compose

    for overrides in build.sweeps("over_optimisation"):
        given = {entry.partition("=")[0]: entry.partition("=")[2] for entry in overrides}
        base = compose([f"{key}={value.split(',')[0] if '[' not in value else value}" for key, value in given.items()])
        assert {key: base["task"]["base"][key] for key in curves.base(0)} == curves.base(0)


def test_the_fitted_shapes_are_recovered():
    from experiments.over_optimisation.figure import fitted

    d = np.linspace(0.05, 3.0, 40)
    for method, gold in (("best of n", d * (0.5 - 0.2 * d)), ("optimum", d * (0.5 - 0.2 * np.log(d)))):
        coefficients, explained = fitted(method, pd.DataFrame({"d": d, "gold": gold}))
        np.testing.assert_allclose(coefficients, [0.5, 0.2], rtol=1e-9)
        np.testing.assert_allclose(explained, 1.0)


def test_the_most_reward_of_a_kl_has_that_kl():
    from experiments.best_of_n import figure

    p, reward, beta = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 1.0]), 0.4
    pi = p * np.exp(reward / beta) / (p @ np.exp(reward / beta))
    np.testing.assert_allclose(figure.most_reward(p, reward, np.array([pi @ np.log(pi / p)])), [pi @ reward], rtol=1e-9)


def test_a_step_of_three_arms_is_the_one_worked_out_by_hand():
    import jax
    import jax.numpy as jnp

    from experiments.entropy_mechanism import steps

    logits, reward = np.array([0.3, -0.2, 0.5]), np.array([1.0, 0.0, -1.0])
    pi = np.exp(logits) / np.exp(logits).sum()
    advantage = reward - pi @ reward
    for kind, favoured in (("gradient", pi * advantage), ("natural", advantage)):
        with jax.enable_x64(True):
            covariance, measured = steps.CHANGES[kind](jnp.asarray(logits), jnp.asarray(reward))
        expected = pi @ (np.log(pi) * favoured) - (pi @ np.log(pi)) * (pi @ favoured)
        np.testing.assert_allclose(covariance, expected, rtol=1e-12)
        moved = np.exp(logits + steps.STEPS[0] * favoured)
        moved /= moved.sum()
        np.testing.assert_allclose(measured[0], pi @ np.log(pi) - moved @ np.log(moved), rtol=1e-9)
