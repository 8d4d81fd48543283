"""The path of policy gradient without a penalty against its differential equation, the least KL against a search, and the
network's loss and measures against plain sums."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from experiments.razor import figure, forgetting, network, one_prompt
from experiments.razor.one_prompt import CORRECT, START
from tests.experiments import house


@pytest.fixture(scope="module")
def flow():
    """Policies on dz/dt = pi (r - p), by numerical integration."""

    def slope(_, z):
        pi = np.exp(z - np.logaddexp.reduce(z))
        return pi * (CORRECT - pi @ CORRECT)

    found = solve_ivp(slope, (0, 3e3), np.log(START), "LSODA", [1.0, 10.0, 100.0, 3e3], rtol=1e-11, atol=1e-13)
    pi = np.exp(found.y.T)
    return pi / pi.sum(axis=1, keepdims=True)


def test_the_closed_form_is_the_path_of_policy_gradient(flow):
    success = flow[:, CORRECT].sum(axis=1)
    starts = np.broadcast_to(START, flow.shape)
    found = one_prompt.gradient_path(starts, np.broadcast_to(CORRECT, flow.shape), success)
    np.testing.assert_allclose(found, flow, rtol=1e-6)
    assert found[-1].argmax() == 0 and success[-1] > 0.999


def test_adam_keeps_proportions_until_gradients_are_small_beside_eps():
    starts, correct = one_prompt.random_starts(3, 8, 3, 1)
    for eps, alike in ((0.0, True), (1e-2, False)):
        reached, last = one_prompt.adam(starts, correct, 0.05, 400, eps)
        assert (last[:, :3].sum(axis=1) > 0.99).all()
        share, before = (pi[:, :3] / pi[:, :3].sum(axis=1, keepdims=True) for pi in (reached, starts))
        assert np.allclose(share, before, atol=1e-9) == alike


def test_a_penalty_of_nearly_zero_takes_the_same_path(flow):
    for direction in ("kl_pi_ref", "kl_ref_pi"):
        found = one_prompt.penalised_path(1e-9, direction, np.array([0.0, 1.0, 10.0, 100.0, 3e3]))
        np.testing.assert_allclose(found[0], START, rtol=1e-12)
        np.testing.assert_allclose(found[1:], flow, rtol=1e-4)


@pytest.mark.parametrize("direction", ["kl_pi_ref", "kl_ref_pi"])
def test_a_penalised_path_ends_at_the_optimum(direction):
    beta = 0.3
    end = one_prompt.penalised_path(beta, direction, np.array([0.0, 1e5]))[-1]
    if direction == "kl_pi_ref":
        best = START * np.exp(CORRECT / beta)
    else:  # beta pi_0/(L - r): L by plain bisection
        low, high = 1.0 + 1e-12, 1.0 + beta
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if (beta * START / (middle - CORRECT)).sum() > 1.0 else (low, middle)
        best = beta * START / (low - CORRECT)
    np.testing.assert_allclose(end, best / best.sum(), rtol=1e-5)


def test_no_policy_of_the_same_success_has_less_kl():
    for success in (0.3, 0.9):

        def constrained(z, success=success):
            pi = np.exp(z - z.max())
            right, wrong = (np.where(mask, pi, 0.0) / pi[mask].sum() for mask in (CORRECT, ~CORRECT))
            return float(one_prompt.kl(success * right + (1 - success) * wrong, START))

        searched = minimize(constrained, np.zeros(len(START)), method="BFGS").fun
        assert float(one_prompt.least(np.array(success), START[CORRECT].sum())) == pytest.approx(searched, abs=1e-6)
    projection = one_prompt.conditioned(START, CORRECT)
    assert float(one_prompt.kl(projection, START)) == pytest.approx(-math.log(START[CORRECT].sum()), abs=1e-12)


def test_filtered_samples_by_listing_them():
    """Two samples of three correct answers: nine pairs."""
    share = START[CORRECT] / START[CORRECT].sum()
    expected = 0.0
    for i in range(3):
        for j in range(3):
            q = (np.eye(3)[i] + np.eye(3)[j]) / 2
            expected += share[i] * share[j] * sum(x * math.log(x / y) for x, y in zip(q, START[CORRECT], strict=True) if x > 0)
    assert one_prompt.filtered_samples(2) == pytest.approx(expected, abs=1e-12)


def test_the_loss_of_the_network_is_its_five_terms():
    generator = np.random.default_rng(1)
    shapes = {"in": (network.FEATURES, network.WIDTH), "bias": (network.WIDTH,), "out": (network.WIDTH, 8), "offset": (8,)}
    parameters = {name: jnp.asarray(generator.normal(size=shape)) for name, shape in shapes.items()}
    features = generator.normal(size=(network.PROMPTS, network.FEATURES))
    log_start = np.log(generator.dirichlet(np.ones(8), network.PROMPTS))
    correct = generator.random((network.PROMPTS, 8)) < 0.4
    problem = network.Problem(jnp.asarray(features), parameters, jnp.asarray(log_start), jnp.asarray(correct, float))
    answers = generator.dirichlet(np.ones(8))
    method = network.Method(*(jnp.asarray(x) for x in (0.7, 0.3, 0.2, 0.5, 0.4)), jnp.asarray(answers))
    given = {name: np.asarray(value) for name, value in parameters.items()}
    z = np.tanh(features @ given["in"] + given["bias"]) @ given["out"] + given["offset"]
    pi, start = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), np.exp(log_start)
    expected = -0.7 * pi[0][correct[0]].sum() - 0.5 * answers @ np.log(pi[0])
    expected += 0.3 * pi[0] @ np.log(pi[0] / start[0]) + 0.2 * start[0] @ np.log(start[0] / pi[0])
    expected += 0.4 * np.mean([p @ np.log(p / q) for p, q in zip(start[1:], pi[1:], strict=True)])
    assert float(network.loss(parameters, problem, method)) == pytest.approx(expected, rel=1e-9)
    success, onward, back, forgetting_, _, lost = (float(x) for x in network.measures(parameters, problem))
    assert success == pytest.approx(pi[0][correct[0]].sum(), rel=1e-9)
    assert (onward, back) == pytest.approx((pi[0] @ np.log(pi[0] / start[0]), start[0] @ np.log(start[0] / pi[0])), rel=1e-9)
    assert forgetting_ == pytest.approx(np.mean([p @ np.log(p / q) for p, q in zip(start[1:], pi[1:], strict=True)]), rel=1e-9)
    assert lost == pytest.approx(np.mean([(start[i] - pi[i])[correct[i]].sum() for i in range(1, 9)]), rel=1e-9)
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float64, parameters))


def test_places_are_interpolated_between_checkpoints():
    path = np.zeros((4, 6))
    path[:, 0], path[:, 2], path[:, 3] = [0.2, 0.6, 0.8, 0.85], [0.0, 0.5, 1.5, 2.0], [0.0, 1.0, 3.0, 4.0]
    found = forgetting.places(path)
    assert set(found) == {"success 0.5", "success 0.8", "KL 1", "end"}
    assert found["success 0.5"][3] == pytest.approx(0.75) and found["KL 1"][3] == pytest.approx(2.0)
    assert found["success 0.8"][3] == pytest.approx(3.0) and found["end"][3] == 4.0


def test_every_claim_is_false_on_an_empty_table():
    table = house.committed("razor")
    assert all(claim.verdict for claim in figure.claims(table))
    assert not any(claim.verdict for claim in figure.claims(table.iloc[:0]))
