"""The closed forms of the digits' optima against rlkl's solver and a search, and what a run's overrides are called."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from experiments.digits import figure, optima, remedies
from experiments.digits.optima import DIGIT, DIRECTIONS, FACT
from tests.experiments import house


def searched(direction: str, reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """The best policy by a general search over logits."""

    def loss(z):
        log_pi = z - np.logaddexp.reduce(z)
        pi = np.exp(log_pi)
        change = log_pi - np.log(reference)
        return -(pi @ reward - beta * (pi @ change if direction == "kl_pi_ref" else -reference @ change))

    z = minimize(loss, np.log(reference), method="BFGS", options={"gtol": 1e-9}).x
    return np.exp(z - np.logaddexp.reduce(z))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("prompt", [DIGIT, FACT])
def test_optima_are_the_best_policies(direction, prompt):
    reward = prompt.gold + 0.57 * np.log(prompt.reference)
    for beta in (0.2, 1.0):
        best = searched(direction, prompt.reference, reward, beta)
        np.testing.assert_allclose(optima.biased(direction, prompt, 0.57, beta), best, atol=2e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_optimum_of_equal_slopes_sums_to_1(direction):
    """dE[r]/dpi - beta dD/dpi is one number for all digits."""
    reward = DIGIT.gold + np.log(DIGIT.reference)
    pi = optima.optimum(direction, DIGIT.reference, reward, 0.05)
    slope = np.log(pi / DIGIT.reference) if direction == "kl_pi_ref" else -DIGIT.reference / pi
    assert pi.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.ptp(reward - 0.05 * slope) < 1e-9


def test_flattened_is_the_best_under_a_penalty_by_a_raised_reference():
    """MARA's second algorithm, by a search: p, not normalised, has the anchor's mass where the threshold is reached."""
    prompt = optima.Prompt(np.array([0.5, 0.2, 0.3]), np.array([1.0, 1.0, 0.2]))
    raised, reward = np.array([0.5, 0.5, 0.3]), np.array([1.0, 1.0, 0.2])
    found = optima.flattened("kl_ref_pi", prompt, prompt.gold, 0.9, 0.4)
    best = searched("kl_ref_pi", raised, reward, 0.4)
    np.testing.assert_allclose(found, best, atol=1e-5)
    np.testing.assert_allclose(optima.flattened("kl_pi_ref", prompt, prompt.gold, 0.9, 0.4),
                               searched("kl_pi_ref", raised, reward, 0.4), atol=1e-5)  # fmt: skip


def test_every_remedy_is_a_policy_on_either_prompt():
    for direction in DIRECTIONS:
        for remedy in remedies.REMEDIES.values():
            for prompt in (DIGIT, FACT):
                pi = remedy(direction, prompt, 0.57, 0.5)
                assert pi.min() > 0.0 and pi.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "none"),
        ({"reward_shaping": "typicality", "reward_shaping.weight": "0.57"}, "- a log pi_ref"),
        ({"reward_shaping": "typicality", "reward_shaping.weight": "1.07"}, "- (a + beta) log pi_ref"),
    ],
)
def test_a_run_is_called_by_its_remedy(overrides, name):
    assert figure._remedy(pd.Series({f"override.{key}": value for key, value in overrides.items()})) == name


def test_every_claim_is_false_on_an_empty_table():
    table = house.committed("digits")
    assert all(claim.verdict for claim in figure.claims(table))
    assert not any(claim.verdict for claim in figure.claims(table.iloc[:0]))
