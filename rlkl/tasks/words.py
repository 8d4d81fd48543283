"""Text as a bandit: the arms are the words of a text, and the reference is their relative frequency."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks.bandits import card
from rlkl.tasks.checks import choice, file_text, whole
from rlkl.tasks.registry import Card, register

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def read_text(path: Any) -> tuple[str, str]:
    """The text of a UTF-8 file and the name of its source; without a path, the prose of CPython's `pydoc_data.topics`."""
    if path is None:
        from pydoc_data import topics

        return "\n".join(topics.topics[name] for name in sorted(topics.topics)), "pydoc_data.topics"
    text = file_text("task.path", path)
    if not text.strip():
        raise SettingsError("task.path", path, "is empty; a text file with words in it is needed")
    return text, Path(path).name


@register("bandit/words")
def words(path=None, size=200, reward="length", letter="e", typicality=0.0) -> Card:
    """The `size` most frequent words of a text. Rewards in [0,1]: length (a tenth for each letter, 1 at most), letter (1 if the
    word contains `letter`) or rank (0 for the most frequent word, 1 for the rarest of them)."""
    text, source = read_text(path)
    kind = choice("task.reward", reward, ("length", "letter", "rank"))
    if not isinstance(letter, str) or len(letter) != 1 or not letter.isalpha():
        raise SettingsError("task.letter", letter, "must be one letter")
    counts = Counter(WORD.findall(text.lower()))
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: whole("task.size", size, at_least=2)]
    if len(frequent) < 2:
        raise SettingsError("task.path", path, f"has {len(frequent)} different words; at least 2 are needed")
    names = [word for word, _ in frequent]
    frequency = np.array([count for _, count in frequent], np.float64)
    rewards = {
        "length": lambda: np.array([min(len(word), 10) / 10 for word in names]),
        "letter": lambda: np.array([float(letter.lower() in word) for word in names]),
        "rank": lambda: np.arange(len(names)) / (len(names) - 1),
    }[kind]()
    facts = {
        "text": source,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "text_words": sum(counts.values()),
        "text_kept": float(frequency.sum() / sum(counts.values())),
    }
    return card(rewards, frequency / frequency.sum(), names, typicality, **facts)
