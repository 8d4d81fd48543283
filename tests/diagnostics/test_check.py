"""`rlkl check`: known faults are told apart and correct losses pass, in JAX and, where it is installed, in PyTorch."""

import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import settings
from rlkl.diagnostics.check import candidates, check, expect, measure, worlds
from rlkl.penalties import estimators, expected_gradient
from tests.diagnostics import losses

NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
SLOW_IN_JAX = {  # siblings of others
    "k2, clipped ratio", "k2, sum over tokens", "k2, constant length", "k1 times the ratio", "full KL(pi_ref‖pi)",
    "k1 in the reward, mean baseline", "k3 of the sequence", "k3 of the sequence times the ratio", "no coefficient",
}  # fmt: skip
SLOW_FAULTS_IN_JAX = {
    "sign flipped in the reward", "k1, mean of means", "k1 times the ratio, mean of means", "clamped log-ratio in the reward",
    "swapped, times the ratio", "temperature on one side of the full KL", "standardised without it",
}  # fmt: skip
QUICK = ("bandit", "equal", "unequal", "extreme", "padded_left")


def build(factory, framework):
    if framework == "jax":
        return factory(losses.ops(jnp))
    import torch

    return factory(losses.ops(torch))


@pytest.mark.parametrize(
    ("name", "framework"),
    [pytest.param(name, "jax", marks=pytest.mark.slow if name in SLOW_IN_JAX else ()) for name in losses.CORRECT]
    + [pytest.param(name, "torch", marks=NEEDS_TORCH) for name in losses.CORRECT],
)
def test_a_correct_loss_descends_what_it_should(name, framework):
    expected, factory = losses.CORRECT[name]
    worlds = ("bandit", "unequal", "padded_left") if framework == "jax" else expect.ON_POLICY
    coefficient = None if name == "a penalty alone" else 1.0
    expect.assert_descends(build(factory, framework), expected, coefficient=coefficient, worlds=worlds)


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.CORRECT)
def test_a_correct_loss_passes_in_every_world(name):
    expected, factory = losses.CORRECT[name]
    expect.assert_descends(build(factory, "jax"), expected)


@pytest.mark.parametrize(
    ("name", "framework"),
    [pytest.param(name, "jax", marks=pytest.mark.slow if name in SLOW_FAULTS_IN_JAX else ()) for name in losses.FAULTY]
    + [pytest.param(name, "torch", marks=NEEDS_TORCH) for name in losses.FAULTY],
)
def test_a_fault_is_named(name, framework):
    flag, worlds, factory = losses.FAULTY[name]
    needed = {
        "padding": "padded_right",
        "clamped": "extreme",
        "shifted": "equal",
        "wrong_token": "equal",
        "temperature": "equal",
    }
    report = check.check_loss(build(factory, framework), worlds=[*worlds, "bandit", needed.get(flag, "equal")])
    for world, says in worlds.items():
        row = report.row(world)
        assert says in (row.kind, row.divergence) or says in row.descends, row
    faults = {name for name in report.notes if name in (*expect.FAULTS, "scaled_by_std")}
    assert faults == ({flag} if flag in (*expect.FAULTS, "scaled_by_std") else set())
    assert flag is None or flag in report.notes
    assert report.framework == framework


def test_a_mask_that_is_ignored_and_a_mean_over_padding_are_told_apart():
    notes = {
        name: check.check_loss(build(losses.FAULTY[name][2], "jax"), worlds=["padded_right"]).notes["padding"]
        for name in ("mask ignored", "divided by the padded length")
    }
    assert notes["mask ignored"] == "padding has a gradient: the mask is ignored"
    assert "number of padding columns" in notes["divided by the padded length"]


def gradient_of(world, logits, value):
    """The gradient of a number of the policy's probabilities of all sequences, by central differences."""
    gradient = np.zeros(logits.shape)
    for index in np.ndindex(logits.shape):
        step = np.zeros(logits.shape)
        step[index] = 1e-5
        gradient[index] = (value(logits + step) - value(logits - step)) / 2e-5
    return gradient


@pytest.mark.parametrize("name", ["bandit", "unequal", "sampler"])
def test_the_known_gradients_of_a_world_are_its_finite_differences(name):
    """The probabilities of sequences are multiplied out here, token by token."""
    world = worlds.WORLDS[name]()

    def probability(table):
        p = np.exp(table - np.logaddexp.reduce(table, axis=1, keepdims=True))
        return np.array([np.prod([p[s, v] for s, v in zip(*path, strict=True)]) for path in paths])

    mask = np.asarray(world.batch.mask)
    paths = [(world.states[y][mask[y]], world.batch.tokens[y][mask[y]]) for y in range(len(mask))]
    logits, ref = np.log(world.policy), probability(np.log(world.reference))
    numbers = {
        "KL(pi‖pi_ref)": lambda x: np.sum(probability(x) * np.log(probability(x) / ref)),
        "KL(pi_ref‖pi)": lambda x: np.sum(ref * np.log(ref / probability(x))),
        "χ²(pi‖pi_ref)": lambda x: np.sum((probability(x) - ref) ** 2 / ref),
        "the gradient of E[1/length], no penalty at all": lambda x: np.sum(probability(x) / mask.sum(axis=1)),
    }
    by_name = {each.says: each.columns for each in candidates.candidates(world)}
    for says, number in numbers.items():
        if says in by_name:
            np.testing.assert_allclose(by_name[says][:, 0], gradient_of(world, logits, number).ravel(), atol=1e-8)
    reward = gradient_of(world, logits, lambda x: -np.sum(probability(x) * world.reward))
    np.testing.assert_allclose(world.loss_gradient, reward, atol=1e-8)
    np.testing.assert_allclose(probability(logits).sum(), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", worlds.WORLDS)
def test_the_population_holds_each_sequence_as_often_as_the_sampler_draws_it(name):
    world = worlds.WORLDS[name]()
    share = np.bincount(world.population, minlength=len(world.reward)) / len(world.population)
    np.testing.assert_allclose(share, np.exp(world.sequences.log_sampler.sum(axis=1)), atol=1e-12)
    assert len(world.population) == 64


@pytest.mark.parametrize(
    "estimator", [pytest.param(name, marks=pytest.mark.slow if name in ("abs", "k2") else ()) for name in estimators.REGISTRY]
)
@pytest.mark.parametrize("how", ["reward", "naive", "unbiased"])
def test_a_verdict_is_that_of_rlkl_audit(estimator, how):
    """Every estimator in both placements, with and without the ratio, in the same words as `rlkl audit` has for its own."""
    estimate = estimators.REGISTRY[estimator]

    def in_loss(log_probs, ref_log_probs, mask, beta):
        ratio = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs)) if how == "unbiased" else 1.0
        return beta * jnp.sum(estimate(log_probs - ref_log_probs) * ratio * mask) / len(mask)

    def in_reward(log_probs, ref_log_probs, mask, beta):
        returns = jnp.cumsum((jax.lax.stop_gradient(estimate(log_probs - ref_log_probs)) * mask)[:, ::-1], axis=1)[:, ::-1]
        return beta * jnp.sum(returns * log_probs * mask) / len(mask)

    report = check.check_loss(in_reward if how == "reward" else in_loss, worlds=("bandit", "unequal"))
    weight = expected_gradient.WEIGHTS[estimator, how]
    placement, gradient = ("reward", "naive") if how == "reward" else ("loss", how)
    for world, horizon in (("bandit", 1), ("unequal", 3)):
        penalty = settings.PenaltySettings(
            "kl_pi_ref", estimator=estimator, placement=placement, gradient=gradient, level="token", credit="reward_to_go"
        )
        says, row = expected_gradient.expected_gradient(penalty, horizon).says, report.row(world)
        if weight and len(weight) == 1:
            ((name, factor),) = weight.items()
            assert (row.divergence, round(row.coefficient, 9)) == (name, factor)
            says = says.replace(f"{factor:g} ", "", 1) if factor != 1.0 else says
        assert row.descends.split(":")[0].split(";")[0] in says or says.startswith(row.descends), (row.descends, says)


def group_mean(log_probs, ref_log_probs, rewards, mask, beta):
    """k2 in the loss beside a group's mean as the baseline."""
    advantages = (rewards - rewards.mean())[:, None]
    return jnp.sum((beta * 0.5 * (log_probs - ref_log_probs) ** 2 - advantages * log_probs) * mask) / len(mask)


@pytest.mark.parametrize("size", [2, 4])
def test_a_group_s_mean_as_the_baseline_makes_beta_worth_more(size):
    """The mean holds a G-th of a sample's own reward: its gradient shrinks by (G-1)/G, and the penalty's does not."""
    row = check.check_loss(group_mean, worlds=[f"groups_{size}"]).rows[0]
    np.testing.assert_allclose(row.coefficient, size / (size - 1), rtol=1e-9)
    assert (row.divergence, row.kind, row.flags) == ("kl_pi_ref", "exact", ("group_dependent",))


def test_leave_one_out_is_the_same_in_every_group():
    loss = build(losses.CORRECT["k1 in the reward, leave one out"][1], "jax")
    row = check.check_loss(loss, worlds=["groups_4"]).rows[0]
    np.testing.assert_allclose(row.coefficient, 1.0, rtol=1e-9)
    assert (row.divergence, row.flags) == ("kl_pi_ref", ())


def test_the_groups_of_a_world_are_all_of_its_draws():
    world = worlds.GROUPS["bandit"][0]()
    p = world.policy[0]
    plain: dict[tuple[int, ...], float] = {}
    for draw in itertools.product(range(len(p)), repeat=3):
        plain[tuple(sorted(draw))] = plain.get(tuple(sorted(draw)), 0.0) + np.prod(p[list(draw)])
    listed = {tuple(group): weight for group, weight in measure.groups(world, 3)}
    assert listed.keys() == plain.keys()
    np.testing.assert_allclose([listed[key] for key in plain], list(plain.values()), rtol=1e-12)


def test_weights_make_each_sequence_count_as_often_as_it_is_drawn():
    def loss(log_probs, ref_log_probs, mask, sample_weights, beta):
        return jnp.sum(sample_weights[:, None] * beta * 0.5 * (log_probs - ref_log_probs) ** 2 * mask) / len(mask)

    report = check.check_loss(loss, worlds=["unequal", "weighted"])
    assert report.row("weighted")[1:5] == report.row("unequal")[1:5] or report.row("weighted").kind == "semi"
    np.testing.assert_allclose(report.row("weighted").coefficient, report.row("unequal").coefficient, rtol=1e-9)


def test_what_is_logged_is_named():
    def loss(log_probs, old_log_probs, ref_log_probs, mask, beta):
        u, ratio = log_probs - ref_log_probs, log_probs - old_log_probs
        k3 = jnp.exp(-u) - 1 + u
        mean = lambda x: jnp.sum(x * mask) / jnp.sum(mask)  # noqa: E731
        return beta * mean(k3), {
            "kl": mean(k3), "kl_sum": jnp.sum(u * mask) / len(mask), "k2": mean(u**2) / 2, "penalty": beta * mean(k3),
            "approx_kl": mean(jnp.exp(ratio) - 1 - ratio), "length": jnp.sum(mask) / len(mask), "odd": mean(u**3),
        }  # fmt: skip

    estimates = {metric.name: metric.estimates for metric in check.check_loss(loss, worlds=["bandit"]).metrics}
    own = " on the policy's own samples; the mean of "
    assert estimates["kl"] == f"KL(pi‖pi_ref) per token{own}k3 of log(pi/pi_ref) per token"
    assert estimates["kl_sum"] == f"KL(pi‖pi_ref) per sequence{own}k1 of log(pi/pi_ref) per sequence"
    assert estimates["k2"] == "the mean of k2 of log(pi/pi_ref) per token"
    assert estimates["penalty"].startswith("the coefficient times KL(pi‖pi_ref) per token")
    assert estimates["approx_kl"] == "KL(sampler‖pi) per token"
    assert estimates["length"] == "E[length]"
    assert estimates["odd"] == "no quantity that is known"
