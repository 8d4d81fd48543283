"""The text task is the model that it says it is, counted and graded again here in plain Python."""

import hashlib
import math
import re

import numpy as np
import pytest

from rlkl import tasks
from rlkl.errors import SettingsError

TEXT = "The cat ate the hat; that heath, 2 theatres!  Each of the heathen hates the tea the cat had. "
CHARS = re.sub("[^a-z]+", " ", TEXT.lower()).strip()
WORDS = CHARS.split()


@pytest.fixture
def built(tmp_path):
    """Builds the task on TEXT, or on another text."""

    def build(text: str = TEXT, **options) -> tasks.Card:
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        return tasks.build("sequence/text", path=str(tmp_path / "text.txt"), **options)

    return build


def counted(text, read, token, order: int, smoothing: float, size: int) -> float:
    """p(token | read) by scanning the text (a string or a list) for the last `order` tokens of what was read."""

    def chance(context) -> float:
        after = [text[i + len(context)] for i in range(len(text) - len(context)) if text[i : i + len(context)] == context]
        below = chance(context[1:]) if context else 1 / size
        if not after:
            return below
        return (after.count(token) + smoothing * size * below) / (len(after) + smoothing * size)

    return chance(read[-order:])


def walks(card: tasks.Card, number: int):
    """Sequences of tokens, each equally likely at every place, with the states that they pass."""
    automaton, draw = card.task.automaton, np.random.default_rng(0)
    for _ in range(number):
        tokens = draw.integers(automaton.vocabulary, size=automaton.horizon)
        states = [automaton.starts[0]]
        for token in tokens:
            states.append(int(automaton.next_state[states[-1], token]))
        yield tokens, states


QUICK = {(0.0, 1), (0.1, 2), (2.0, 3)}
COUNTED = [
    pytest.param(smoothing, order, marks=[] if (smoothing, order) in QUICK else pytest.mark.slow)
    for smoothing in (0.0, 0.1, 2.0)
    for order in (1, 2, 3)
]


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize(("smoothing", "order"), COUNTED)
def test_the_reference_is_the_text_s_counts(built, unit, order, smoothing):
    """Along sequences with and without precedent in the text; what was read begins with a space (char) or nothing (word)."""
    card = built(unit=unit, order=order, smoothing=smoothing, held_out=0.2, size=100)
    everything, begun = (CHARS, " ") if unit == "char" else (WORDS, [])
    training = everything[: card.facts["text_tokens"]]
    assert set(card.tokens) == set(training) | {" " if unit == "char" else "<unk>"}
    assert card.task.automaton.legal.all()
    for tokens, states in walks(card, 60):
        for t, state in enumerate(states[:-1]):
            read = [card.tokens[i] for i in tokens[:t]]
            read = begun + (read if unit == "word" else "".join(read))
            expected = [counted(training, read, token, order, smoothing, len(card.tokens)) for token in card.tokens]
            np.testing.assert_allclose(np.exp(card.task.log_reference[state]), expected, rtol=1e-12)
    assert (card.task.log_reference > -np.inf).all() == (smoothing > 0)


def test_without_smoothing_rows_are_maximum_likelihood(built):
    card = built("abab cab " * 10, order=1, smoothing=0.0, pattern="a", size=4)
    a, automaton = card.tokens.index("a"), card.task.automaton
    after_a = np.exp(card.task.log_reference[automaton.next_state[automaton.starts[0], a]])
    assert after_a.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert card.tokens == ("a", "b", "c", " ")


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize(("order", "smoothing", "size"), [(1, 0.1, None), (2, 0.5, 8), (3, 0.02, None), (2, 0.0, None)])
def test_perplexity_is_that_of_the_held_out_text(built, unit, order, smoothing, size):
    card = built(unit=unit, order=order, smoothing=smoothing, held_out=0.3, size=size)
    everything = list(CHARS) if unit == "char" else WORDS
    cut = len(everything) - math.ceil(0.3 * len(everything))

    def folded(tokens):
        if unit == "word":
            return [token if token in card.tokens else "<unk>" for token in tokens]
        return list(re.sub(" +", " ", "".join(token if token in card.tokens else " " for token in tokens)))

    training, unseen = folded(everything[:cut]), folded(everything[cut:])
    assert (card.facts["text_tokens"], card.facts["held_out_tokens"]) == (len(training), len(unseen))
    whole = training + unseen
    chances = [
        counted(training, whole[:i], whole[i], order, smoothing, len(card.tokens)) for i in range(len(training), len(whole))
    ]
    expected = math.inf if 0.0 in chances else math.prod(chances) ** (-1 / len(chances))
    np.testing.assert_allclose(card.facts["held_out_perplexity"], expected, rtol=1e-12)
    assert (expected == math.inf) == (smoothing == 0.0)


@pytest.mark.parametrize(
    ("unit", "order", "pattern"),
    [("char", 2, "hath"), ("char", 3, "t"), ("char", 1, "tt t"), ("word", 1, "the cat"), ("word", 2, "the")],
)
def test_rewards_and_names_are_those_of_the_text_read(built, unit, order, pattern):
    """Overlaps, patterns longer than a context and shorter, sequences likely and unlikely."""
    card = built(unit=unit, order=order, pattern=pattern, size=5, horizon=10)
    named = dict(zip(card.task.automaton.outcomes.tolist(), card.outcomes, strict=True))
    assert len(set(card.outcomes)) == len(card.outcomes)
    seen = set()
    for tokens, states in walks(card, 3000):
        text = card.joiner.join(card.tokens[i] for i in tokens)
        found = pattern in text if unit == "char" else f" {pattern} " in f" {text} "
        seen.add(found)
        assert card.task.reward[states[-1]] == float(found)
        head, _, ending = named[states[-1]].partition(", ends in ")
        assert head == (f"{pattern.replace(' ', '_') if unit == 'char' else pattern} found" if found else "none")
        assert (text.replace(" ", "_") if unit == "char" else text).endswith(ending)
    assert seen == {True, False}


def test_anything_but_the_kept_letters_is_one_space(built):
    """Rare letters, digits and punctuation alike, and in words <unk>."""
    card = built("Öl, öl öl q 33 öl_öl " * 9 + "z", size=3, pattern="l", order=1, held_out=0.01, smoothing=0)
    assert card.tokens == ("l", "ö", " ")
    a = card.task.automaton
    rows = np.exp(card.task.log_reference)
    assert rows[a.starts[0]].tolist() == [0.0, 1.0, 0.0]
    assert rows[a.next_state[a.starts[0], 1]].tolist() == [1.0, 0.0, 0.0]
    assert card.facts["held_out_tokens"] == 1  # " z", of which neither is kept
    np.testing.assert_allclose(card.facts["text_kept"], 1 - 9 / 152)  # 9 of "q"
    words = built("One, two! Two don't: don't; two. " * 5, unit="word", size=3, pattern="two", order=1)
    assert words.tokens == ("two", "don't", "<unk>")


def test_the_record_says_which_text_it_was(built):
    facts = built().facts
    assert facts["text"] == "text.txt"
    assert facts["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert facts["text_tokens"] + facts["held_out_tokens"] == len(CHARS)
    assert facts["text_kept"] == 1.0


def test_the_default_is_english_and_small():
    card = tasks.build("sequence/text")
    assert (card.task.automaton.vocabulary, card.task.automaton.horizon) == (27, 12)
    assert card.task.automaton.decisions < 1200
    assert 5 < card.facts["held_out_perplexity"] < 7
    assert card.facts["text"] == "pydoc_data.topics"


BAD = [
    ({"unit": "byte"}, "task.unit", "char, word"),
    ({"order": 0}, "task.order", "at least 1"),
    ({"order": 13}, "task.order", "at most task.horizon=12"),
    ({"horizon": 0}, "task.horizon", "at least 1"),
    ({"smoothing": -0.1}, "task.smoothing", "at least 0"),
    ({"held_out": 0.0}, "task.held_out", "above 0"),
    ({"held_out": 1.0}, "task.held_out", "below 1"),
    ({"size": 1}, "task.size", "at least 2"),
    ({"typicality": "x"}, "task.typicality", "finite number"),
    ({"pattern": ""}, "task.pattern", "at least one char"),
    ({"pattern": " ", "unit": "word"}, "task.pattern", "at least one word"),
    ({"pattern": 3}, "task.pattern", "must be text"),
    ({"pattern": "the zoo"}, "task.pattern", "'z' is not one of the"),
    ({"pattern": "the zoo", "unit": "word"}, "task.pattern", "'zoo' is not one of the"),
    ({"pattern": "the", "horizon": 2}, "task.pattern", "has 3 chars, and a sequence 2"),
    ({"horizon": 10**9}, "task.order", "GiB"),
    ({"text": "of it all", "unit": "word"}, "task.path", "has 2 words to train on; task.order=2 needs 3"),
    ({"text": "1, 2, 3!"}, "task.path", "has 0 chars to train on"),
    ({"text": " "}, "task.path", "is empty"),
]


@pytest.mark.parametrize(("options", "key", "says"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments_are_refused(built, options, key, says):
    with pytest.raises(SettingsError) as refused:
        built(**options)
    assert refused.value.key == key
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
