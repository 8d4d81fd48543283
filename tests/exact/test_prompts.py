"""Tasks with several prompts: values, optima and gradients against plain enumeration, prompt by prompt."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlkl import exact, tasks
from rlkl.divergences import REGISTRY, Params
from rlkl.exact import Objective, best_of_n, optimal_policy
from rlkl.policies import Fixed
from rlkl.policies.tabular import Tabular
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import enumerate_all
from rlkl.tasks import Automaton, Task
from rlkl.tasks.preferences import annotators
from tests.helpers import DEFINITIONS, PARAMS, random_rows, sequences

QUICK, MANY = 3, 100


def random_parts(draw: np.random.Generator, prompts: int) -> list[Task]:
    """One random task a prompt, all of one vocabulary and horizon."""
    vocabulary, horizon, parts = int(draw.integers(2, 5)), int(draw.integers(1, 5)), []
    for _ in range(prompts):
        decisions, ends = int(draw.integers(1, 4)), int(draw.integers(1, 4))
        following = draw.integers(0, decisions + ends, size=(decisions, vocabulary))
        illegal = draw.random(following.shape) < 0.2
        illegal[:, 0] = False
        automaton = Automaton(np.where(illegal, -1, following), decisions + ends, horizon)
        rows, states = random_rows(draw, automaton.legal), automaton.states
        parts.append(Task(automaton, draw.normal(size=states), rows, np.zeros(()), np.arange(float(vocabulary))))
    return parts


def joined(parts: list[Task], weights) -> Task:
    """The task whose prompts are these tasks: their decision states in order, then their end states."""
    counts = [part.automaton.decisions for part in parts]
    first, total = np.cumsum([0, *counts[:-1]]), sum(counts)
    following, reward, end = [], [np.concatenate([part.reward[:d] for part, d in zip(parts, counts, strict=True)])], total
    for part, decisions, offset in zip(parts, counts, first, strict=True):
        next_state = part.automaton.next_state
        moved = np.where(next_state >= decisions, next_state - decisions + end, next_state + offset)
        following.append(np.where(next_state < 0, -1, moved))
        reward.append(part.reward[decisions:])
        end += part.automaton.states - decisions
    automaton = Automaton(np.concatenate(following), end, parts[0].automaton.horizon, first.tolist(), prompt_weights=weights)
    rows = np.concatenate([part.log_reference for part in parts])
    return dataclasses.replace(parts[0], automaton=automaton, reward=np.concatenate(reward), log_reference=rows)


def random_case(seed: int):
    draw = np.random.default_rng(seed)
    parts = random_parts(draw, seed % 4 + 1)
    weights = draw.dirichlet(np.ones(len(parts)))
    task = joined(parts, weights)
    legal = np.broadcast_to(task.automaton.legal, (task.automaton.horizon, *task.automaton.legal.shape))
    return parts, weights, task, random_rows(draw, legal)


def plain(parts, weights, log_pi):
    """By recursion in each part: for each prompt, its sequences' paths in the joined table, pi, pi_ref and rewards."""
    first = np.cumsum([0, *[part.automaton.decisions for part in parts]])
    for part, offset, weight in zip(parts, first, weights, strict=False):
        paths = [[(t, s + offset, v) for t, s, v in path] for path, _ in sequences(part.automaton)]
        pi = np.exp([sum(log_pi[at] for at in path) for path in paths])
        ref = np.exp([sum(part.log_reference[s - offset, v] for _, s, v in path) for path in paths])
        yield weight, paths, pi, ref, np.array([part.reward[end] for _, end in sequences(part.automaton)])


@jax.jit
def value_and_gradient(objective: Objective, logits):
    support = jnp.asarray(objective.task.automaton.legal)
    return jax.value_and_grad(lambda x: exact.objective_value(objective, Tabular(x, support).table()))(logits)


solve = jax.jit(optimal_policy.solve)


def check(seed: int, names) -> None:
    parts, weights, task, log_pi = random_case(seed)
    device = jax.tree.map(jnp.asarray, task)
    reference = Fixed(device.log_reference, task.automaton.horizon)
    prompts = list(plain(parts, weights, log_pi))
    for name in names:
        objective = Objective(device, reference, REGISTRY[name], PARAMS, jnp.asarray(0.3))
        logits = jnp.asarray(np.where(task.automaton.legal[None], log_pi, 0.0))
        value, gradient = value_and_gradient(objective, logits)
        expected = [w * (pi @ r - 0.3 * DEFINITIONS[name](pi, ref)) for w, _, pi, ref, r in prompts]
        np.testing.assert_allclose(value, sum(expected), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(gradient, plain_gradient(task, prompts, log_pi, name), atol=1e-10)
        optimum = solve(objective)
        alone = [single_optimum(part, name) for part in parts]
        np.testing.assert_allclose(optimum.objective, weights @ [each.objective for each in alone], rtol=1e-10, atol=1e-12)
        rows = np.concatenate([np.asarray(each.log_pi) for each in alone], axis=1)
        visited = np.asarray(exact.occupancy(task.automaton, optimum.log_pi)) > 0.0
        np.testing.assert_allclose(np.exp(optimum.log_pi)[visited], np.exp(rows)[visited], atol=1e-9)
        # The same optimum by enumeration, as for a network's reference.
        batch = enumerate_all(task.automaton)
        log_ref = scoring.log_probability(reference, batch)
        listed = scoring.log_probability(Fixed(jnp.asarray(log_pi), task.automaton.horizon), batch)
        np.testing.assert_allclose(exact.enumerated_objective(objective, batch, listed, log_ref), value, rtol=1e-10)
    values = exact.values(objective, jnp.asarray(log_pi))
    listed_values = exact.enumerated_values(objective, batch, listed, log_ref)
    entropy = -sum(w * pi @ np.log(pi) for w, _, pi, _, _ in prompts)
    for each in (values, listed_values):
        np.testing.assert_allclose(each.entropy, entropy, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            each.kl_ref_pi, sum(w * ref @ np.log(ref / pi) for w, _, pi, ref, _ in prompts), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(each.typicality, sum(w * pi @ np.log(ref) for w, _, pi, ref, _ in prompts), rtol=1e-10)
        np.testing.assert_allclose(
            each.length, sum(w * pi @ list(map(len, paths)) for w, paths, pi, _, _ in prompts), rtol=1e-10
        )


def single_optimum(part: Task, name: str):
    device = jax.tree.map(jnp.asarray, part)
    reference = Fixed(device.log_reference, part.automaton.horizon)
    return solve(Objective(device, reference, REGISTRY[name], PARAMS, jnp.asarray(0.3)))


SLOPES = {  # f'(t) of each divergence, written out
    "kl_pi_ref": lambda t: np.log(t) + 1.0,
    "kl_ref_pi": lambda t: -1.0 / t,
    "pearson": lambda t: 2.0 * (t - 1.0),
    "jensen_shannon": lambda t: 0.5 * np.log(2.0 * t / (1.0 + t)),
}


def plain_gradient(task: Task, prompts, log_pi, name: str) -> np.ndarray:
    """sum over prompts and sequences of rho pi (r - beta f'(pi/pi_ref)) times the tokens' scores."""
    gradient = np.zeros_like(log_pi)
    for weight, paths, pi, ref, reward in prompts:
        for path, p, q, r in zip(paths, pi, ref, reward, strict=True):
            for t, s, v in path:
                score = -np.exp(log_pi[t, s])
                score[v] += 1.0
                gradient[t, s] += weight * p * (r - 0.3 * SLOPES[name](p / q)) * score
    return gradient


def test_values_gradients_and_optima_are_those_of_plain_enumeration():
    check(QUICK, ["kl_ref_pi", "pearson"])


@pytest.mark.many
@pytest.mark.parametrize("seed", range(MANY))
def test_values_gradients_and_optima_are_those_of_plain_enumeration_on_many_automata(seed):
    check(seed, SLOPES)


def test_prompts_that_share_a_state_and_weights_that_are_not_positive_are_refused():
    following = np.array([[2, 3], [3, 4]])
    with pytest.raises(ValueError, match="state 3 can be reached from prompts 0 and 1"):
        Automaton(following, 5, 1, [0, 1])
    with pytest.raises(ValueError, match="2 numbers above 0"):
        Automaton(np.array([[2, 3], [4, 5]]), 6, 1, [0, 1], prompt_weights=[1.0, 0.0])


def test_prompts_are_drawn_as_often_as_their_weights_say():
    task = tasks.build("bandit/custom", reward=[[0, 1]] * 3, reference=[[0.5, 0.5]] * 3, prompt_weights=[5, 2, 1]).task
    draw = jax.jit(lambda key: sampling.prompt_starts(key, task.automaton, 8))
    for seed in range(20):  # systematic sampling: exactly, where the numbers are whole
        np.testing.assert_array_equal(np.bincount(draw(jax.random.key(seed)), minlength=3), [5, 2, 1])
    few = jax.vmap(lambda key: sampling.prompt_starts(key, task.automaton, 3))(jax.random.split(jax.random.key(0), 4000))
    share = np.bincount(np.asarray(few).ravel(), minlength=3) / few.size
    np.testing.assert_allclose(share, [5 / 8, 2 / 8, 1 / 8], atol=4 * np.sqrt(0.25 / few.size))
    free = np.bincount(sampling.independent_starts(jax.random.key(1), task.automaton, 12_000), minlength=3) / 12_000
    np.testing.assert_allclose(free, [5 / 8, 2 / 8, 1 / 8], atol=4 * np.sqrt(0.25 / 12_000))


@pytest.mark.parametrize("arms", [3, 40])
def test_each_group_answers_one_prompt_with_the_policy_s_probabilities(arms):
    """With few arms as counts, with many as sequences."""
    draw = np.random.default_rng(0)
    task = tasks.build("bandit/prompts", prompts=4, size=arms).task
    table = random_rows(draw, np.ones((1, 4, arms), bool))
    start, keys = jnp.asarray([2, 0, 3, 1, 1], jnp.int32), jax.random.split(jax.random.key(0), 400)

    def frequencies(key):
        batch = sampling.sample(key, task.automaton, Fixed(jnp.asarray(table), 1), 50, start)
        assert (batch.size, batch.groups) == (50, 5)
        groups = batch.weight.reshape(5, -1)
        of_arms = jnp.zeros((5, arms)).at[jnp.arange(5)[:, None], jnp.asarray(batch.tokens).reshape(5, -1)].add(groups)
        return of_arms, jnp.asarray(batch.states).reshape(5, -1, 2)

    weights, states = jax.jit(jax.vmap(frequencies))(keys)
    np.testing.assert_allclose(weights.sum(-1), 0.2, rtol=1e-12)
    assert (states[..., 0] == start[None, :, None]).all()
    p = np.exp(table[0])[np.asarray(start)]
    error = np.sqrt(p * (1 - p) / (10 * 400))
    np.testing.assert_array_less(np.abs(5 * np.asarray(weights).mean(0) - p), 4.5 * error + 1e-12)


@pytest.mark.parametrize("n", [1, 3])
def test_best_of_n_is_the_mean_of_its_prompts(n):
    parts, weights, task, _ = random_case(3)
    whole = best_of_n.evaluate(task, Fixed(task.log_reference, task.automaton.horizon), n)
    alone = [best_of_n.evaluate(part, Fixed(part.log_reference, part.automaton.horizon), n) for part in parts]
    for name in ("reward", "kl_pi_ref", "win_rate", "entropy", "typicality"):
        np.testing.assert_allclose(getattr(whole, name), weights @ [getattr(each, name) for each in alone], atol=1e-12)


def test_pairs_compare_answers_to_one_prompt():
    card = tasks.build("bandit/prompts", prompts=3, size=4)
    preferences = annotators.every_pair(annotators.under_gold(card.task), annotators.Preferences(0.0, 1.0))
    sequences_read, pairs = preferences.sequences, preferences.pairs
    assert (sequences_read.prompt[pairs.first] == sequences_read.prompt[pairs.second]).all()
    p = np.exp(card.task.log_reference)
    apart = 1.0 - (p**2).sum(axis=1)  # that two answers to a prompt differ
    np.testing.assert_allclose(pairs.weight.sum(), apart.mean(), rtol=1e-12)
    drawn = annotators.ask(annotators.under_gold(card.task), annotators.Preferences(0.0, 1.0), 200, 0)
    assert (drawn.sequences.prompt[drawn.pairs.first] == drawn.sequences.prompt[drawn.pairs.second]).all()


def test_a_reward_fitted_to_infinitely_many_answers_is_the_gold_one_up_to_a_constant():
    card = tasks.build("preference/any", base={"name": "bandit/prompts", "prompts": 3, "size": 4}, pairs=None, typicality=0.2)
    ends = card.task.automaton.outcomes
    typical = np.asarray(card.task.gold)[ends] + 0.2 * card.task.log_reference.ravel()
    np.testing.assert_allclose(np.ptp(np.asarray(card.task.reward)[ends] - typical), 0.0, atol=1e-12)


def test_a_prompt_s_topic_is_its_own():
    card = tasks.build("sequence/grammar", prompts="topics")
    assert card.prompts[0] == "cat"
    assert len(card.prompts) == card.task.automaton.prompts == 10
    one = tasks.build("sequence/grammar", topic="river")
    whole, alone = (jax.tree.map(jnp.asarray, each.task) for each in (card, one))
    by_prompt = exact.prompt_values(Objective(whole, reference_of(whole)), reference_of(whole).table())
    value = exact.values(Objective(alone, reference_of(alone)), reference_of(alone).table())
    place = card.prompts.index("river")
    for name in ("reward", "entropy", "length"):
        np.testing.assert_allclose(getattr(by_prompt, name)[place], getattr(value, name), rtol=1e-12)


def reference_of(task: Task) -> Fixed:
    return Fixed(task.log_reference, task.automaton.horizon)


def test_the_kl_of_prompts_is_their_mean_for_every_divergence():
    """On a bandit with rows of several sizes of probability, so that no divergence takes a short cut."""
    draw = np.random.default_rng(5)
    task = tasks.build("bandit/prompts", prompts=3, size=5, lowest=0.01).task
    pi = random_rows(draw, np.ones((1, 3, 5), bool))
    for name, definition in DEFINITIONS.items():
        params = Params(0.5, (0.5, 0.5))
        whole = exact.sequence_divergence(
            task.automaton, REGISTRY[name], params, jnp.asarray(pi), jnp.asarray(task.log_reference)[None]
        )
        parts = [definition(np.exp(p), np.exp(q)) for p, q in zip(pi[0], task.log_reference, strict=True)]
        np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-10, err_msg=name)


def test_names_of_outcomes_tell_prompts_apart():
    card = tasks.build(
        "bandit/custom", reward=[[0, 1], [1, 0]], reference=[[0.5, 0.5], [0.9, 0.1]], names=["a", "b"], prompts=["x", "y"]
    )
    assert card.outcomes == tuple(f"{prompt}: {arm}" for prompt, arm in itertools.product("xy", "ab"))
