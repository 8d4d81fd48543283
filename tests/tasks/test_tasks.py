"""Tasks are what their descriptions say; bad arguments are refused in one line."""

import hashlib
import json
import math

import numpy as np
import pytest
import scipy

from rlkl import tasks
from rlkl.errors import SettingsError

BANDITS = sorted(name for name in tasks.REGISTRY if name.startswith("bandit/") and name != "bandit/custom")


def reference(card):
    return np.exp(card.task.log_reference[0])


@pytest.mark.parametrize("name", BANDITS)
def test_every_task_has_a_normalised_reference_and_named_outcomes(name):
    card = tasks.build(name)
    automaton = card.task.automaton
    np.testing.assert_allclose(np.exp(card.task.log_reference).sum(axis=1), 1.0, atol=1e-12)
    assert len(card.outcomes) == len(automaton.outcomes) == automaton.prompts * automaton.vocabulary
    assert len(card.prompts) == (automaton.prompts if automaton.prompts > 1 else 0)
    assert np.isfinite(card.task.reward).all()
    assert len(set(card.outcomes)) == len(card.outcomes)
    json.dumps(card.facts)


@pytest.mark.parametrize("name", BANDITS)
def test_every_task_is_the_same_every_time(name):
    a, b = tasks.build(name), tasks.build(name)
    np.testing.assert_array_equal(a.task.reward, b.task.reward)
    np.testing.assert_array_equal(a.task.log_reference, b.task.log_reference)


def test_bimodal_has_two_modes_and_a_reward_on_the_minor_one():
    card = tasks.build("bandit/bimodal", gap=2.0)
    x, p, r = card.task.coordinates, reference(card), card.task.reward[1:]
    assert (x[0], x[-1], x.size) == (-8.0, 8.0, 64)
    np.testing.assert_allclose(p[x < 0].sum(), 0.7, atol=2e-3)
    np.testing.assert_allclose(r, 2.0 * np.exp(-((x - 3) ** 2) / 2))
    assert (tasks.build("bandit/bimodal").task.reward == 0).all()


def test_two_modes_are_gx_chen_s():
    for others in (1, 4):
        card = tasks.build("bandit/two_modes", others=others)
        np.testing.assert_allclose(card.task.log_reference[0][:2], [-4.05, -5.95])
        assert card.task.reward[1:].tolist() == [0.75, 1.0] + [0.0] * others


def test_zipf_falls_as_one_over_rank():
    p = reference(tasks.build("bandit/zipf"))
    assert p.size == 1000
    np.testing.assert_allclose(p[0] / p[99], 100.0)
    uniform, normal, rank = (tasks.build("bandit/zipf", reward_kind=k).task.reward[1:] for k in ("uniform", "normal", "rank"))
    assert 0 <= uniform.min() < uniform.max() <= 1
    assert abs(normal.mean()) < 4 / math.sqrt(1000)
    np.testing.assert_allclose(rank, np.arange(1, 1001) / 1000)
    assert not np.array_equal(uniform, tasks.build("bandit/zipf", seed=1).task.reward[1:])


def test_needle_is_where_the_reference_hardly_goes():
    card = tasks.build("bandit/needle")
    np.testing.assert_allclose(reference(card)[0], 1e-4)
    assert card.task.reward[1:].tolist() == [1.0] + [0.0] * 99


@pytest.mark.parametrize(("error", "scale"), [("student_t", 2.0), ("normal", 3.0)])
def test_heavy_tailed_s_cells_have_the_distribution_s_masses_and_means(error, scale):
    options = {"error": error, "error_scale": scale, "degrees": 3.0, "gold_size": 7, "error_size": 8, "tail": 1e-3}
    card = tasks.build("bandit/heavy_tailed", **options)
    gold, reward, p = card.task.gold[1:].reshape(7, 8), card.task.reward[1:].reshape(7, 8), reference(card).reshape(7, 8)
    x, mass = (reward - gold)[0], p.sum(axis=0)
    np.testing.assert_allclose(p, np.outer(p.sum(axis=1), mass), rtol=1e-12)  # independent
    distribution = scipy.stats.t(df=3.0, scale=scale) if error == "student_t" else scipy.stats.norm(scale=scale)
    edges = np.concatenate([[-np.inf], distribution.ppf(np.cumsum(mass)[:-1]), [np.inf]])
    assert mass[-1] == pytest.approx(1e-3)
    for low, high, value, weight in zip(edges[:-1], edges[1:], x, mass, strict=True):
        inside, _ = scipy.integrate.quad(lambda y: y * distribution.pdf(y), low, high)
        assert value == pytest.approx(inside / weight, rel=1e-6)
    scores = scipy.stats.norm.ppf(np.cumsum(mass)[:-1])
    np.testing.assert_allclose(np.diff(scores), np.diff(scores).mean(), rtol=1e-9)
    assert gold[3, 0] == 0.0 and gold[4, 0] > 0.0  # an odd number of cells has one around 0


def test_heavy_tailed_reaches_far_and_keeps_the_moments():
    card = tasks.build("bandit/heavy_tailed")
    gold, p = card.task.gold[1:], reference(card)
    error = card.task.reward[1:] - gold
    assert p.size == 100_000
    np.testing.assert_allclose([(p * gold).sum(), (p * error).sum()], 0.0, atol=1e-12)
    np.testing.assert_allclose([(p * gold**2).sum(), (p * error**2).sum()], [1.0, 3.0], rtol=2e-3)
    edge = scipy.stats.t(df=3.0).isf(1e-12)
    np.testing.assert_allclose(error.max(), 1.5 * edge, rtol=1e-6)  # E[X | X > x] = 3/2 x far out, with 3 degrees


def test_words_are_the_text_s_frequencies(tmp_path):
    text = "The cat saw the dog. The dog, the DOG ran!\n"
    path = tmp_path / "text.txt"
    path.write_text(text)
    card = tasks.build("bandit/words", path=str(path), size=3)
    assert card.outcomes == ("the", "dog", "cat")
    np.testing.assert_allclose(reference(card), np.array([4, 3, 1]) / 8)
    assert card.facts["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert card.facts["text_words"] == 10
    np.testing.assert_allclose(card.task.reward[1:], 0.3)
    letter = tasks.build("bandit/words", path=str(path), size=3, reward="letter", letter="o")
    assert letter.task.reward[1:].tolist() == [0.0, 1.0, 0.0]
    assert tasks.build("bandit/words", path=str(path), size=3, reward="rank").task.reward[1:].tolist() == [0.0, 0.5, 1.0]


def test_default_text_is_english_prose():
    card = tasks.build("bandit/words")
    assert card.outcomes[0] == "the"
    assert card.facts["text"] == "pydoc_data.topics"


BAD = [
    ("bandit/custom", {"reward": [0, 1], "reference": [-0.1, 1.1]}, "task.reference", "entry 0"),
    ("bandit/custom", {"reward": [0, 1], "reference": [0.3, 0.3]}, "task.reference", "sums to 0.6"),
    ("bandit/custom", {"reward": [0, 1], "reference": [0, 0]}, "task.reference", "all are zero"),
    ("bandit/custom", {"reward": [0, float("nan")], "reference": [0.5, 0.5]}, "task.reward", "nan"),
    ("bandit/custom", {"reward": [0, 1, 2], "reference": [0.5, 0.5]}, "task.reference", "3"),
    ("bandit/custom", {"reward": "abc", "reference": [0.5, 0.5]}, "task.reward", "list of numbers"),
    ("bandit/custom", {"reward": [0, 1]}, "task.reference", "needs a value"),
    ("bandit/custom", {"reward": [1.0], "reference": [1.0]}, "task.reward", "at least 2"),
    ("bandit/custom", {"reward": [0, 1], "reference": [0.5, 0.5], "names": ["a"]}, "task.names", "2 names"),
    ("bandit/zipf", {"reward_kind": "cauchy"}, "task.reward_kind", "uniform, normal, rank"),
    ("bandit/zipf", {"size": 1}, "task.size", "at least 2"),
    ("bandit/needle", {"mass": 1.5}, "task.mass", "below 1"),
    ("bandit/two_modes", {"others": 0}, "task.others", "at least 1"),
    ("bandit/heavy_tailed", {"error": "cauchy"}, "task.error", "student_t, normal"),
    ("bandit/heavy_tailed", {"degrees": 1.0}, "task.degrees", "above 1"),
    ("bandit/heavy_tailed", {"error_scale": 0.0}, "task.error_scale", "above 0"),
    ("bandit/heavy_tailed", {"gold_size": 3}, "task.gold_size", "at least 4"),
    ("bandit/heavy_tailed", {"tail": 0.2}, "task.tail", "at most 0.1"),
    ("bandit/heavy_tailed", {"error_size": 10**9}, "task.error_size", "GiB"),
    ("bandit/bimodal", {"gap": "x"}, "task.gap", "number"),
    ("bandit/bimodal", {"gpa": 1}, "task.gpa", "did you mean 'gap'"),
    ("bandit/bimodl", {}, "task.name", "did you mean 'bandit/bimodal'"),
    ("bandit/words", {"path": "/no/such/file"}, "task.path", "cannot be read"),
    ("bandit/words", {"letter": "ab"}, "task.letter", "one letter"),
]


@pytest.mark.parametrize(("name", "options", "key", "says"), BAD)
def test_bad_arguments_are_refused(name, options, key, says):
    with pytest.raises(SettingsError) as refused:
        tasks.build(name, **options)
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("content", "says"), [(b"", "is empty"), (b"\xff\xfe\x00", "UTF-8"), (b"word word", "1 different")])
def test_unusable_texts_are_refused(tmp_path, content, says):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=says):
        tasks.build("bandit/words", path=str(path))
