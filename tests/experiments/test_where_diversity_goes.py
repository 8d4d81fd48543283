"""Where diversity goes: its policies against closed forms and enumeration, its shares and text on the committed numbers."""

import math

import jax
import numpy as np
import pytest

from experiments.where_diversity_goes import figure, measured, numbers, places, shares
from tests.experiments import house


@pytest.fixture(scope="module")
def drawn():
    return house.committed("where_diversity_goes")


@pytest.fixture(scope="module")
def words():
    return places.place("words")


@pytest.fixture(scope="module")
def grammar():
    return places.place("grammar")


def test_the_steps_lead_from_the_reference_to_the_trained_policy(drawn):
    steps = shares.table(drawn).groupby(["task", "direction", "view", "seed"])["entropy"].sum()
    start = drawn[drawn["series"] == "reference"].set_index("task")["entropy"]
    ended = drawn[(drawn["series"] == "trained") & (drawn["data"] == 1) & drawn["beta"].isin(shares.SHOWN)]
    assert len(ended) == 2 * 2 * len(shares.SHOWN) * len(places.SEEDS)
    for _, run in ended.iterrows():
        total = steps[run["task"], run["direction"], f"beta {run['beta']:g}", run["seed"]]
        assert total == pytest.approx(run["entropy"] - start[run["task"]], abs=1e-5)


def test_its_text_fits_a_readme(drawn):
    assert max(map(len, figure.text(drawn).splitlines())) <= 128


@pytest.mark.parametrize("name", ["words", "grammar"])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_biased_optimum_is_the_reference_sharpened(name, beta, request):
    at, a = request.getfixturevalue(name), places.TYPICALITY
    with jax.enable_x64(True):
        log_pi = places.optimum(at, "kl_pi_ref", places.gold(at, a), beta)
    wanted = (1.0 + a / beta) * at.log_ref + np.asarray(at.task.reward)[at.end] / beta
    np.testing.assert_allclose(log_pi, wanted - np.logaddexp.reduce(wanted), atol=1e-9)


def test_a_hundredth_of_typicality_collapses_the_other_direction_alone(grammar):
    with jax.enable_x64(True):
        left = {
            (direction, a): numbers.of(grammar, places.optimum(grammar, direction, places.gold(grammar, a), 0.1))["entropy"]
            for direction in measured.DIRECTIONS
            for a in (0.0, 0.01)
        }
    assert left["kl_ref_pi", 0.0] - left["kl_ref_pi", 0.01] > 4.0
    assert left["kl_pi_ref", 0.0] - left["kl_pi_ref", 0.01] < 0.5


@pytest.mark.parametrize("name", ["words", "grammar"])
def test_the_optimum_of_the_other_direction_has_its_form(name, request):
    """pi = beta pi_ref/(L - r): L is the same for every sequence, and the probabilities sum to 1."""
    at, beta = request.getfixturevalue(name), 0.3
    reward = places.gold(at, places.TYPICALITY)
    with jax.enable_x64(True):
        log_pi = places.optimum(at, "kl_ref_pi", reward, beta)
    worth = np.asarray(reward.of_state)[at.end] + reward.typicality * at.log_ref
    level = worth + beta * np.exp(at.log_ref - log_pi)
    assert np.ptp(level) < 1e-7
    assert math.isclose(np.exp(log_pi).sum(), 1.0, abs_tol=1e-9)


@pytest.mark.slow
def test_k3_in_the_loss_is_the_other_direction_on_one_token_and_neither_on_sequences(words, grammar):
    with jax.enable_x64(True):
        for at, same in ((words, True), (grammar, False)):
            reward = places.gold(at, 0.0)
            ended, best = places.descended(at, reward, 0.3), places.optimum(at, "kl_ref_pi", reward, 0.3)
            assert (np.abs(np.exp(ended) - np.exp(best)).sum() < 1e-9) == same
            assert math.isclose(np.exp(ended).sum(), 1.0, abs_tol=1e-9)


def test_distinct_is_the_ratio_of_two_means_over_corpora(grammar):
    draw, p = np.random.default_rng(0), np.exp(grammar.log_ref)
    tokens, mask = np.asarray(grammar.listed.tokens), np.asarray(grammar.listed.mask)
    corpora = draw.choice(len(p), (400, numbers.DRAWS), p=p / p.sum())
    lengths = mask.sum(axis=1)
    different, every = [], []
    for corpus in corpora:
        pairs = [(a, b) for i in corpus for a, b in zip(tokens[i, : lengths[i] - 1], tokens[i, 1 : lengths[i]], strict=True)]
        different.append(len(set(pairs)))
        every.append(len(pairs))
    ratio = np.mean(different) / np.mean(every)
    residual = np.asarray(different) - ratio * np.asarray(every)
    stderr = residual.std(ddof=1) / math.sqrt(len(corpora)) / np.mean(every)
    assert abs(numbers.distinct(grammar, p) - ratio) < 4.0 * stderr


def test_numbers_of_a_uniform_policy(words):
    log_pi = np.full(len(words.log_ref), -math.log(len(words.log_ref)))
    found = numbers.of(words, log_pi)
    assert found["entropy"] == pytest.approx(math.log(len(log_pi)))
    assert found["effective_support"] == pytest.approx(len(log_pi))
    assert found["distinct"] == pytest.approx(1.0 - (1.0 - 1.0 / len(log_pi)) ** numbers.DRAWS)
    assert found["kl_pi_ref"] == pytest.approx(-math.log(len(log_pi)) - words.log_ref.mean())


@pytest.mark.parametrize("view", ["equal KL", "equal reward"])
@pytest.mark.parametrize("causes", [(0, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("direction", measured.DIRECTIONS)
def test_what_is_read_off_a_curve_is_what_the_optimum_has_there(drawn, words, view, causes, direction):
    laid = shares.curves(drawn)
    curve = shares.exact(laid, "words", direction, causes, 1)
    log_beta = shares.stand(laid, "words", view, curve)
    reward = places.gold(words, causes[1] * places.TYPICALITY)
    with jax.enable_x64(True):
        beta = math.exp(log_beta)
        log_pi = places.descended(words, reward, beta) if causes[2] else places.optimum(words, direction, reward, beta)
    solved = numbers.of(words, log_pi)
    assert abs(curve.at(log_beta)[0] - solved["entropy"]) < 0.05
    name = {"equal KL": "kl_pi_ref", "equal reward": "reward"}[view]
    assert abs(curve.at(log_beta)[numbers.NUMBERS.index(name)] - solved[name]) < 0.05
