"""Presets that place the penalty as other libraries do, against those libraries' definitions, written anew in plain NumPy.

The definitions were read at the commits that each preset names, and share nothing with rlkl: losses of the sampled tokens'
log-probabilities, whose gradients are finite differences.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import policies, settings, tasks
from rlkl.config import overrides
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.penalties import options, terms
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.rollouts import scoring
from rlkl.rollouts.batch import Batch, enumerate_all, positions_from_rows
from rlkl.training import loop, sampled_losses, spec
from tests.helpers import CHAIN

ROOT = overrides.config_directory() / "penalty"
SIZE, HORIZON, VOCABULARY = 6, 5, 3
END_REWARD = np.array([0.3, -0.2, 1.0, 0.5])
TASK = tasks.Task(  # token 0 ends a sequence, tokens 1 and 2 move between two states
    tasks.Automaton(np.array([[2, 0, 1], [3, 1, 0]]), 4, HORIZON),
    END_REWARD,
    np.log(np.full((2, VOCABULARY), 1 / VOCABULARY)),
    np.zeros(()),
    np.arange(float(VOCABULARY)),
)


def over_tokens(x, mask):
    return (x * mask).sum() / mask.sum()


def mean_of_means(x, mask):
    return np.mean((x * mask).sum(axis=1) / mask.sum(axis=1))


def clipped(ratio, advantages):
    return -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)


def trl_grpo(log_pi, log_ref, mask, beta, old):
    """loss_type=dapo, whose normaliser on one process is the batch's tokens; k3 times the ratio to the sampler's."""
    back = log_ref - log_pi
    return over_tokens(beta * (np.exp(back) - back - 1) * np.exp(log_pi - old), mask)


def trl_grpo_k3(log_pi, log_ref, mask, beta, old):
    """The same without the ratio (use_bias_correction_kl=false)."""
    back = log_ref - log_pi
    return over_tokens(beta * (np.exp(back) - back - 1), mask)


def verl_grpo(log_pi, log_ref, mask, beta, old):
    """low_var_kl with both of its clips, token-mean."""
    back = np.clip(log_ref - log_pi, -20, 20)
    return beta * over_tokens(np.clip(np.exp(back) - back - 1, -10, 10), mask)


def tunix_grpo(log_pi, log_ref, mask, beta, old):
    """kl_loss_mode=kl, sequence-mean-token-mean."""
    return beta * mean_of_means(log_pi - log_ref, mask)


IN_LOSS = {"trl_grpo": trl_grpo, "trl_grpo_k3": trl_grpo_k3, "verl_grpo": verl_grpo, "tunix_grpo": tunix_grpo}


def trl_rloo(log_pi, log_ref, mask, score, beta):
    """One number a sequence, which each of its tokens is credited with."""
    reward = score - beta * ((log_pi - log_ref) * mask).sum(axis=1)
    return reward[:, None] * mask


def openrlhf_reinforce(log_pi, log_ref, mask, score, beta):
    """k1, clipped; the score at the last token; returns summed from the end, gamma = 1."""
    reward = -beta * np.clip(log_pi - log_ref, -10, 10)
    returns, held = np.zeros(reward.shape), np.zeros(len(reward))
    for i, length in enumerate(mask.sum(axis=1)):
        reward[i, length - 1] += score[i]
    for t in reversed(range(reward.shape[1])):
        held = reward[:, t] * mask[:, t] + held
        returns[:, t] = held
    return returns


def instructgpt_ppo(log_pi, log_ref, mask, score, beta):
    """GAE of its rewards, not divided by their spread, at lambda = 1 and without a critic; every response has one length."""
    assert mask.all()
    reward, values = -beta * (log_pi - log_ref), np.zeros(mask.shape)
    reward[:, -1] += score
    advantages, held = np.zeros(reward.shape), 0.0
    for t in reversed(range(reward.shape[1])):
        following = values[:, t + 1] if t + 1 < reward.shape[1] else 0.0
        held = reward[:, t] + following - values[:, t] + held
        advantages[:, t] = held
    return advantages


def trl_rloo_loss(log_pi, old, advantages, mask):
    """The ratio is of whole sequences."""
    ratio = np.exp(((log_pi - old) * mask).sum(axis=1))
    return clipped(ratio, advantages[:, 0]).mean()


def clipped_token_mean(log_pi, old, advantages, mask):
    return over_tokens(clipped(np.exp(log_pi - old), advantages), mask)


IN_REWARD = {
    "trl_rloo": (trl_rloo, trl_rloo_loss),
    "openrlhf_reinforce": (openrlhf_reinforce, clipped_token_mean),
    "instructgpt_ppo": (instructgpt_ppo, clipped_token_mean),
}
PRESETS = (*IN_LOSS, *IN_REWARD)


def slope(of, at, step=1e-5):
    """The gradient of a number by an array, by central differences."""
    found = np.zeros(at.shape)
    for i in np.ndindex(at.shape):
        moved = np.zeros(at.shape)
        moved[i] = step
        found[i] = (of(at + moved) - of(at - moved)) / (2 * step)
    return found


def comment(preset: str) -> str:
    return "\n".join(line for line in (ROOT / f"{preset}.yaml").read_text().splitlines() if line.startswith("#"))


def goes_with(preset: str) -> list[str]:
    found = re.search(r"^# Goes with: (.+)$", comment(preset), re.MULTILINE)
    assert found is not None
    return found[1].split()


def built(preset: str, *task: str) -> spec.Run:
    """The run of the preset's own command, on a task."""
    return build(compose([f"penalty={preset}", *goes_with(preset), "dtype=float64", *task])).run


@pytest.fixture(scope="module")
def run_of():
    """The run of a preset's command, on this file's task."""
    chain = f"task.path={CHAIN}"
    made = {name: built(name, "task=automaton/custom", chain).settings for name in PRESETS}
    return lambda name: jax.tree.map(jnp.asarray, spec.make_run(made[name], TASK))


def drawn(seed: int, whole: bool = False):
    """Random sequences of different lengths (whole: all of the longest), log-ratios of their tokens and end rewards."""
    draw = np.random.default_rng(seed)
    tokens = np.zeros((SIZE, HORIZON), np.int32)
    states = np.zeros((SIZE, HORIZON + 1), np.int32)
    mask = np.zeros((SIZE, HORIZON), bool)
    for i in range(SIZE):
        for t in range(HORIZON):
            if states[i, t] < 2:
                tokens[i, t], mask[i, t] = draw.integers(1 if whole else 0, VOCABULARY), True
            states[i, t + 1] = TASK.automaton.next_state[states[i, t], tokens[i, t]] if mask[i, t] else states[i, t]
    log_ref = draw.normal(size=(SIZE, HORIZON, VOCABULARY)) - 2.0
    log_pi = log_ref + draw.uniform(-2.4, 2.4, size=log_ref.shape)
    batch = Batch(jnp.asarray(tokens), jnp.asarray(states), jnp.asarray(mask), jnp.full(SIZE, 1 / SIZE), SIZE)
    return batch, log_pi, log_ref, END_REWARD[states[:, -1]]


def at_tokens(rows: np.ndarray, batch: Batch) -> np.ndarray:
    return np.take_along_axis(rows, np.asarray(batch.tokens)[..., None], axis=-1)[..., 0]


def value_and_slope(of, batch, log_pi, log_ref):
    """rlkl's number of these rows, and its gradient by the tokens' log-probabilities; by the others' it is zero."""
    number = lambda rows: of(positions_from_rows(rows, jnp.asarray(log_ref)), batch)  # noqa: E731
    value, gradient = jax.value_and_grad(number)(jnp.asarray(log_pi))
    token = np.arange(VOCABULARY) == np.asarray(batch.tokens)[..., None]
    assert not np.asarray(gradient)[~token].any()
    return value, at_tokens(np.asarray(gradient), batch)


@pytest.mark.parametrize("preset", IN_LOSS)
def test_a_penalty_in_the_loss_is_the_library_s(preset, run_of):
    run, library = run_of(preset), IN_LOSS[preset]
    beta = float(run.settings.penalty.beta)

    def penalised(at, batch):  # advantages of zero leave the penalty alone
        learned = sampled_losses.experience(run.settings, spec.objective(run), at, batch, jnp.asarray(0.0))
        return sampled_losses.surrogate(
            run.settings, run.settings.penalty.beta, at, batch, learned._replace(advantages=jnp.zeros_like(learned.advantages))
        )

    lengths = set()
    for seed in range(5):
        batch, log_pi, log_ref, _ = drawn(seed)
        mask, ours, theirs = np.asarray(batch.mask), at_tokens(log_pi, batch), at_tokens(log_ref, batch)
        lengths |= set(mask.sum(axis=1).tolist())
        value, gradient = value_and_slope(penalised, batch, log_pi, log_ref)
        expected = slope(lambda x, ref=theirs, read=mask, old=ours: library(x, ref, read, 1.0, old), ours)
        np.testing.assert_allclose(value / beta, library(ours, theirs, mask, 1.0, ours), rtol=1e-9)
        np.testing.assert_allclose(gradient / beta, expected, atol=1e-8)
        made = terms.make_terms(run.settings.penalty, jnp.float64)
        at = positions_from_rows(jnp.asarray(log_pi), jnp.asarray(log_ref))
        assert not np.asarray(made.in_reward(at, batch)).any() and not np.asarray(made.future_kl(at, batch)).any()
    assert len(lengths) > 2


@pytest.mark.parametrize("preset", IN_REWARD)
def test_a_penalty_in_the_reward_is_the_library_s(preset, run_of):
    """Per-token terms, returns-to-go, and the policy loss of these returns (without a baseline) with its gradient."""
    run, (library, policy_loss) = run_of(preset), IN_REWARD[preset]
    beta = float(run.settings.penalty.beta)
    plain = dataclasses.replace(run.settings.algorithm, name="reinforce")
    bare = dataclasses.replace(run, settings=dataclasses.replace(run.settings, algorithm=plain))
    for seed in range(5):
        batch, log_pi, log_ref, score = drawn(seed, whole=preset == "instructgpt_ppo")
        mask, ours, theirs = np.asarray(batch.mask), at_tokens(log_pi, batch), at_tokens(log_ref, batch)
        at = positions_from_rows(jnp.asarray(log_pi), jnp.asarray(log_ref))
        expected = library(ours, theirs, mask, score, beta)
        taken = np.asarray(terms.make_terms(run.settings.penalty, jnp.float64).in_reward(at, batch))
        alone = library(ours, theirs, mask, 0.0 * score, 1.0)  # the penalty's own returns, at beta = 1
        np.testing.assert_allclose(np.cumsum(taken[:, ::-1], axis=1)[:, ::-1] * mask, -alone * mask, atol=1e-12)
        if preset != "trl_rloo":  # there it is the sequence's
            np.testing.assert_allclose(taken, (ours - theirs) * mask, atol=1e-12)
        learned = sampled_losses.experience(bare.settings, spec.objective(bare), at, batch, jnp.asarray(0.0))
        np.testing.assert_allclose(np.asarray(learned.advantages) * mask, expected * mask, atol=1e-12)

        def told(at, batch, run=run, learned=learned):
            return sampled_losses.surrogate(run.settings, run.settings.penalty.beta, at, batch, learned)

        _, gradient = value_and_slope(told, batch, log_pi, log_ref)
        wanted = slope(lambda x, old=ours, a=expected, read=mask: policy_loss(x, old, a, read), ours)
        np.testing.assert_allclose(gradient, wanted, atol=1e-8)


def test_trl_s_leave_one_out_is_ours_where_lengths_are_equal(run_of):
    """Its baseline is the mean of the other sequences' rewards, penalty included."""
    run = run_of("trl_rloo")
    batch, log_pi, log_ref, score = drawn(0, whole=True)
    at = positions_from_rows(jnp.asarray(log_pi), jnp.asarray(log_ref))
    reward = trl_rloo(
        at_tokens(log_pi, batch), at_tokens(log_ref, batch), np.asarray(batch.mask), score, float(run.settings.penalty.beta)
    )[:, 0]
    expected = reward - (reward.sum() - reward) / (SIZE - 1)
    learned = sampled_losses.experience(run.settings, spec.objective(run), at, batch, jnp.asarray(0.0))
    np.testing.assert_allclose(learned.advantages, np.repeat(expected[:, None], HORIZON, axis=1), atol=1e-12)


def test_tunix_s_penalty_is_one_on_short_sequences(run_of):
    """Its expected gradient, by every sequence of a random table, is that of E[1/length], and zero once nothing divides."""
    run = run_of("tunix_grpo")
    listed = enumerate_all(TASK.automaton)
    tokens, states, mask = (jnp.asarray(x) for x in (listed.tokens, listed.states, listed.mask))
    length = jnp.sum(mask, axis=1).astype(jnp.float64)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(HORIZON, 2, VOCABULARY)))
    policy = lambda at: policies.tabular.Tabular(at, jnp.asarray(TASK.automaton.legal))  # noqa: E731
    chance = lambda at: jnp.exp(scoring.log_probability(policy(at), listed))  # noqa: E731
    batch = Batch(tokens, states, mask, chance(logits), listed.size)

    def penalised(at, aggregation):
        algorithm = dataclasses.replace(run.settings.algorithm, loss_aggregation=aggregation)
        summed = dataclasses.replace(run, settings=dataclasses.replace(run.settings, algorithm=algorithm))
        positions = scoring.positions(TASK.automaton, policy(at), run.reference, batch)
        learned = sampled_losses.experience(summed.settings, spec.objective(summed), positions, batch, jnp.asarray(0.0))
        return sampled_losses.surrogate(
            summed.settings,
            summed.settings.penalty.beta,
            positions,
            batch,
            learned._replace(advantages=jnp.zeros_like(learned.advantages)),
        )

    expected = float(run.settings.penalty.beta) * jax.grad(lambda at: jnp.sum(chance(at) / length))(logits)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(jax.grad(lambda at: penalised(at, "seq-mean-token-mean"))(logits), expected, atol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda at: penalised(at, "seq-mean-token-sum"))(logits), 0.0, atol=1e-12)


def test_verl_s_clip_starts_where_its_preset_says():
    slopes = [slope(lambda x: verl_grpo(x, np.zeros(1), np.ones(1), 1.0, x), np.array([u]))[0] for u in (-2.60, -2.62)]
    np.testing.assert_allclose(slopes, [1 - np.exp(2.60), 0.0], atol=1e-6)
    assert "below -2.61 have no gradient" in comment("verl_grpo")


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_says_it_descends_is_what_it_descends(preset):
    chosen, said = compose([f"penalty={preset}"])["penalty"], comment(preset)
    kinds = set()
    for place, horizon in (("a bandit", 1), ("sequences", HORIZON)):
        allowed = settings.PenaltySettings(**{key: value for key, value in chosen.items() if value is not None})
        found = expected_gradient(options.resolve_penalty("sampled", allowed, horizon), horizon)
        assert f"\n# On {place} it descends {found.says}.\n" in said + "\n"
        kinds.add(found.kind)
    assert chosen["allow_biased"] == (kinds != {"exact"})
    assert len(re.findall(r"\([0-9a-f]{12}[:)]", said)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_s_own_command_takes_a_step(preset):
    run = built(preset, "task=bandit/random")
    state = jax.jit(loop.start)(run)
    assert jax.jit(loop.step)(run, state).step == 1
