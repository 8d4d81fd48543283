"""The oracle's optima against certificates, a linear program, closed forms and enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize_scalar

from rlkl import divergences
from rlkl.divergences import REGISTRY
from rlkl.exact import Objective, bandit_optimum, optimal_policy
from rlkl.policies import Fixed
from rlkl.tasks import Automaton, Task
from rlkl.tasks import automaton as automata
from tests.helpers import DEFINITIONS, KINKED, PARAMS, random_task, sequence_log_probability, sequences, shortened

SMOOTH = sorted(set(REGISTRY) - KINKED)


def bandits(count: int, seed: int = 0):
    """(reference, reward, beta): 2-64 arms, beta from .01 to 10, a fifth with ties, some with zero-reference arms."""
    draw = np.random.default_rng(seed)
    for i in range(count):
        arms = int(draw.choice([2, 3, 5, 10, 24, 64]))
        p = np.maximum(draw.dirichlet(np.full(arms, draw.choice([0.3, 1.0, 3.0]))), 1e-12)
        reward = draw.normal(size=arms) * draw.choice([0.1, 1.0, 3.0])
        if i % 5 == 0:
            reward = np.round(reward)
        if i % 7 == 0 and arms > 2:
            p[draw.integers(arms)] = 0.0
        yield p / p.sum(), reward, 10 ** draw.uniform(-2, 1)


log = jax.jit(jnp.log)


def fixed(log_ref) -> Fixed:
    return Fixed(log_ref, log_ref.shape[0])


solve = jax.jit(lambda name, *a: bandit_optimum.solve_bandit(REGISTRY[name], PARAMS, *a), static_argnums=0)
by_root = jax.jit(lambda name, *a: bandit_optimum.solve_by_root(REGISTRY[name], PARAMS, *a), static_argnums=0)
gap = jax.jit(lambda name, *a: bandit_optimum.gap(REGISTRY[name], PARAMS, *a), static_argnums=0)
divergence = jax.jit(lambda name, *a: divergences.exact(REGISTRY[name], PARAMS, *a), static_argnums=0)


def objective(name, pi, p, reward, beta):
    return float(np.sum(pi * np.where(pi > 0, reward, 0.0)) - beta * divergence(name, log(pi), log(p)))


def padded(p, reward, beta):
    """The bandit among 64 arms, the further ones not to be taken: so that one compiled program serves all sizes."""
    more = 64 - p.size
    return np.append(p, np.zeros(more)), np.append(reward, np.full(more, -np.inf)), beta


def judge(name: str, count: int, seed: int = 0) -> float:
    worst = 0.0
    for p, reward, beta in (padded(*bandit) for bandit in bandits(count, seed)):
        arguments = log(p), jnp.asarray(reward), jnp.asarray(beta)
        log_pi = solve(name, *arguments)
        assert abs(np.exp(log_pi).sum() - 1.0) <= 1e-12
        scale = max(1.0, abs(objective(name, np.exp(log_pi), p, reward, beta)))
        worst = max(worst, float(gap(name, log_pi, *arguments)) / scale)
    return worst


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_certificate_is_small_at_the_optimum(name):
    assert judge(name, 35) <= 1e-9  # with ties, with arms that the reference never draws, and with both


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_certificate_is_small_at_the_optimum_of_two_thousand_bandits(name):
    assert judge(name, 2000, seed=1) <= 1e-9


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_certificate_bounds_the_regret_and_sees_a_worse_policy(name):
    for p, reward, beta in (padded(*bandit) for bandit in bandits(20, seed=3)):
        best = np.exp(solve(name, log(p), jnp.asarray(reward), jnp.asarray(beta)))
        worse = 0.9 * best + 0.1 * p
        bound = float(gap(name, log(worse), log(p), jnp.asarray(reward), jnp.asarray(beta)))
        regret = objective(name, best, p, reward, beta) - objective(name, worse, p, reward, beta)
        assert regret >= -1e-12
        assert bound >= regret - 1e-9 * max(1.0, abs(bound))
        if np.abs(best - p).max() > 1e-3:
            assert bound > 0.0


@pytest.mark.parametrize("name", [*SMOOTH, "root_pearson"])
def test_certificate_s_gradient_is_that_of_finite_differences(name):
    div = REGISTRY[name]
    for p, reward, beta in (b for b in bandits(12, seed=5) if b[0].min() > 0):
        pi = 0.5 * p + 0.5 * np.random.default_rng(1).dirichlet(np.ones(p.size))
        gradient = np.asarray(bandit_optimum.gradient(div, PARAMS, log(pi), log(p), jnp.asarray(reward), jnp.asarray(beta)))
        towards = np.random.default_rng(0).dirichlet(np.ones(p.size)) - pi
        step = 1e-6
        numeric = (
            objective(name, pi + step * towards, p, reward, beta) - objective(name, pi - step * towards, p, reward, beta)
        ) / (2 * step)
        np.testing.assert_allclose(gradient @ towards, numeric, rtol=1e-5, atol=1e-7)


def test_total_variation_is_the_linear_program_s():
    """max pi.r - beta/2 sum z with z >= |pi - p|, pi a distribution."""
    for p, reward, beta in bandits(100, seed=9):
        n, eye = p.size, np.eye(p.size)
        program = linprog(
            np.concatenate([-reward, np.full(n, 0.5 * beta)]),
            A_ub=np.block([[eye, -eye], [-eye, -eye]]), b_ub=np.concatenate([p, -p]),
            A_eq=np.concatenate([np.ones(n), np.zeros(n)])[None], b_eq=[1.0],
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )  # fmt: skip
        log_p, worth, _ = (jnp.asarray(x) for x in padded(log(p), reward, beta))
        pi = np.exp(solve("total_variation", jnp.where(worth > -jnp.inf, log_p, -jnp.inf), worth, jnp.asarray(beta)))[:n]
        np.testing.assert_allclose(objective("total_variation", pi, p, reward, beta), -program.fun, atol=1e-9)


def test_the_root_s_optimum_is_the_best_of_the_optima_under_its_square():
    """Over policies of one chi-square the reward is what counts, so the optimum is that under Pearson's at some coefficient."""
    seen = []
    for p, reward, beta in (padded(*bandit) for bandit in bandits(10, seed=13)):
        arguments = log(p), jnp.asarray(reward)
        finite = np.where(p > 0.0, reward, 0.0)
        deviation = np.sqrt(p @ (finite - p @ finite) ** 2)
        found = solve("root_pearson", *arguments, jnp.asarray(beta))
        best = objective("root_pearson", np.exp(found), p, reward, beta)

        def loss(log_b, arguments=arguments, bandit=(p, reward, beta)):
            return -objective("root_pearson", np.exp(solve("pearson", *arguments, jnp.asarray(np.exp(log_b)))), *bandit)

        squared = minimize_scalar(loss, bounds=(np.log(1e-4 * beta), np.log(1e3 * max(beta, deviation))), method="bounded")
        assert -squared.fun <= best + 1e-9
        if deviation <= beta:
            np.testing.assert_allclose(np.exp(found), p, rtol=1e-12)
        else:
            np.testing.assert_allclose(best, -squared.fun, atol=1e-4 * (best - p @ finite))
        seen.append(deviation <= beta)
    assert 2 <= sum(seen) <= 8


def closed_forms(p, reward, beta):
    """Theory's table, each with its scalar root found by SciPy in the plainest way."""
    from scipy.optimize import brentq

    top = reward.max()

    def solved(weight, low, high):
        root = brentq(lambda level: np.sum(p * weight(level)) - 1.0, low, high, xtol=1e-15, rtol=1e-15, maxiter=500)
        return p * weight(root)

    tiny = 1e-12
    yield "kl_pi_ref", p * np.exp((reward - top) / beta) / np.sum(p * np.exp((reward - top) / beta))
    yield "kl_ref_pi", solved(lambda x: beta / (x - reward), top + beta * p[reward.argmax()] - tiny, top + beta + tiny)
    yield "pearson", solved(lambda x: np.maximum(1 + (reward - x) / (2 * beta), 0), reward.min() - 9 * beta, top + 9 * beta)
    yield (
        "neyman",
        solved(lambda x: 1 / np.sqrt(1 - (reward - x) / beta), top - beta * (1 - p[reward.argmax()] ** 2) - tiny, top + tiny),
    )
    yield (
        "hellinger",
        solved(
            lambda x: (1 - 2 * (reward - x) / beta) ** -2, top - beta / 2 * (1 - p[reward.argmax()] ** 0.5) - tiny, top + tiny
        ),
    )


@pytest.mark.parametrize("seed", range(10))
def test_optimum_is_theory_s_closed_form(seed):
    draw = np.random.default_rng(seed)
    p, reward, beta = draw.dirichlet(np.ones(6)), draw.normal(size=6), 0.5 + draw.random()
    expectations = list(closed_forms(p, reward, beta))
    p, reward, beta = padded(p, reward, beta)
    for name, expected in expectations:
        log_pi = by_root(name, log(p), jnp.asarray(reward), jnp.asarray(beta))
        np.testing.assert_allclose(np.exp(log_pi)[:6], expected, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", [name for name in SMOOTH if REGISTRY[name].optimum is not None])
def test_a_registered_closed_form_is_the_generic_root(name):
    for p, reward, beta in (padded(*bandit) for bandit in bandits(30, seed=11)):
        arguments = log(p), jnp.asarray(reward), jnp.asarray(beta)
        fast, slow = (np.exp(f(name, *arguments)) for f in (solve, by_root))
        np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_a_zero_reference_arm_takes_mass_only_where_the_slope_at_infinity_is_finite():
    p, reward, beta = np.array([0.6, 0.4, 0.0]), np.array([0.0, 0.2, 3.0]), 0.5
    for name in sorted(REGISTRY):
        pi = np.exp(solve(name, log(p), jnp.asarray(reward), jnp.asarray(beta)))
        infinite = np.isinf(REGISTRY[name].limit("infinity", PARAMS, float))
        assert (pi[2] > 0.01) != infinite, name


def test_mode_swap_of_gx_chen():
    """arXiv 2510.20817, figure 2: both modes weigh the same at (r2 - r1)/(log p1 - log p2)."""
    p = np.exp([-4.05, -5.95])
    p = np.append(p, 1 - p.sum())
    reward, beta = np.array([0.75, 1.0, 0.0]), 0.25 / 1.9
    reverse = solve("kl_pi_ref", log(p), jnp.asarray(reward), jnp.asarray(beta))
    forward = solve("kl_ref_pi", log(p), jnp.asarray(reward), jnp.asarray(beta))
    np.testing.assert_allclose(reverse[0], reverse[1], atol=1e-12)
    assert forward[1] - forward[0] > 1.0  # the winner takes more under KL(pi_ref||pi)


FACTORISED = ["kl_pi_ref", "kl_ref_pi", "hellinger", "pearson", "neyman", "alpha", "jensen_shannon", "kl_chi2"]


def over_all_sequences(seed: int, names) -> None:
    """The optimum pulled back through the automaton is that of the bandit whose arms are all sequences."""
    task = shortened(random_task(np.random.default_rng(seed)))
    automaton, beta = task.automaton, jnp.asarray(0.4)
    log_ref = jnp.broadcast_to(task.log_reference, (automaton.horizon, *task.log_reference.shape))
    found = jax.jit(
        lambda: {name: optimal_policy.solve(Objective(task, fixed(log_ref), REGISTRY[name], PARAMS, beta)) for name in names}
    )()
    p = sequence_log_probability(np.asarray(log_ref), automaton)
    reward = jnp.asarray([task.reward[end] for _, end in sequences(automaton)])
    for name, best in found.items():
        expected = np.exp(solve(name, jnp.asarray(p), reward, beta))
        np.testing.assert_allclose(np.exp(sequence_log_probability(np.asarray(best.log_pi), automaton)), expected, atol=1e-11)
        worth = np.sum(expected * reward) - beta * DEFINITIONS[name](expected, np.exp(p))
        assert abs(best.objective - worth) <= 1e-12 * max(1.0, abs(worth)), name


def tempered(seed: int) -> None:
    """Under KL(pi||pi_ref) with a reward a log pi_ref, the optimum is pi_ref^(1 + a/beta) e^(r/beta) / Z."""
    task = shortened(random_task(np.random.default_rng(seed), typicality=0.6))
    automaton = task.automaton
    log_ref = jnp.broadcast_to(task.log_reference, (automaton.horizon, *task.log_reference.shape))
    best = jax.jit(
        lambda: optimal_policy.solve(Objective(task, fixed(log_ref), REGISTRY["kl_pi_ref"], PARAMS, jnp.asarray(0.4)), True)
    )()
    p = sequence_log_probability(np.asarray(log_ref), automaton)
    logits = (1 + 0.6 / 0.4) * p + np.array([task.reward[end] for _, end in sequences(automaton)]) / 0.4
    expected = np.exp(logits - np.logaddexp.reduce(logits))
    np.testing.assert_allclose(np.exp(sequence_log_probability(np.asarray(best.log_pi), automaton)), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(1))
def test_sequence_optimum_is_the_bandit_s_over_all_sequences(seed):
    over_all_sequences(seed, FACTORISED)


@pytest.mark.parametrize("seed", range(3))
def test_typicality_tempers_the_reference(seed):
    tempered(seed)


@pytest.mark.many
@pytest.mark.parametrize("seed", range(1, 200))
def test_optima_of_two_hundred_automata(seed):
    over_all_sequences(seed, FACTORISED)
    tempered(seed)


@pytest.mark.parametrize("name", ["kl_ref_pi", pytest.param("hellinger", marks=pytest.mark.slow)])
def test_with_typicality_other_optima_are_found_among_listed_sequences_and_nowhere_else(name, monkeypatch):
    task = shortened(random_task(np.random.default_rng(1), typicality=0.6), 300)
    automaton, beta = task.automaton, jnp.asarray(0.4)
    reference = fixed(jnp.broadcast_to(task.log_reference, (automaton.horizon, *task.log_reference.shape)))
    best = jax.jit(lambda: optimal_policy.solve(Objective(task, reference, REGISTRY[name], PARAMS, beta), True))()
    p = sequence_log_probability(np.asarray(reference.table()), automaton)
    reward = np.array([task.reward[end] for _, end in sequences(automaton)]) + 0.6 * p
    gap = bandit_optimum.gap(
        REGISTRY[name],
        PARAMS,
        solve(name, jnp.asarray(p), jnp.asarray(reward), beta),
        jnp.asarray(p),
        jnp.asarray(reward),
        beta,
    )
    assert gap <= 1e-9
    expected = np.exp(solve(name, jnp.asarray(p), jnp.asarray(reward), beta))
    np.testing.assert_allclose(np.sort(np.exp(best.log_listed)), np.sort(expected), atol=1e-12)
    assert optimal_policy.reason(Objective(task, reference, REGISTRY[name])) is None
    monkeypatch.setattr(automata, "MOST_SEQUENCES", 1)
    assert np.isnan(optimal_policy.solve(Objective(task, reference, REGISTRY[name], PARAMS, beta), True).objective)
    assert "depends on the history" in optimal_policy.reason(Objective(task, reference, REGISTRY[name]))


@pytest.mark.parametrize("seed", range(3))
def test_without_a_penalty_the_optimum_is_the_largest_reward(seed):
    task = jax.tree.map(jnp.asarray, random_task(np.random.default_rng(seed)))
    automaton = task.automaton
    log_ref = jnp.broadcast_to(task.log_reference, (automaton.horizon, *task.log_reference.shape))
    best = jax.jit(lambda: optimal_policy.solve(Objective(task, fixed(log_ref), None, PARAMS, jnp.asarray(0.0))))()
    np.testing.assert_allclose(best.objective, task.reward[automaton.outcomes].max(), atol=1e-12)


def test_a_tie_without_a_penalty_is_said():
    task = Task(
        Automaton(np.array([[1, 2, 3]]), 4, 1),
        jnp.asarray([0.0, 1.0, 1.0, 0.0]),
        jnp.log(jnp.full((1, 3), 1 / 3)),
        jnp.asarray(0.0),
        jnp.arange(3.0),
    )
    assert optimal_policy.solve(Objective(task, fixed(task.log_reference[None]), None, PARAMS, jnp.asarray(0.0))).tied


def test_an_end_state_that_the_reference_never_reaches_is_refused():
    """Over several tokens a lost end state has no h-transform: the objective is NaN, never a wrong number."""
    automaton = Automaton(np.array([[1, 1], [2, 3]]), 4, 2)
    log_ref = jnp.log(jnp.asarray([[[0.5, 0.5], [1.0, 0.0]]] * 2))
    task = Task(automaton, jnp.asarray([0.0, 0.0, 0.0, 5.0]), log_ref[0], jnp.asarray(0.0), jnp.arange(2.0))
    assert np.isnan(
        optimal_policy.solve(Objective(task, fixed(log_ref), REGISTRY["kl_ref_pi"], PARAMS, jnp.asarray(0.5))).objective
    )
    assert np.isfinite(
        optimal_policy.solve(Objective(task, fixed(log_ref), REGISTRY["kl_pi_ref"], PARAMS, jnp.asarray(0.5))).objective
    )
