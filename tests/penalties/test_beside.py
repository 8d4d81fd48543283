"""Beside a sampled penalty: limits of its log-ratios, its exact form, moving references, an entropy bonus, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import algorithms, policies, settings
from rlkl.config.build import build
from rlkl.config.resolve import resolve
from rlkl.divergences import REGISTRY
from rlkl.errors import SettingsError
from rlkl.penalties import controllers, terms
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, Positions, enumerate_all
from rlkl.training import blocks, loop, sampled_losses, spec
from tests.helpers import PARAMS, random_task, sampled_loss, shortened

ARMS = {"name": "bandit/custom", "reward": [0.0, 1.0, 0.3, -0.5], "reference": [0.4, 0.1, 0.3, 0.2]}
LOG_REF = np.log(ARMS["reference"])


def built(algorithm: str | dict = "rloo", **groups) -> spec.Run:
    algorithm = {"name": algorithm} if isinstance(algorithm, str) else algorithm
    plain = {"task": ARMS, "algorithm": algorithm, "dtype": "float64", "steps": 400}
    return jax.tree.map(jnp.asarray, build(plain | groups).run)


def one_each(run: spec.Run, logits: np.ndarray) -> tuple[Batch, Positions]:
    """Every arm, weighted by its probability."""
    policy = policies.tabular.Tabular(jnp.asarray(logits)[None, None], jnp.asarray(run.task.automaton.legal))
    batch = enumerate_all(run.task.automaton)
    batch = batch._replace(weight=jnp.exp(scoring.log_probability(policy, batch)))
    return batch, scoring.positions(run.task.automaton, policy, run.reference, batch)


def table(policy) -> np.ndarray:
    """A finished run's policy, whose arrays are on the host, as its table."""
    return np.asarray(jax.tree.map(jnp.asarray, policy).table())


LOGITS = np.array([0.1, 2.0, -1.0, 0.4])


def log_softmax(x):
    return x - np.logaddexp.reduce(x)


def test_a_clamp_bounds_what_is_read_and_says_how_often():
    u = log_softmax(LOGITS) - LOG_REF
    assert 0 < (np.abs(u) > 0.8).sum() < 4
    run = built(penalty={"estimator": "k2", "clamp": 0.8})
    batch, at = one_each(run, LOGITS)
    made = terms.make_terms(run.settings.penalty, jnp.float64)
    np.testing.assert_allclose(made.in_loss(at, batch)[:, 0], np.clip(u, -0.8, 0.8) ** 2 / 2, rtol=1e-12)
    share = np.exp(log_softmax(LOGITS))[np.abs(u) > 0.8].sum()
    np.testing.assert_allclose(terms.saturation(run.settings.penalty, at, batch).clamped, share, rtol=1e-12)
    assert np.isnan(terms.saturation(built(penalty={"estimator": "k2"}).settings.penalty, at, batch)).all()


def test_truncation_bounds_the_weight_of_the_reference_on_the_policy_s_samples():
    """KL(pi_ref‖pi) with f' = 1 - pi_ref/pi: the ratio is held below the truncation."""
    run = built(penalty={"divergence": "kl_ref_pi", "estimator": "score", "truncation": 1.5})
    batch, at = one_each(run, LOGITS)
    ratio = np.exp(LOG_REF - log_softmax(LOGITS))
    assert 0 < (ratio > 1.5).sum() < 4
    taken = terms.make_terms(run.settings.penalty, jnp.float64).in_reward(at, batch)[:, 0]
    np.testing.assert_allclose(taken, 1 - np.minimum(ratio, 1.5), rtol=1e-10)
    share = np.exp(log_softmax(LOGITS))[ratio > 1.5].sum()
    np.testing.assert_allclose(terms.saturation(run.settings.penalty, at, batch).truncated, share, rtol=1e-12)


QUICK = ("kl_pi_ref", "kl_ref_pi", "jensen_shannon")


@pytest.mark.parametrize(
    "divergence", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in sorted(REGISTRY)]
)
def test_an_exact_penalty_beside_sampled_rewards_has_the_exact_gradient(divergence):
    task = shortened(random_task(np.random.default_rng(7)), 200)
    chosen = settings.Settings(
        penalty=settings.PenaltySettings(divergence, beta=0.3, sampler="exact"), algorithm=settings.AlgorithmSettings("rloo")
    )
    run = spec.make_run(resolve(chosen, task), task)
    legal = jnp.asarray(task.automaton.legal)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(task.automaton.horizon, *legal.shape)))
    every = enumerate_all(task.automaton)

    def by_definition(x):
        both = (scoring.log_probability(p, every) for p in (policies.tabular.Tabular(x, legal), run.reference))
        from rlkl import divergences

        return 0.3 * divergences.exact(REGISTRY[divergence], PARAMS, *both)

    def beside(x):
        return sampled_losses.off_batch_penalty(
            run.settings, spec.objective(run), policies.tabular.Tabular(x, legal), jax.random.key(0)
        )

    found, expected = jax.jit(lambda x: (jax.grad(beside)(x), jax.grad(by_definition)(x)))(logits)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    batch = every._replace(weight=jnp.exp(scoring.log_probability(policies.tabular.Tabular(logits, legal), every)))
    at = scoring.positions(task.automaton, policies.tabular.Tabular(logits, legal), run.reference, batch)
    made = terms.make_terms(run.settings.penalty, jnp.float64)
    assert not np.asarray(made.in_reward(at, batch)).any() and not np.asarray(made.in_loss(at, batch)).any()


def test_an_entropy_bonus_moves_the_optimum_to_its_closed_form():
    """max E[r] - beta KL(pi‖pi_ref) + c H(pi): pi* in proportion to exp((r + beta log pi_ref)/(beta + c)); the regret, which
    does not count the bonus, stays above zero."""
    run = built({"name": "exact", "entropy_coef": 0.5}, penalty={"beta": 0.2}, steps=2000)
    done = blocks.train_runs([run])[0]
    best = log_softmax((np.array(ARMS["reward"]) + 0.2 * LOG_REF) / 0.7)
    np.testing.assert_allclose(table(done.state.policy)[0, 0], best, atol=1e-5)
    assert done.rows.report.regret[-1] > 1e-2


def test_a_sampled_entropy_bonus_has_the_gradient_of_entropy_on_a_bandit():
    plain, bonus = (built(algorithm={"name": "rloo", **extra}) for extra in ({}, {"entropy_coef": 0.5}))

    def gradient(run):
        def loss(logits):
            policy = policies.tabular.Tabular(logits[None, None], jnp.asarray(run.task.automaton.legal))
            at = scoring.positions(run.task.automaton, policy, run.reference, batch)
            return sampled_loss(run, at, batch)

        batch, _ = one_each(run, LOGITS)
        return np.asarray(jax.grad(loss)(jnp.asarray(LOGITS)))

    p = np.exp(log_softmax(LOGITS))
    entropy = -np.sum(p * np.log(p))
    np.testing.assert_allclose(gradient(bonus) - gradient(plain), 0.5 * p * (np.log(p) + entropy), atol=1e-12)


def test_a_reference_reset_at_every_step_penalises_nothing():
    """KL(pi‖anchor) has no gradient at pi = anchor: the run is the one without a penalty, graded against the old reference."""
    moving = built("exact", reference={"update": "reset", "sync_steps": 1}, penalty={"beta": 0.7}, steps=50)
    free = built("exact", penalty={"divergence": "none", "beta": 0.0}, policy={"support": "reference"}, steps=50)
    done, without = blocks.train_runs([moving])[0], blocks.train_runs([free])[0]
    np.testing.assert_allclose(table(done.state.policy), table(without.state.policy), atol=1e-9)
    np.testing.assert_allclose(done.rows.kl_pi_anchor, 0.0, atol=1e-12)
    u = np.asarray(table(done.state.policy))[0, 0] - LOG_REF
    np.testing.assert_allclose(done.rows.report.values.kl_pi_ref[-1], np.sum(np.exp(u + LOG_REF) * u), rtol=1e-9)
    worth = np.exp(u + LOG_REF) @ np.array(ARMS["reward"]) - 0.7 * np.sum(np.exp(u + LOG_REF) * u)
    np.testing.assert_allclose(done.rows.report.objective[-1], worth, rtol=1e-9)


@pytest.mark.parametrize("policy", ["tabular", pytest.param("gru", marks=pytest.mark.slow)])
def test_an_averaged_reference_moves_by_its_share_at_its_steps(policy):
    run = built(
        reference={"update": "ema", "sync_steps": 3, "mixup_alpha": 0.25}, policy={"name": policy, "width": 4}, batch_size=8,
        task={"name": "sequence/brackets", "horizon": 4},
    )  # fmt: skip
    states = [jax.jit(loop.start)(run)]
    for _ in range(6):
        states.append(jax.jit(loop.step)(run, states[-1]))
    every = enumerate_all(run.task.automaton)
    at_start = scoring.log_probability(states[0].anchor, every) - scoring.log_probability(run.reference, every)
    np.testing.assert_allclose(at_start, 0.0, atol=1e-6)
    moving = lambda tree: [np.asarray(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]  # noqa: E731
    for number in range(1, 7):
        before, after, own = (
            moving(tree) for tree in (states[number - 1].anchor, states[number].anchor, states[number].policy)
        )
        share = 0.25 if number % 3 == 0 else 0.0
        for old, new, mine in zip(before, after, own, strict=True):
            np.testing.assert_allclose(new, share * mine + (1 - share) * old, rtol=1e-12, atol=1e-15)


def test_the_distance_to_a_moving_reference_is_logged():
    run = built(reference={"update": "ema", "sync_steps": 100}, steps=200, log_every=50)
    done = blocks.train_runs([run])[0]
    log_pi, log_anchor = (table(p)[0, 0] for p in (done.state.policy, done.state.anchor))
    np.testing.assert_allclose(done.rows.kl_pi_anchor[-1], np.sum(np.exp(log_pi) * (log_pi - log_anchor)), rtol=1e-9)


def test_schedules_are_their_formulas():
    for name, middle in (
        ("linear", 0.2 + 0.25 * (1.0 - 0.2)),
        ("cosine", 1.0 + (0.2 - 1.0) * 0.5 * (1 + np.cos(np.pi * 0.25))),
        ("exponential", 0.2 * 5.0**0.25),
    ):
        chosen = settings.PenaltySettings(controller=name, beta=0.2, beta_end=1.0)
        for step, expected in ((0, 0.2), (25, middle), (100, 1.0)):
            found = controllers.scheduled(chosen, jnp.asarray(step, jnp.int32), 100)
            np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "cosine" else pytest.mark.slow) for name in settings.SCHEDULES]
)
def test_a_scheduled_run_logs_its_coefficient_and_reaches_the_optimum_of_its_last(name):
    run = built("exact", penalty={"controller": name, "beta": 0.1, "beta_end": 0.5}, steps=2000)
    done = blocks.train_runs([run])[0]
    np.testing.assert_allclose(done.rows.beta[[0, -1]], [0.1, 0.5], rtol=1e-12)
    assert (np.diff(done.rows.beta) > 0).all()
    best = log_softmax(np.array(ARMS["reward"]) / 0.5 + LOG_REF)
    np.testing.assert_allclose(table(done.state.policy)[0, 0], best, atol=5e-3)
    np.testing.assert_allclose(done.optimum.log_pi[0, 0], best, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo"])
def test_the_effective_coefficient_is_beta_over_what_the_unbiased_advantages_are_multiplied_by(algorithm):
    run = built(algorithm, penalty={"estimator": "k2", "beta": 0.3, "allow_biased": True})
    step = jax.jit(loop.step)
    state = step(run, jax.jit(loop.start)(run))
    key = jax.random.fold_in(state.key, 1)
    batch = sampled_losses.gather(run.settings, spec.objective(run), None, state.policy, key).batch
    counts = np.round(np.asarray(batch.weight) * batch.size).astype(int)
    returns = np.repeat(np.array(ARMS["reward"]), counts)
    others = (returns.sum() - returns) / (len(returns) - 1)
    unbiased = returns - others
    after = step(run, state)
    made = returns - returns.mean()
    made = made / returns.std(ddof=1) if algorithm == "grpo" else made
    np.testing.assert_allclose(after.batch_stats.beta_effective, 0.3 * unbiased[0] / made[0], rtol=1e-9)
    in_reward = built(algorithm, penalty={"estimator": "k1", "beta": 0.3})
    np.testing.assert_allclose(step(in_reward, jax.jit(loop.start)(in_reward)).batch_stats.beta_effective, 0.3)
    assert np.isnan(step(built(), jax.jit(loop.start)(built())).batch_stats.beta_effective)


def test_every_registered_factor_is_that_of_its_advantages():
    returns = np.random.default_rng(0).normal(size=(16, 1))
    batch = Batch(np.zeros((16, 1), int), np.zeros((16, 2), int), np.ones((16, 1), bool), np.full(16, 1 / 16), 16)
    unbiased = algorithms.rloo(jnp.asarray(returns), batch, jnp.zeros(()))
    for entry in algorithms.REGISTRY.values():
        if entry.factor is not None:
            made = entry.advantage(jnp.asarray(returns), batch, jnp.zeros(()))
            np.testing.assert_allclose(made, entry.factor(jnp.asarray(returns), batch) * unbiased, rtol=1e-9)


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        ({"penalty": {"controller": "linear"}}, "penalty.beta_end"),
        ({"reference": {"update": "sync"}}, "reference.update"),
        ({"reference": {"update": "ema"}, "policy": {"name": "gaussian"}}, "reference.update"),
        ({"algorithm": {"name": "rloo", "entropy_coef": -1.0}}, "algorithm.entropy_coef"),
        ({"penalty": {"sampler": "exact", "estimator": "k1"}}, "penalty.estimator"),
        ({"penalty": {"sampler": "exact"}, "policy": {"name": "gru"}, "task": {"name": "sequence/grammar"}}, "penalty.sampler"),
    ],
)
def test_what_cannot_be_is_refused(groups, key):
    with pytest.raises(SettingsError) as refused:
        built(**groups)
    assert refused.value.key == key
