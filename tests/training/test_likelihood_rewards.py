"""Rewards that read the policy's log-probabilities: ranks by counting, expected gradients by enumeration of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.config.build import build
from rlkl.errors import SettingsError
from rlkl.policies.tabular import Tabular
from rlkl.rollouts.batch import Batch
from rlkl.training import likelihood_rewards
from tests.training.test_algorithms import expected_gradient

REFERENCE, REWARD = np.array([0.4, 0.1, 0.2, 0.3]), np.array([0.0, 1.0, 1.0, 0.0])
LOGITS = np.array([0.3, -0.4, 0.9, 0.3])  # two of the arms are equally likely
BETA = 0.7


def trained(name: str, weight: float, size: int):
    """The expected gradient of the training loss with respect to the logits, and the policy."""
    groups = {"task": {"name": "bandit/custom", "reward": REWARD.tolist(), "reference": REFERENCE.tolist()}}
    groups |= {"algorithm": {"name": "rloo"}, "penalty": {"beta": BETA}, "reward_shaping": {"name": name, "weight": weight}}
    made = build(groups | {"batch_size": size, "dtype": "float64"})
    policy = Tabular(jnp.asarray(LOGITS)[None, None], jnp.ones((1, 4), bool))
    gradient = expected_gradient(jax.tree.map(jnp.asarray, made.run), policy, size)
    return np.asarray(gradient).ravel(), np.exp(LOGITS) / np.exp(LOGITS).sum()


def ascends(effective: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """The loss gradient of E[effective reward held fixed] - beta KL(pi‖pi_ref) in the logits."""
    coefficient = effective - BETA * np.log(pi / REFERENCE)
    return -pi * (coefficient - pi @ coefficient)


def test_smoothing_adds_its_weight_to_the_reward_of_every_success():
    """The gradient is that of E[r] + w p + w sum over successes of -pi log pi, by central differences of these sums."""
    weight = 0.3
    gradient, pi = trained("smoothing", weight, 2)
    np.testing.assert_allclose(gradient, ascends(REWARD * (1.0 - weight * np.log(pi)), pi), atol=1e-12)

    def objective(logits):
        pi = np.exp(logits) / np.exp(logits).sum()
        kl = pi @ np.log(pi / REFERENCE)
        return (1.0 + weight) * (pi @ REWARD) - weight * (REWARD * pi) @ np.log(pi) - BETA * kl

    h = 1e-5
    slopes = [(objective(LOGITS + h * step) - objective(LOGITS - h * step)) / (2 * h) for step in np.eye(4)]
    np.testing.assert_allclose(gradient, -np.array(slopes), atol=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_the_expected_gradient_of_unlikeliness_is_that_of_ranks(size):
    """A success y loses w (G-1)/G F(y), with F the probability of a less likely answer; and through the others' ranks, which
    are in the baseline, any y gains w/G times the probability of a likelier success. Ties count half."""
    weight = 0.8
    gradient, pi = trained("unlikeliness", weight, size)
    less = np.array([sum(q * ((q < p) + 0.5 * (q == p)) for q in pi) for p in pi])
    more = np.array([sum(q * r * ((q > p) + 0.5 * (q == p)) for q, r in zip(pi, REWARD, strict=True)) for p in pi])
    effective = REWARD * (1.0 - weight * (size - 1) / size * less) + weight / size * more
    np.testing.assert_allclose(gradient, ascends(effective, pi), atol=1e-12)


def test_ranks_are_counted_within_groups_and_ties_share_theirs():
    """Sampled, and as the same samples counted by arm."""
    draw = np.random.default_rng(0)
    arm = draw.integers(0, 4, size=(3, 5))
    log_pi, success = np.array([-1.0, -3.0, -1.0, -2.0]), np.array([1.0, 1.0, 0.0, 1.0])
    expected = np.zeros((3, 5))
    for group, row in enumerate(arm):
        for i, y in enumerate(row):
            others = np.delete(log_pi[row], i)
            rank = (others < log_pi[y]).sum() + 0.5 * (others == log_pi[y]).sum()
            expected[group, i] = -0.4 * success[y] * rank / 5
    ones = np.ones((15, 1), bool)
    batch = Batch(arm.reshape(-1, 1), np.zeros((15, 2), int), ones, np.full(15, 1 / 15), 15, 3)
    flat = arm.ravel()
    sampled = likelihood_rewards.unlikeliness(0.4, jnp.asarray(log_pi[flat]), jnp.asarray(success[flat]), batch)
    np.testing.assert_allclose(sampled, expected.ravel(), atol=1e-14)
    counts = np.stack([np.bincount(row, minlength=4) for row in arm]).ravel()
    counted = batch._replace(tokens=np.tile(np.arange(4), 3)[:, None], mask=(counts > 0)[:, None], weight=counts / 15)
    by_arm = likelihood_rewards.unlikeliness(0.4, jnp.asarray(np.tile(log_pi, 3)), jnp.asarray(np.tile(success, 3)), counted)
    np.testing.assert_allclose(np.asarray(by_arm).reshape(3, 4)[np.arange(3)[:, None], arm], expected, atol=1e-14)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"algorithm": {"name": "exact"}}, "reads the log-probabilities of samples"),
        ({"reward_shaping": {"name": "unlikeliness", "weight": 2.0}}, "from 0 to 1"),
        ({"reward_shaping": {"name": "smoothing"}}, "must be a number"),
        ({"task": {"name": "bandit/random"}}, "two values"),
    ],
    ids=str,
)
def test_what_has_no_such_reward_is_refused(groups, words):
    plain = {"task": {"name": "bandit/prompts"}, "algorithm": {"name": "rloo"}}
    with pytest.raises(SettingsError, match=words):
        build(plain | {"reward_shaping": {"name": "smoothing", "weight": 0.1}} | groups)
