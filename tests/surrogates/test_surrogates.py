"""Surrogates and importance corrections on samples of another policy: expected gradients against plain NumPy sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import settings, surrogates
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.config.resolve import resolve
from rlkl.errors import SettingsError
from rlkl.penalties import importance, kl_masks
from rlkl.policies.tabular import Tabular
from rlkl.reports import listing
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all
from rlkl.training import describe, loop, sampled_losses, spec
from tests.helpers import sequences, short_task
from tests.surrogates import plain

BETA, BASELINE = 0.3, 0.2
OPTIONS = {
    "dual_clip": {"clip_low": 0.4, "clip_high": 0.3, "clip_ratio_c": 1.2},
    "cispo": {"clip_low": 0.3, "clip_high": 0.5},
    "gspo": {"clip_low": 0.1, "clip_high": 0.15},
    "sapo": {"tau_pos": 0.8, "tau_neg": 1.5},
    "dppo_tv": {"clip_low": 0.1, "clip_high": 0.05},
    "dppo_kl": {"clip_low": 0.02, "clip_high": 0.01},
    "clip_cov": {"cov_share": 0.1, "cov_low": 0.05, "cov_high": 0.6},
    "kl_cov": {"cov_share": 0.3, "kl_coef": 0.7},
}
BOUNDS = {"truncation": 1.2, "importance_min": 0.6}
LIMITS = {"opsm": 0.05, "token_k1": 0.3, "token_k2": 0.05, "token_k3": 0.05, "seq_sum_k1": 0.4, "seq_sum_k2": 0.15,
          "seq_sum_k3": 0.15, "seq_mean_k1": 0.2, "seq_mean_k2": 0.06, "seq_mean_k3": 0.06, "seq_max_k2": 0.1,
          "seq_max_k3": 0.1}  # fmt: skip
CASES: dict[str, tuple[dict, dict]] = {
    **{name: ({"surrogate": name, "old_log_probs": "reported", **OPTIONS.get(name, {})}, {}) for name in surrogates.REGISTRY},
    **{
        f"{level}, {limit}": ({}, {"importance_correction": level, "importance_limit": limit, **BOUNDS})
        for level, limit in importance.LIBRARIES
    },
    **{f"{level} at most": ({}, {"importance_correction": level, "truncation": 1.2}) for level in ("token", "sequence")},
    "geometric": ({}, {"importance_correction": "geometric"}),
    **{name: ({}, {"kl_mask": name, "kl_mask_limit": LIMITS[name]}) for name in settings.KL_MASKS},
    "token, seq_mean_k1": ({}, {"importance_correction": "token", "kl_mask": "seq_mean_k1", "kl_mask_limit": 0.2}),
    "ppo to the policy before the step": ({"surrogate": "ppo"}, {"importance_correction": "token"}),
}
CASES["none"][0].pop("old_log_probs")


def settings_of(case: str) -> settings.Settings:
    algorithm, penalty = CASES[case]
    return settings.Settings(
        penalty=settings.PenaltySettings(beta=BETA, **penalty), algorithm=settings.AlgorithmSettings("reinforce", **algorithm)
    )


@pytest.fixture(scope="module")
def world():
    """A random task, a policy, another one as the sampler, and every case's expected gradient, in one program."""
    task, draw = short_task(5, 3)
    task = dataclasses.replace(task, reward=draw.normal(size=task.automaton.states))
    legal = jnp.asarray(task.automaton.legal)
    shape = (task.automaton.horizon, *legal.shape)
    policy, sampler = (Tabular(jnp.asarray(draw.normal(size=shape)), legal) for _ in range(2))
    listed = enumerate_all(task.automaton)
    batch = listed._replace(weight=jnp.exp(scoring.log_probability(sampler, listed)))
    reported = scoring.token_log_probability(sampler, batch)
    runs = {
        case: jax.tree.map(
            jnp.asarray, spec.make_run(dataclasses.replace(resolve(settings_of(case), task), dtype="float64"), task)
        )
        for case in CASES
    }

    def loss(logits, run):
        at = scoring.positions(task.automaton, Tabular(logits, legal), run.reference, batch)
        objective = spec.objective(run)
        learned = sampled_losses.experience(run.settings, objective, at, batch, jnp.asarray(BASELINE), reported)
        value = sampled_losses.surrogate(run.settings, objective.beta, at, batch, learned)
        touched = sampled_losses.touched(run.settings, lambda: at, batch, learned)
        return value, learned.batch_stats._replace(touched=touched)

    @jax.jit
    def gradients(logits):
        return {case: jax.grad(loss, has_aux=True)(logits, run) for case, run in runs.items()}

    return task, np.asarray(policy.table()), np.asarray(sampler.table()), gradients(policy.logits), runs


@pytest.fixture(scope="module")
def tokens(world) -> plain.Tokens:
    """Every token, by plain loops, with the returns to go of its sequence less the baseline."""
    task, log_pi, log_mu, *_ = world
    rows = []
    for number, (path, end) in enumerate(sequences(task.automaton)):
        cost = [BETA * (log_pi[at] - np.asarray(task.log_reference)[at[1:]]) for at in path]
        mu = np.exp(sum(log_mu[at] for at in path))
        rows += [
            (log_pi[at], log_mu[at], float(task.reward[end]) - sum(cost[t:]) - BASELINE, number, mu)
            for t, at in enumerate(path)
        ]
    log_p, log_m, advantage, number, mu = map(np.array, zip(*rows, strict=True))
    return plain.Tokens(log_p, log_m, advantage, number, mu)


@pytest.mark.parametrize("case", CASES)
def test_expected_gradients_are_plain_sums(case, world, tokens):
    task, log_pi, _, gradients, runs = world
    run = runs[case].settings
    options = {key: float(value) for key, value in vars(run.algorithm).items() if key in surrogates.option_names() and value}
    log_old = tokens.log_mu if run.algorithm.old_log_probs == "reported" else tokens.log_pi
    weight, limited = plain.importance(tokens, CASES[case][1])
    c, touched = plain.coefficients(run.algorithm.surrogate, tokens, log_old, options)
    expected, places = np.zeros_like(log_pi), [at for path, _ in sequences(task.automaton) for at in path]
    for at, each in zip(places, tokens.weight * weight * c, strict=True):
        t, state, token = at
        expected[t, state] -= each * ((np.arange(log_pi.shape[2]) == token) - np.exp(log_pi[t, state]))
    gradient, stats = gradients[case]
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
    share = tokens.weight / tokens.weight.sum()
    if run.algorithm.surrogate != "none":
        np.testing.assert_allclose(stats.touched, share @ touched, rtol=1e-10)
        assert (0.0 < share @ touched < 1.0) == (run.algorithm.old_log_probs == "reported")
    if CASES[case][1].keys() & {"truncation", "kl_mask"}:
        np.testing.assert_allclose(stats.truncated, share @ limited, rtol=1e-10)
        assert 0.0 < share @ limited < 1.0


@pytest.mark.parametrize("name", surrogates.REGISTRY)
def test_at_ratio_one_only_clip_cov_has_another_gradient_than_the_plain_loss(name, tokens):
    log_pi, advantage = jnp.asarray(tokens.log_pi)[:, None], jnp.asarray(tokens.advantage)[:, None]
    mask, number = np.ones(log_pi.shape, bool), len(tokens.log_pi)
    batch = Batch(np.zeros_like(mask, int), np.zeros((number, 2), int), mask, tokens.weight, number)
    options = surrogates.REGISTRY[name].options | OPTIONS.get(name, {})
    chosen = settings.AlgorithmSettings("reinforce", surrogate=name, **options)

    def loss(x):
        each, touched = surrogates.token_loss(x, log_pi, advantage, batch, chosen)
        return jnp.sum(each), touched

    gradient, touched = jax.grad(loss, has_aux=True)(log_pi)
    if name == "clip_cov":
        np.testing.assert_array_equal(np.asarray(gradient) != -advantage, np.asarray(touched) > 0.0)
        assert 0 < (np.asarray(touched) > 0.0).sum() < number
    else:
        np.testing.assert_allclose(gradient, -advantage, rtol=1e-15)
        assert not np.asarray(touched).any()


def trained(**groups):
    base = {"task": {"name": "sequence/brackets", "horizon": 4}, "dtype": "float64", "steps": 20, "batch_size": 16}
    run = jax.tree.map(jnp.asarray, build(base | groups).run)
    step = jax.jit(loop.step)
    states = [jax.jit(loop.start)(run)]
    for _ in range(6):
        states.append(step(run, states[-1]))
    return run, states


def test_a_surrogate_is_trained_against_the_sampler_s_log_probabilities():
    """From the states of the run itself: the last batch's share of tokens beyond the limit, against the policy that drew it."""
    algorithm = {"name": "rloo", "surrogate": "cispo", "old_log_probs": "reported", "clip_low": 0.005, "clip_high": 0.005}
    run, states = trained(algorithm=algorithm, rollout={"staleness": 2})
    key = jax.random.fold_in(states[5].key, 5)
    rollout = sampled_losses.gather(run.settings, spec.objective(run), states[3].policy, states[5].policy, key)
    u = scoring.token_log_probability(states[5].policy, rollout.batch) - rollout.sampler_log_pi
    mask = np.asarray(rollout.batch.mask)
    share = np.mean(np.abs(np.expm1(np.asarray(u)))[mask] > 0.005)
    assert 0.0 < share < 1.0
    np.testing.assert_allclose(states[6].batch_stats.touched, share, rtol=1e-12)


def test_more_updates_on_a_batch_are_any_algorithm_s():
    (_, once), (_, thrice) = (trained(algorithm={"name": "rloo", "surrogate": "sapo", "epochs": e}) for e in (1, 3))
    counts = [int(leaf) for leaf in jax.tree.leaves(thrice[1].optimizer) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts == [3] * len(counts)
    assert float(once[1].batch_stats.touched) == 0.0
    assert float(thrice[1].batch_stats.touched) > 0.0


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["algorithm=rloo", "algorithm.surrogate=pppo"], "algorithm.surrogate"),
        (["algorithm=rloo", "algorithm.clip_low=0.1"], "algorithm.clip_low"),
        (["algorithm=ppo", "algorithm.tau_pos=1"], "algorithm.tau_pos"),
        (["algorithm=ppo", "algorithm.clip=0.1"], "algorithm.clip"),
        (["algorithm=rloo", "algorithm.old_log_probs=reported"], "algorithm.old_log_probs"),
        (
            ["algorithm=ppo", "algorithm.old_log_probs=reported", "penalty.importance_correction=token"],
            "penalty.importance_correction",
        ),
        (["algorithm=rloo", "algorithm.surrogate=clip_cov", "algorithm.cov_low=7"], "algorithm.cov_low"),
        (["algorithm=rloo", "penalty.importance_min=0.5"], "penalty.importance_min"),
        (["algorithm=rloo", "penalty.importance_limit=mask"], "penalty.importance_limit"),
        (
            ["algorithm=rloo", "penalty.importance_correction=token", "penalty.importance_limit=mask"],
            "penalty.importance_limit",
        ),
        (
            ["algorithm=rloo", "penalty.importance_correction=token", "penalty.importance_min=2", "penalty.truncation=2"],
            "penalty.importance_min",
        ),
        (["algorithm=rloo", "penalty.kl_mask=opsm"], "penalty.kl_mask"),
        (["algorithm=rloo", "penalty.kl_mask_limit=0.1"], "penalty.kl_mask_limit"),
        (["algorithm=exact", "penalty.kl_mask=opsm", "penalty.kl_mask_limit=0.1"], "penalty.kl_mask"),
    ],
)
def test_what_has_no_effect_is_refused(overrides, key):
    with pytest.raises(SettingsError) as refused:
        build(compose(["task=bandit/random", *overrides]))
    assert refused.value.key == key


def test_exact_gradients_have_no_surrogate():
    with pytest.raises(SettingsError) as refused:
        build({"task": {"name": "bandit/random"}, "algorithm": {"name": "exact", "surrogate": "ppo"}})
    assert refused.value.key == "algorithm.surrogate"


def test_a_run_says_what_its_limits_do():
    overrides = ["algorithm=grpo", "algorithm.surrogate=dppo_tv", "penalty.kl_mask=opsm", "penalty.kl_mask_limit=0.1"]
    weights = ["penalty.importance_correction=token", "penalty.importance_limit=mask", "penalty.truncation=5"]
    said = " ".join(describe.caveats(build(compose(["task=bandit/random", *overrides, *weights])).run))
    for words in ("dppo_tv with clip_low=0.2", "above 5 are 0", "opsm of KL(sampler‖pi) above 0.1 nats"):
        assert words in said


def test_names_in_libraries_are_given_for_all():
    assert set(importance.LIBRARIES) == {
        (level, limit) for level in ("token", "sequence", "geometric") for limit in ("truncate", "mask")
    }
    assert all(surrogate.libraries and surrogate.formula for surrogate in surrogates.REGISTRY.values())
    assert set(kl_masks.LIBRARIES) == set(settings.KL_MASKS)
    listed = {row[0]: row for row in listing._surrogates()}
    assert list(listed) == list(surrogates.REGISTRY)
    assert "verl: policy_loss.loss_mode=dppo_tv" in listed["dppo_tv"][-1]
    assert len(list(listing._corrections())) == len(importance.LIBRARIES) + len(settings.KL_MASKS)
