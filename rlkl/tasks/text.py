"""Real text as a sequence task: the reference is an order-k model of a text's characters or words, as an automaton.

A context is the last tokens read, oldest first. Only contexts that the training text continues are states; after any other
the state is the longest end of it that is one, which is what the model itself conditions on there.
"""

import dataclasses
import hashlib
import math
import re
from collections import Counter, defaultdict

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import choice, fits, number, whole
from rlkl.tasks.registry import Card, register
from rlkl.tasks.words import WORD, read_text

Context = tuple[str, ...]
OTHER = {"char": " ", "word": "<unk>"}  # what stands for every token outside the vocabulary
SIZE = {"char": 27, "word": 30}


def split(text: str, unit: str) -> list[str]:
    """A text's lower-cased words, or its lower-cased letters with one space for each run of anything else."""
    return WORD.findall(text.lower()) if unit == "word" else list(re.sub(r"[\W\d_]+", " ", text.lower()).strip())


def fold(tokens: list[str], vocabulary: Context) -> list[str]:
    """The tokens with the vocabulary's last one for each that is not in it; runs of spaces become one."""
    kept = set(vocabulary)
    folded = [token if token in kept else vocabulary[-1] for token in tokens]
    return [token for before, token in zip(["", *folded], folded, strict=False) if not before == token == " "]


def followers(tokens: list[str], length: int) -> dict[Context, Counter]:
    """How often each token follows each context of `length` tokens."""
    counts: dict[Context, Counter] = defaultdict(Counter)
    for gram, n in Counter(zip(*(tokens[i:] for i in range(length + 1)), strict=False)).items():
        counts[gram[:-1]][gram[-1]] = n
    return counts


def fit_ngrams(counts: dict[Context, Counter], vocabulary: Context, smoothing: float) -> dict[Context, dict[str, float]]:
    """p(v | c) = (n(cv) + a p(v | c'))/(n(c) + a): c' is c without its oldest token, a = smoothing V, and 1/V stands below
    the empty context. Maximum likelihood where smoothing is 0; else the mean under a Dirichlet prior centred on the order
    below (MacKay and Peto, A hierarchical Dirichlet language model, Natural Language Engineering 1, 1995).
    """
    model: dict[Context, dict[str, float]] = {}
    prior = smoothing * len(vocabulary)
    for context in sorted(counts, key=len):
        below = model[context[1:]] if context else dict.fromkeys(vocabulary, 1.0 / len(vocabulary))
        total = counts[context].total() + prior
        model[context] = {token: (counts[context][token] + prior * below[token]) / total for token in vocabulary}
    return model


def longest_context(model: dict[Context, dict[str, float]], read: Context) -> Context:
    """The longest end of `read` that is a context of the model."""
    return next(read[i:] for i in range(len(read) + 1) if read[i:] in model)


def perplexity(model: dict[Context, dict[str, float]], tokens: list[str], order: int) -> float:
    """exp of the mean of -log p(token | the `order` tokens before it), over all tokens but the first `order`."""
    grams = Counter(zip(*(tokens[i:] for i in range(order + 1)), strict=False))
    chance = [model[longest_context(model, gram[:-1])][gram[-1]] for gram in grams]
    with np.errstate(divide="ignore"):
        return float(np.exp(-np.average(np.log(chance), weights=list(grams.values()))))


def match(pattern: Context, n: int, token: str) -> int:
    """How many tokens of the pattern a sequence ends in, one token after `n`; all for good once it was found (the automaton
    of Knuth, Morris and Pratt, SIAM J. Comput. 6, 1977)."""
    read = (*pattern[:n], token)
    return n if n == len(pattern) else next(m for m in range(n + 1, -1, -1) if read[n + 1 - m :] == pattern[:m])


@register("sequence/text")
def text(
    path=None, unit="char", order=2, size=None, horizon=12, smoothing=0.1, pattern="the", held_out=0.1, typicality=0.0
) -> Card:
    """`horizon` tokens as an order-`order` model of a text writes them; reward 1 where `pattern` stands anywhere in them.

    unit: char (letters in lower case; anything else is a space, and runs of spaces are one) or word (in lower case, without
    punctuation). The vocabulary is the `size` - 1 (of 27 or 30, where null) most frequent letters or words of the training
    text and, last, a space or <unk> for all others. The last `held_out` of the text (at least a token) is not trained on.
    Sequences begin as the text's words do: after a space of unknown past (char), or with a word of unknown past (word).
    """
    unit = choice("task.unit", unit, ("char", "word"))
    horizon, order = whole("task.horizon", horizon, at_least=1), whole("task.order", order, at_least=1)
    if order > horizon:
        raise SettingsError("task.order", order, f"must be at most task.horizon={horizon}: no sequence has a longer context")
    smoothing, share = number("task.smoothing", smoothing, at_least=0.0), number("task.held_out", held_out, above=0.0)
    if share >= 1.0:
        raise SettingsError("task.held_out", held_out, "must be below 1")
    size = SIZE[unit] if size is None else whole("task.size", size, at_least=2)

    content, source = read_text(path)
    tokens = split(content, unit)
    cut = len(tokens) - math.ceil(share * len(tokens))
    frequency = Counter(tokens[:cut])
    kept = sorted(frequency.keys() - {OTHER[unit]}, key=lambda token: (-frequency[token], token))[: size - 1]
    vocabulary = (*kept, OTHER[unit])
    training, unseen = fold(tokens[:cut], vocabulary), fold(tokens[cut:], vocabulary)
    if len(training) <= order:
        raise SettingsError("task.path", path, f"has {len(training)} {unit}s to train on; task.order={order} needs {order + 1}")
    wanted = _pattern(pattern, unit, vocabulary, horizon)

    model = fit_ngrams(_count(training, order, horizon * len(vocabulary)), vocabulary, smoothing)

    def rows(context: Context) -> state_graph.Row:
        return {token: (longest_context(model, (*context, token)), p) for token, p in model[context].items()}

    joiner = "" if unit == "char" else " "

    def shown(read: Context) -> str:
        return joiner.join("_" if token == " " else token for token in read)

    def name(both: tuple[Context, int]) -> str:
        context, n = both
        found = n == len(wanted)
        ending = context if found else max(context, wanted[:n], key=len)
        return (f"{shown(wanted)} found" if found else "none") + (f", ends in {shown(ending)}" if ending else "")

    card = state_graph.card(
        state_graph.watched(rows, lambda n, token: match(wanted, n, token)),
        (longest_context(model, (" ",)), 0),  # no word is a space: words begin in the empty context
        vocabulary,
        horizon,
        reward=lambda both: float(both[1] == len(wanted)),
        name=name,
        typicality=typicality,
        joiner=joiner,
        text=source,
        text_sha256=hashlib.sha256(content.encode()).hexdigest(),
        text_tokens=len(training),
        text_kept=sum(frequency[token] for token in vocabulary) / cut,
        held_out_tokens=len(unseen),
        held_out_perplexity=perplexity(model, training[-order:] + unseen, order),
    )
    return dataclasses.replace(card, corpus=windows(training, vocabulary, horizon))


def windows(tokens: list[str], vocabulary: Context, horizon: int) -> np.ndarray:
    """Int["N T"]: every stretch of `horizon` tokens that begins where a word does, as sequences of the task do."""
    number = {token: i for i, token in enumerate(vocabulary)}
    numbered = np.array([number[token] for token in tokens], np.int32)
    if len(numbered) < horizon:
        return np.zeros((0, horizon), np.int32)
    found = np.lib.stride_tricks.sliding_window_view(numbered, horizon)
    begins = [before == " " or " " not in number for before in (" ", *tokens)][: len(found)]
    return found[np.array(begins) & (found[:, 0] != number.get(" ", -1))]


def _pattern(pattern, unit: str, vocabulary: Context, horizon: int) -> Context:
    """The pattern's tokens."""
    if not isinstance(pattern, str):
        raise SettingsError("task.pattern", pattern, "must be text, in quotes where it looks like something else")
    wanted = tuple(pattern.lower().split() if unit == "word" else pattern.lower())
    if not wanted:
        raise SettingsError("task.pattern", pattern, f"must have at least one {unit}")
    for token in wanted:
        if token not in vocabulary:
            kept = ", ".join("a space" if each == " " else each for each in vocabulary[:30])
            more = ", ..." if len(vocabulary) > 30 else ""
            raise SettingsError("task.pattern", pattern, f"{token!r} is not one of the {unit}s kept: {kept}{more}")
    if len(wanted) > horizon:
        raise SettingsError("task.pattern", pattern, f"has {len(wanted)} {unit}s, and a sequence {horizon} (task.horizon)")
    return wanted


def _count(tokens: list[str], order: int, row: int) -> dict[Context, Counter]:
    """`followers` of every length up to `order`; refuses what would need too large a table, before it fills the memory."""
    counts: dict[Context, Counter] = {}
    for length in range(order + 1):
        counts |= followers(tokens, length)
        fits("task.order", order, 2 * len(counts) * row)  # each context twice: before the pattern was found and after
    return counts
