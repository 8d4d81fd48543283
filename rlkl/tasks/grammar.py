"""A small English grammar: 40 words and two dozen states generate readable sentences of up to twelve words."""

from typing import Any

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import choice, whole
from rlkl.tasks.registry import Card, register

LEXICON = {
    "determiner": ("the", "a", "every", "some"),
    "adjective": ("small", "old", "quiet", "red", "strange", "golden"),
    "noun": ("cat", "dog", "child", "river", "moon", "garden", "ship", "letter", "king", "dragon"),
    "transitive": ("sees", "loves", "follows", "finds", "paints"),
    "intransitive": ("sleeps", "sings", "waits", "falls", "shines"),
    "adverb": ("slowly", "often", "quietly", "here"),
    "preposition": ("near", "under"),
    "and": ("and",),
    "end": (".", "!", "?"),
}
WORDS = tuple(word for words in LEXICON.values() for word in words)
ENDINGS = {".": 0.90, "!": 0.08, "?": 0.02}
# state -> class of the next word -> (next state, weight under the reference)
GRAMMAR: dict[str, dict[str, tuple[str, float]]] = {
    "start": {"determiner": ("subject determiner", 1.0)},
    "subject determiner": {"noun": ("subject", 0.6), "adjective": ("subject adjective", 0.4)},
    "subject adjective": {"noun": ("subject", 0.8), "adjective": ("subject adjectives", 0.2)},
    "subject adjectives": {"noun": ("subject", 1.0)},
    "subject": {"transitive": ("transitive", 0.45), "intransitive": ("intransitive", 0.4), "preposition": ("place", 0.15)},
    "place": {"determiner": ("place determiner", 1.0)},
    "place determiner": {"noun": ("placed subject", 0.8), "adjective": ("place adjective", 0.2)},
    "place adjective": {"noun": ("placed subject", 1.0)},
    "placed subject": {"transitive": ("transitive", 0.5), "intransitive": ("intransitive", 0.5)},
    "transitive": {"determiner": ("object determiner", 1.0)},
    "object determiner": {"noun": ("object", 0.65), "adjective": ("object adjective", 0.35)},
    "object adjective": {"noun": ("object", 1.0)},
    "object": {"end": ("", 0.65), "adverb": ("adverb", 0.2), "and": ("and", 0.15)},
    "intransitive": {"end": ("", 0.5), "adverb": ("adverb", 0.3), "and": ("and", 0.2)},
    "adverb": {"end": ("", 1.0)},
    "and": {"transitive": ("second transitive", 0.5), "intransitive": ("second intransitive", 0.5)},
    "second transitive": {"determiner": ("second determiner", 1.0)},
    "second determiner": {"noun": ("second object", 1.0)},
    "second object": {"end": ("", 0.8), "adverb": ("adverb", 0.2)},
    "second intransitive": {"end": ("", 0.7), "adverb": ("adverb", 0.3)},
}


def rows(state: str) -> state_graph.Row | None:
    """The tokens of a state: a word's weight in its class is 1/rank, and each punctuation mark has an end state of its own."""
    if state not in GRAMMAR:
        return None
    row: dict[str, tuple[str, float]] = {}
    for kind, (after, weight) in GRAMMAR[state].items():
        words = LEXICON[kind]
        share = [ENDINGS[word] if kind == "end" else 1.0 / rank for rank, word in enumerate(words, start=1)]
        for word, part in zip(words, share, strict=True):
            row[word] = (f"ends in {word}" if kind == "end" else after, weight * part / sum(share))
    return row


@register("sequence/grammar")
def grammar(reward="topic", topic="dragon", target=9, horizon=12, prompts="none", typicality=0.0) -> Card:
    """Short English sentences. Rewards of a finished sentence: topic (1 if it mentions `topic`), ending (1 for ! and ?, which
    are rare under the reference, and 1/2 for a full stop) or length (1 at `target` words, less with the distance).

    With prompts=topics there is a prompt for each noun, which names the topic: the reward is 1 if the sentence mentions it.
    """
    kind = choice("task.reward", reward, ("topic", "ending", "length"))
    word = choice("task.topic", topic, WORDS)
    if choice("task.prompts", prompts, ("none", "topics")) == "topics" and (kind, word) != ("topic", "dragon"):
        key, value = ("topic", topic) if kind == "topic" else ("reward", reward)
        raise SettingsError(f"task.{key}", value, "has no effect with task.prompts=topics, where each prompt names its topic")
    horizon, target = whole("task.horizon", horizon, at_least=4), whole("task.target", target, at_least=3)
    if prompts == "topics":
        return _topics(LEXICON["noun"], horizon, typicality)
    if kind == "topic":
        return _topic(word, horizon, typicality)
    return _length(target, horizon, typicality) if kind == "length" else _ending(horizon, typicality)


def _finished(state: str) -> bool:
    return state.startswith("ends in")


def _topic(word: str, horizon: int, typicality: Any) -> Card:
    watched_rows = state_graph.watched(rows, lambda mentioned, token: mentioned or token == word)
    return state_graph.card(
        watched_rows, ("start", False), WORDS, horizon,
        reward=lambda pair: float(_finished(pair[0]) and pair[1]),
        name=lambda pair: f"{pair[0]}{' with ' + word if pair[1] else ''}",
        typicality=typicality,
    )  # fmt: skip


def _topics(words: tuple[str, ...], horizon: int, typicality: Any) -> Card:
    """The card with a prompt for each word; the memory of a state is the word and whether it was mentioned."""

    def watch(memory: tuple[str, bool], token: str) -> tuple[str, bool]:
        word, mentioned = memory
        return word, mentioned or token == word

    return state_graph.card(
        state_graph.watched(rows, watch), {word: ("start", (word, False)) for word in words}, WORDS, horizon,
        reward=lambda pair: float(_finished(pair[0]) and pair[1][1]),
        name=lambda pair: f"{pair[1][0]}: {pair[0]}{' with it' if pair[1][1] else ' without it' if _finished(pair[0]) else ''}",
        typicality=typicality,
    )  # fmt: skip


def _ending(horizon: int, typicality: Any) -> Card:
    rewards = {"ends in !": 1.0, "ends in ?": 1.0, "ends in .": 0.5}
    return state_graph.card(rows, "start", WORDS, horizon, lambda state: rewards.get(state, 0.0), str, typicality)


def _length(target: int, horizon: int, typicality: Any) -> Card:
    watched_rows = state_graph.watched(rows, lambda length, token: length + 1)
    return state_graph.card(
        watched_rows, ("start", 0), WORDS, horizon,
        reward=lambda pair: max(0.0, 1.0 - abs(pair[1] - target) / target) if _finished(pair[0]) else 0.0,
        name=lambda pair: f"{pair[0]} after {pair[1]}",
        typicality=typicality,
    )  # fmt: skip
