"""Extremes of the coefficient and of log-ratios: against 60-digit arithmetic, against simple policies, against closed forms."""

import decimal
import math
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import divergences, errors, exact, settings
from rlkl.config.build import build
from rlkl.divergences import REGISTRY, Params
from rlkl.exact import Objective, bandit_optimum, optimal_policy
from rlkl.penalties import controllers
from rlkl.policies import Fixed
from rlkl.runs.folder import summary
from rlkl.training import blocks
from tests.helpers import PARAMS, POWERS, drawn, random_task, sequence_log_probability, sequences, shortened

BETAS = (*settings.BETA_LIMITS, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 1e3, 1e6, 1e9)
FAR = (-2000.0, -800.0, -300.0, -30.0, -1.0, -0.3, -1e-3, -1e-7, 1e-7, 1e-2, 0.9, 1.1, 5.0, 300.0, 560.0, 720.0, 2000.0, 1e5)


def generator(name: str, t: Decimal, a: Decimal) -> Decimal:
    """f(t) as THEORY's table has it."""
    kl, dual = t * t.ln() - t + 1, t - 1 - t.ln()
    return {
        "kl_pi_ref": lambda: kl,
        "kl_ref_pi": lambda: dual,
        "mixed": lambda: (kl + dual) / 2,
        "alpha": lambda: (t**a - a * t - 1 + a) / (a * (a - 1)),
        "jensen_shannon": lambda: (t * (2 * t / (1 + t)).ln() + (2 / (1 + t)).ln()) / 2,
        "hellinger": lambda: (t.sqrt() - 1) ** 2 / 2,
        "pearson": lambda: (t - 1) ** 2,
        "root_pearson": lambda: (t - 1) ** 2,  # before the root
        "kl_chi2": lambda: kl + (t - 1) ** 2 / 2,
        "neyman": lambda: (t - 1) ** 2 / t,
        "total_variation": lambda: abs(t - 1) / 2,
    }[name]()


ALPHAS = ("-3", "0.3", "0.5", "0.501", "0.999", "1.0001", "1.5", "2", "5")
CASES = [(name, alpha) for name in sorted(REGISTRY) for alpha in (ALPHAS if name == "alpha" else ("0.5",))]


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_a_divergence_is_exact_near_zero_and_where_the_ratio_overflows(name, alpha):
    params = Params(jnp.asarray(float(alpha)), (jnp.asarray(0.5), jnp.asarray(0.5)))
    of = jax.jit(jax.value_and_grad(lambda log_pi, log_ref: divergences.exact(REGISTRY[name], params, log_pi, log_ref)))
    with decimal.localcontext(prec=60, Emin=-(10**8), Emax=10**8):
        for u in FAR:
            log_pi = -0.5 if u > 0 else -0.5 + u
            log_ref = log_pi - u
            value, gradient = of(jnp.asarray([log_pi]), jnp.asarray([log_ref]))
            t = (Decimal(log_pi) - Decimal(log_ref)).exp()
            weighted = Decimal(log_ref).exp() * generator(name, t, Decimal(alpha))
            right = float(weighted) if weighted < Decimal("1e308") else math.inf
            right = math.sqrt(right) if REGISTRY[name].root else right
            assert float(value) == pytest.approx(right, rel=1e-6, abs=1e-300), u
            assert not np.isnan(gradient).any(), u


def worth(div, params, log_pi, log_ref, reward, beta):
    d = divergences.exact(div, params, log_pi, log_ref)
    return jnp.sum(jnp.where(log_pi > -jnp.inf, jnp.exp(log_pi) * reward, 0.0)) - jnp.where(d == 0.0, 0.0, beta * d)


def simple_policies(log_ref: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """The reference, the best arms that it takes, and mixtures of the two."""
    best = np.where(reward == reward[np.isfinite(log_ref)].max(), log_ref, -np.inf)
    best = best - np.logaddexp.reduce(best)
    mixed = [(math.log(w), math.log1p(-w)) for w in (1e-100, 1e-12, 1e-6, 1e-3, 0.1, 0.5)]
    pairs = [pair for a, b in mixed for pair in ((a, b), (b, a))]
    return np.stack([log_ref, best, *(np.logaddexp(a + log_ref, b + best) for a, b in pairs)])


OTHERS = [pytest.param("alpha", alpha, marks=pytest.mark.slow) for alpha in ("1", "2")]


@pytest.mark.parametrize(("name", "alpha"), [*((name, "0.5") for name in sorted(REGISTRY)), *OTHERS])
def test_no_simple_policy_beats_an_optimum_at_any_coefficient(name, alpha):
    """An optimum that rounding or overflow made wrong is beaten, at small beta by the best arms, at large by the reference."""
    div, params, draw = REGISTRY[name], Params(jnp.asarray(float(alpha))), np.random.default_rng(0)

    @jax.jit
    def solved(log_ref, reward, beta, others):
        best = bandit_optimum.solve_bandit(div, params, log_ref, reward, beta)
        value = lambda log_pi: worth(div, params, log_pi, log_ref, reward, beta)  # noqa: E731
        return best, value(best), jax.vmap(value)(others)

    for case in range(8):
        ref = np.maximum(draw.dirichlet(np.full(6, draw.choice([0.05, 0.3, 1.0]))), 1e-300)
        ref[0] *= case % 4 != 3
        reward = draw.normal(size=6)
        reward[1] = reward.max() if case % 4 == 1 else reward[1]
        with np.errstate(divide="ignore"):
            log_ref = np.log(ref / ref.sum())
        for beta in BETAS:
            given = (jnp.asarray(x) for x in (log_ref, reward, beta, simple_policies(log_ref, reward)))
            best, value, others = solved(*given)
            assert np.exp(best).sum() == pytest.approx(1.0, abs=1e-9)
            assert np.nanmax(others) <= value + 1e-9, (beta, case)


def test_at_a_vanishing_coefficient_the_optimum_is_the_reference_on_the_best_sequences():
    for seed in range(2):
        task = shortened(random_task(np.random.default_rng(seed), 0.5 * (seed % 2)))
        log_ref = np.broadcast_to(task.log_reference, (task.automaton.horizon, *task.log_reference.shape))
        log_p = sequence_log_probability(log_ref, task.automaton)
        reward = np.array([task.reward[end] for _, end in sequences(task.automaton)]) + float(task.typicality) * log_p
        best = np.where(reward >= reward.max() - 1e-12, log_p, -np.inf)
        beta = jnp.asarray(settings.BETA_LIMITS[0])
        fixed = Fixed(jnp.asarray(task.log_reference), task.automaton.horizon)
        solved = optimal_policy.solve(Objective(task, fixed, REGISTRY["kl_pi_ref"], PARAMS, beta), bool(seed % 2))
        found = sequence_log_probability(np.asarray(solved.log_pi), task.automaton)
        np.testing.assert_allclose(np.exp(found), np.exp(best - np.logaddexp.reduce(best)), atol=1e-9)
        np.testing.assert_allclose(solved.objective, reward.max(), atol=1e-9)


@pytest.mark.parametrize("name", POWERS)
def test_a_small_divergence_of_sequences_keeps_its_digits(name):
    """Of a policy 1e-9 from its reference D is about 1e-18: the sum of pi^a pi_ref^(1-a), less 1, would round it off."""
    task, log_pi, log_ref = drawn(3)
    share = 1e-9
    near = np.where(np.isfinite(log_ref), np.logaddexp(log_ref + math.log1p(-share), log_pi + math.log(share)), -np.inf)
    value = exact.sequence_divergence(task.automaton, REGISTRY[name], PARAMS, jnp.asarray(near), jnp.asarray(log_ref))
    with np.errstate(invalid="ignore"):  # to first order pi(y)/pi_ref(y) - 1 is the sum of its tokens'
        ratio = np.where(np.isfinite(log_ref), share * np.expm1(log_pi - log_ref), 0.0)
    ref = np.exp(sequence_log_probability(log_ref, task.automaton))
    variance = np.sum(ref * np.square(sequence_log_probability(ratio, task.automaton)))
    curvature = float(jax.grad(lambda u: REGISTRY[name].both(u, PARAMS)[1])(jnp.zeros(())))
    np.testing.assert_allclose(value, 0.5 * curvature * variance, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "name"), [(0.0, "kl_ref_pi"), (1.0, "kl_pi_ref")])
def test_alpha_s_limits_are_both_kls_over_sequences_too(alpha, name):
    task, log_pi, log_ref = drawn(3)
    tables = (jnp.asarray(log_pi), jnp.asarray(log_ref))
    value = exact.sequence_divergence(task.automaton, REGISTRY["alpha"], Params(jnp.asarray(alpha)), *tables)
    np.testing.assert_allclose(value, exact.sequence_divergence(task.automaton, REGISTRY[name], PARAMS, *tables), rtol=1e-12)


@pytest.mark.parametrize("controller", ["adaptive", "lagrangian"])
@pytest.mark.parametrize("sequences_a_step", [None, 2, 64, 4096])
def test_a_steered_coefficient_stays_positive_and_finite(controller, sequences_a_step):
    horizon = 1.001 * controllers.least_horizon(sequences_a_step)
    chosen = settings.PenaltySettings(controller=controller, target_kl=0.5, horizon=horizon, controller_rate=50.0)
    for kl in (0.0, 0.49, 0.51, 1e6):
        beta = jnp.asarray(0.1, jnp.float32)
        for _ in range(200):
            beta = controllers.after(chosen, beta, jnp.asarray(kl, jnp.float32), sequences_a_step)
            assert settings.BETA_LIMITS[0] * 0.999 <= beta <= settings.BETA_LIMITS[1] * 1.001


def test_a_target_out_of_reach_is_graded_against_a_right_optimum():
    steered = {"controller": "lagrangian", "target_kl": 10.0, "controller_rate": 5.0}
    plain = {"task": {"name": "bandit/random"}, "algorithm": {"name": "rloo"}, "penalty": steered, "steps": 60, "log_every": 1}
    run = build(plain).run
    rows = blocks.train_runs([run])[0].rows
    assert rows.beta[-1] == pytest.approx(settings.BETA_LIMITS[0])
    assert (rows.report.regret >= -1e-9).all()
    np.testing.assert_allclose(rows.report.objective[-1] + rows.report.regret[-1], run.task.reward[1:].max(), atol=1e-6)
    assert np.isfinite(rows.report.kl_pi_optimum).all()


STEERED = {"controller": "adaptive", "target_kl": 1.0}


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        ({"penalty": {"beta": 1e-310}}, "penalty.beta"),
        ({"penalty": {"beta": 1e13}}, "penalty.beta"),
        ({"penalty": {"controller": "linear", "beta_end": 1e-40}}, "penalty.beta_end"),
        ({"penalty": STEERED | {"horizon": 0.2}}, "penalty.horizon"),
        ({"algorithm": {"name": "rloo"}, "batch_size": 1024, "penalty": STEERED | {"horizon": 204.0}}, "penalty.horizon"),
    ],
)
def test_a_coefficient_that_cannot_be_graded_or_steered_is_refused(plain, key):
    with pytest.raises(errors.SettingsError) as refused:
        build({"task": {"name": "bandit/random"}, **plain})
    assert refused.value.key == key


WRONG = """
from rlkl.divergences import kl_pi_ref, register

stay = lambda log_ref, reward, beta, params: log_ref
register("mine", zero=1.0, infinity=float("inf"), chain="policy", optimum=stay)(kl_pi_ref)
"""


def test_an_optimum_that_the_policy_beats_is_said_once(call, tmp_path):
    (tmp_path / "mine.py").write_text(WRONG)
    mine = ("plugins=[mine.py]", "penalty.divergence=mine", "task=bandit/random", "steps=50", "tracking=none")
    done = call("-m", *mine, "seed=0,1")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: regret is -0.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("graded", "doubted"),
    [
        ({"regret": -1e-8, "optimal_objective": 1.0}, True),
        ({"regret": -1e-10, "optimal_objective": 1.0}, False),
        ({"regret": -1e-8, "optimal_objective": 1e3}, False),
        ({"regret": -0.3, "regret_stderr": 0.2, "optimal_objective": 1.0}, False),
        ({"regret": None, "optimal_objective": None}, False),
        ({"regret": 0.0, "optimal_objective": 1.0, "gold_regret": -0.1, "gold_optimal_objective": 1.0}, True),
    ],
)
def test_only_an_exact_regret_below_rounding_is_doubted(graded, doubted):
    assert (summary.rounding_warning(graded) is not None) == doubted
