"""Text as a sequence task: the reference is an n-gram model of a text's characters or words, as an automaton.

A context is a tuple of the last tokens read, oldest first. The states are the contexts that the training text continues; after
any other context the state is its longest suffix among them, on which the n-gram model conditions there.
"""

import dataclasses
import hashlib
import math
import re
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np

from rlkl.errors import SettingsError
from rlkl.tasks import state_graph
from rlkl.tasks.checks import choice, fits, number, whole
from rlkl.tasks.registry import Card, register
from rlkl.tasks.words import WORD, read_text

Context = tuple[str, ...]
OTHER = {"char": " ", "word": "<unk>"}  # the token that replaces all tokens outside the vocabulary
SIZE = {"char": 27, "word": 30}  # default sizes of the vocabulary


def split(text: str, unit: str) -> list[str]:
    """The tokens of a text in lower case: its words, or its letters with each run of other characters replaced by one space."""
    return WORD.findall(text.lower()) if unit == "word" else list(re.sub(r"[\W\d_]+", " ", text.lower()).strip())


def fold(tokens: list[str], vocabulary: Context) -> list[str]:
    """Replace the tokens outside the vocabulary by its last token, and each run of spaces by one."""
    in_vocabulary = set(vocabulary)
    folded = [token if token in in_vocabulary else vocabulary[-1] for token in tokens]
    return [token for before, token in zip(["", *folded], folded, strict=False) if not before == token == " "]


def followers(tokens: list[str], length: int) -> dict[Context, Counter]:
    """Count how often each token follows each context of `length` tokens."""
    counts: dict[Context, Counter] = defaultdict(Counter)
    for gram, n in Counter(zip(*(tokens[i:] for i in range(length + 1)), strict=False)).items():
        counts[gram[:-1]][gram[-1]] = n
    return counts


def fit_ngrams(counts: dict[Context, Counter], vocabulary: Context, smoothing: float) -> dict[Context, dict[str, float]]:
    """The smoothed n-gram model: p(v | c) for each context c in `counts`.

    p(v | c) = (n(cv) + a p(v | c'))/(n(c) + a), where c' is c without its oldest token, a = smoothing V, and below the empty
    context p is 1/V. Maximum likelihood where smoothing is 0; else the posterior mean under a Dirichlet prior centred on the
    next lower order (MacKay and Peto, A hierarchical Dirichlet language model, Natural Language Engineering 1, 1995).
    """
    model: dict[Context, dict[str, float]] = {}
    prior = smoothing * len(vocabulary)
    for context in sorted(counts, key=len):
        below = model[context[1:]] if context else dict.fromkeys(vocabulary, 1.0 / len(vocabulary))
        total = counts[context].total() + prior
        model[context] = {token: (counts[context][token] + prior * below[token]) / total for token in vocabulary}
    return model


def longest_context(model: dict[Context, dict[str, float]], read: Context) -> Context:
    """The longest suffix of `read` that is a context of the model."""
    return next(read[i:] for i in range(len(read) + 1) if read[i:] in model)


def perplexity(model: dict[Context, dict[str, float]], tokens: list[str], order: int) -> float:
    """exp of the mean of -log p(token | the `order` tokens before it), over all tokens after the first `order`."""
    grams = Counter(zip(*(tokens[i:] for i in range(order + 1)), strict=False))
    probabilities = [model[longest_context(model, gram[:-1])][gram[-1]] for gram in grams]
    with np.errstate(divide="ignore"):
        return float(np.exp(-np.average(np.log(probabilities), weights=list(grams.values()))))


def match(pattern: Context, n: int, token: str) -> int:
    """Number of leading tokens of the pattern that a sequence ends in, after `token` and, before it, `n` of them.

    Once the whole pattern was found the number stays at its length (the automaton of Knuth, Morris and Pratt, SIAM J. Comput.
    6, 1977).
    """
    read = (*pattern[:n], token)
    return n if n == len(pattern) else next(m for m in range(n + 1, -1, -1) if read[n + 1 - m :] == pattern[:m])


@register("sequence/text")
def text(
    path=None, unit="char", order=2, size=None, horizon=12, smoothing=0.1, pattern="the", held_out=0.1, typicality=0.0
) -> Card:
    """`horizon` tokens under an n-gram model of a text (context: `order` tokens); reward 1 if they contain `pattern`.

    unit: char (letters in lower case, anything else becomes one space) or word (in lower case, without punctuation). The
    vocabulary is the `size` - 1 most frequent letters or words of the training text (size null: 27 or 30) and, as its last
    token, a space or <unk> for all others. The last part of the text, a share of `held_out` and at least one token, is not
    trained on. Sequences begin in the context of a single space (char) or in the empty context (word).
    """
    unit = choice("task.unit", unit, ("char", "word"))
    horizon, order = whole("task.horizon", horizon, at_least=1), whole("task.order", order, at_least=1)
    if order > horizon:
        raise SettingsError("task.order", order, f"must be at most task.horizon={horizon}: no sequence has a longer context")
    smoothing, share = number("task.smoothing", smoothing, at_least=0.0), number("task.held_out", held_out, above=0.0)
    if share >= 1.0:
        raise SettingsError("task.held_out", held_out, "must be below 1")
    size = SIZE[unit] if size is None else whole("task.size", size, at_least=2)
    corpus = _read_corpus(path, unit, size, share, order)
    training, vocabulary = corpus.training, corpus.vocabulary
    target = _pattern(pattern, unit, vocabulary, horizon)
    model = fit_ngrams(_count(training, order, horizon * len(vocabulary)), vocabulary, smoothing)

    def rows(context: Context) -> state_graph.Row:
        return {token: (longest_context(model, (*context, token)), p) for token, p in model[context].items()}

    joiner = "" if unit == "char" else " "

    def printed(read: Context) -> str:
        return joiner.join("_" if token == " " else token for token in read)

    def name(state: tuple[Context, int]) -> str:
        context, n = state
        complete = n == len(target)
        ending = context if complete else max(context, target[:n], key=len)
        return (f"{printed(target)} found" if complete else "none") + (f", ends in {printed(ending)}" if ending else "")

    card = state_graph.card(
        state_graph.watched(rows, lambda n, token: match(target, n, token)),
        (longest_context(model, (" ",)), 0),  # word models have no space: they begin in the empty context
        vocabulary,
        horizon,
        reward=lambda state: float(state[1] == len(target)),
        name=name,
        typicality=typicality,
        joiner=joiner,
        **corpus.facts,
        held_out_perplexity=perplexity(model, training[-order:] + corpus.held_out, order),
    )
    return dataclasses.replace(card, corpus=windows(training, vocabulary, horizon))


class Corpus(NamedTuple):
    """The tokens of a text, split for training and testing, with its vocabulary and its metadata."""

    training: list[str]
    held_out: list[str]
    vocabulary: Context
    facts: dict[str, Any]


def _read_corpus(path: str | None, unit: str, size: int, share: float, order: int) -> Corpus:
    """Read a text, choose its vocabulary of `size` tokens, and hold out the last `share` of it."""
    content, source = read_text(path)
    tokens = split(content, unit)
    cut = len(tokens) - math.ceil(share * len(tokens))
    frequency = Counter(tokens[:cut])
    frequent = sorted(frequency.keys() - {OTHER[unit]}, key=lambda token: (-frequency[token], token))[: size - 1]
    vocabulary = (*frequent, OTHER[unit])
    training, held_out = fold(tokens[:cut], vocabulary), fold(tokens[cut:], vocabulary)
    if len(training) <= order:
        raise SettingsError("task.path", path, f"has {len(training)} {unit}s to train on; task.order={order} needs {order + 1}")
    facts = {
        "text": source,
        "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "text_tokens": len(training),
        "text_kept": sum(frequency[token] for token in vocabulary) / cut,
        "held_out_tokens": len(held_out),
    }
    return Corpus(training, held_out, vocabulary, facts)


def windows(tokens: list[str], vocabulary: Context, horizon: int) -> np.ndarray:
    """Int["N T"]: every window of `horizon` tokens that begins at the start of a word, as sequences of the task do."""
    index = {token: i for i, token in enumerate(vocabulary)}
    numbered = np.array([index[token] for token in tokens], np.int32)
    if len(numbered) < horizon:
        return np.zeros((0, horizon), np.int32)
    stretches = np.lib.stride_tricks.sliding_window_view(numbered, horizon)
    is_start = [before == " " or " " not in index for before in (" ", *tokens)][: len(stretches)]
    return stretches[np.array(is_start) & (stretches[:, 0] != index.get(" ", -1))]


def _pattern(pattern, unit: str, vocabulary: Context, horizon: int) -> Context:
    """The tokens of the pattern; refused unless they are in the vocabulary and fit into the horizon."""
    if not isinstance(pattern, str):
        raise SettingsError("task.pattern", pattern, "must be text, in quotes where it looks like something else")
    target = tuple(pattern.lower().split() if unit == "word" else pattern.lower())
    if not target:
        raise SettingsError("task.pattern", pattern, f"must have at least one {unit}")
    for token in target:
        if token not in vocabulary:
            listing = ", ".join("a space" if each == " " else each for each in vocabulary[:30])
            more = ", ..." if len(vocabulary) > 30 else ""
            raise SettingsError("task.pattern", pattern, f"{token!r} is not one of the {unit}s kept: {listing}{more}")
    if len(target) > horizon:
        raise SettingsError("task.pattern", pattern, f"has {len(target)} {unit}s, and a sequence {horizon} (task.horizon)")
    return target


def _count(tokens: list[str], order: int, row: int) -> dict[Context, Counter]:
    """`followers` for every context length up to `order`; refused as soon as the table would become too large."""
    counts: dict[Context, Counter] = {}
    for length in range(order + 1):
        counts |= followers(tokens, length)
        fits("task.order", order, 2 * len(counts) * row)  # two states for each context: before and after the pattern was found
    return counts
