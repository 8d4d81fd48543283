"""What the coders send: streams coded for the wrong model, blocks, a trained policy's sentences, text, and archives."""

from typing import Literal

import jax
import numpy as np
import pandas as pd

from experiments.compression import coders
from experiments.harness import series
from experiments.harness.series import Row, points
from rlkl import exact, tasks
from rlkl.evaluation import diversity
from rlkl.policies import Fixed, Policy
from rlkl.rollouts import sampling, scoring
from rlkl.rollouts.batch import Batch
from rlkl.runs.folder import checkpoint
from rlkl.runs.load import Runs
from rlkl.settings import numerics
from rlkl.tasks import text
from rlkl.tasks.words import read_text

BIT = np.log(2.0)
PAIRS, SYMBOLS, STREAM = 12, 16, 100_000
COIN, BLOCKS = 0.05, range(1, 11)
SENTENCES = 4_000  # of each trained policy
SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000)  # sentences in an archive
METHODS: tuple[Literal["zlib", "lzma"], ...] = ("zlib", "lzma")
ORDER = 3  # letters of context on the real text


def table(runs: Runs) -> pd.DataFrame:
    """Every number that is drawn or claimed; bits and bytes."""
    with numerics.pinned():
        return series.frame([*_wire(), *_blocks(), *_policies(runs), *_text(), *_archives()])


def _wire() -> list[Row]:
    """Streams drawn from p, sent with q's code and sent anew with p's: bits a token saved, by KL(p‖q)."""
    rows: list[Row] = []
    draw = np.random.default_rng(0)
    for pair in range(PAIRS):
        p, q = draw.dirichlet(np.ones(SYMBOLS)), draw.dirichlet(np.ones(SYMBOLS))
        share = (pair + 1) / PAIRS  # from close to far
        p = p**share * q ** (1.0 - share)
        p /= p.sum()
        stream = draw.choice(SYMBOLS, STREAM, p=p).tolist()
        kl, gain = float(p @ np.log2(p / q)), np.log2(p / q)[stream]
        sent = {name: _coded(stream, [0] * STREAM, by) / STREAM for name, by in (("p", p), ("q", q))}
        words = {name: coders.huffman(by) for name, by in (("p", p), ("q", q))}
        huffman = {name: "".join(code[token] for token in stream) for name, code in words.items()}
        assert coders.huffman_decode(huffman["q"], words["q"]) == stream
        error = gain.std(ddof=1) / np.sqrt(STREAM)
        rows += points("wire", "range code", [kl], [sent["q"] - sent["p"]], error)
        rows += points("wire", "Huffman's code", [kl], [(len(huffman["q"]) - len(huffman["p"])) / STREAM], error)
        rows += points("wire", "the misprint", [kl], [float(-p @ np.log2(p) - p @ np.log2(q))])
        ideal = -np.log2(q)[stream].mean()
        rows += points("sent", "range code less cross-entropy", [kl], [sent["q"] - ideal])
        rows += points("sent", "Huffman's code less cross-entropy", [kl], [len(huffman["q"]) / STREAM - ideal])
    return rows


def _coded(tokens: list[int], at: list[int], probability: np.ndarray) -> int:
    """Bits of the range coder's message, once the other end has read it; token i is coded by row at[i]."""
    rows = np.atleast_2d(probability)[at]
    message = coders.encode(tokens, rows)
    assert coders.decode(message, rows) == tokens
    return coders.WORD * len(message)


def _blocks() -> list[Row]:
    """A skewed coin in blocks: Huffman's bits a toss above the entropy, expected and sent."""
    rows: list[Row] = []
    entropy = -(COIN * np.log2(COIN) + (1 - COIN) * np.log2(1 - COIN))
    tosses = (np.random.default_rng(1).random(2520 * 40) < COIN).astype(int)  # blocks of 1 to 10 divide it
    heads = tosses.mean()
    ideal = -(heads * np.log2(COIN) + (1 - heads) * np.log2(1 - COIN))
    for n in BLOCKS:
        block = np.arange(2**n)
        ones = np.array([int(b).bit_count() for b in block])
        words = coders.huffman(COIN**ones * (1 - COIN) ** (n - ones))
        lengths = np.array([len(word) for word in words])
        expected = float((COIN**ones * (1 - COIN) ** (n - ones)) @ lengths) / n
        numbered = tosses.reshape(-1, n) @ (1 << np.arange(n))
        rows += points("blocks", "Huffman, expected", [n], [expected - entropy])
        rows += points("blocks", "Huffman, sent", [n], [lengths[numbered].sum() / len(tosses) - ideal])
    sent = _coded(tosses.tolist(), [0] * len(tosses), np.array([1 - COIN, COIN]))
    return [*rows, *points("blocks", "range code, sent", [1], [sent / len(tosses) - ideal])]


def _policies(runs: Runs) -> list[Row]:
    """Sentences of trained policies: bits a sentence that the reference's code costs more than their own, by KL(pi‖pi_ref)."""
    rows: list[Row] = []
    automaton, log_reference = _grammar()
    reference = Fixed(log_reference, automaton.horizon)
    for _, graded in runs.summary.iterrows():
        policy = checkpoint.load_policy(runs.root / graded["run"])
        assert isinstance(policy, Policy)
        batch = _sentences(automaton, policy, SENTENCES, 2)
        sent = [_sent(automaton, batch, np.asarray(by.table())) / SENTENCES for by in (reference, policy)]
        extra = np.asarray(scoring.log_probability(policy, batch) - scoring.log_probability(reference, batch))
        error = extra.std(ddof=1) / BIT / np.sqrt(SENTENCES)
        rows += points("policies", f"beta = {graded['beta']:g}", [graded["kl_pi_ref"] / BIT], [sent[0] - sent[1]], error)
    return rows


def _grammar():
    task = tasks.build("sequence/grammar").task
    return task.automaton, jax.numpy.asarray(task.log_reference)


def _sentences(automaton, policy: Policy, size: int, seed: int) -> Batch:
    uniform = jax.numpy.asarray(np.random.default_rng(seed).random((automaton.horizon, size)))
    return sampling.walk(uniform, automaton, policy, automaton.starts[np.zeros(size, int)])


def _sent(automaton, batch: Batch, log_rows: np.ndarray) -> int:
    """Bits of a range coder that knows the rows (Float["T D V"])."""
    mask = np.asarray(batch.mask)
    place = np.arange(automaton.horizon) * automaton.decisions + np.asarray(batch.states)[:, :-1]
    rows = np.exp(log_rows).reshape(-1, automaton.vocabulary)
    return _coded(np.asarray(batch.tokens)[mask].tolist(), place[mask].tolist(), rows)


def _text() -> list[Row]:
    """A model of a text's letters, coding the part that it has not seen: bits a letter."""
    letters = text.split(read_text(None)[0], "char")
    vocabulary = tuple(sorted(set(letters)))
    cut = len(letters) - len(letters) // 10
    rows: list[Row] = []
    for order in range(ORDER + 1):
        counts = {context: n for length in range(order + 1) for context, n in text.followers(letters[:cut], length).items()}
        model = text.fit_ngrams(counts, vocabulary, 0.1)
        contexts = {context: i for i, context in enumerate(model)}
        probability = np.array([[row[letter] for letter in vocabulary] for row in model.values()])
        unseen = letters[cut - order :]
        at = [contexts[text.longest_context(model, tuple(unseen[i - order : i]))] for i in range(order, len(unseen))]
        tokens = [vocabulary.index(letter) for letter in unseen[order:]]
        sent = _coded(tokens, at, probability) / len(tokens)
        cross_entropy = float(np.log2(text.perplexity(model, unseen, order)))
        rows += points("text", "range code", [order], [sent]) + points("text", "cross-entropy", [order], [cross_entropy])
        words = [coders.huffman(row) for row in probability]
        bits = sum(len(words[row][token]) for row, token in zip(at, tokens, strict=True))
        rows += points("text", "Huffman's code", [order], [bits / len(tokens)])
    return rows


def _archives() -> list[Row]:
    """The same sentences as a .zip has them (zlib) and as a .7z has them (lzma), bits a sentence; and a text, in bytes."""
    automaton, log_reference = _grammar()
    card, reference = tasks.build("sequence/grammar"), Fixed(log_reference, automaton.horizon)
    entropy = float(exact.entropy(automaton, reference)) / BIT
    batch = _sentences(automaton, reference, max(SIZES), 3)
    pairs = zip(np.asarray(batch.tokens), np.asarray(batch.mask), strict=True)
    lines = [" ".join(card.tokens[token] for token in row[kept]) + "\n" for row, kept in pairs]
    rows: list[Row] = []
    for size in SIZES:
        sample = "".join(lines[:size])
        for method in METHODS:
            compressed = len(sample) / diversity.compression_ratio(sample, method)
            rows += points("archives", method, [size], [8.0 * compressed / size])
        tokens, states, mask, weight = (
            jax.numpy.asarray(x)[:size] for x in (batch.tokens, batch.states, batch.mask, batch.weight)
        )
        part = Batch(tokens, states, mask, weight, size)
        sent = _sent(automaton, part, np.asarray(reference.table()))
        rows += points("archives", "range code", [size], [sent / size])
        surprise = -np.asarray(scoring.log_probability(reference, part)) / BIT
        rows += points("archives", "entropy", [size], [entropy], surprise.std(ddof=1) / np.sqrt(size))
    whole = read_text(None)[0]
    for method in METHODS:
        packed = len(whole.encode()) / diversity.compression_ratio(whole, method)
        rows += points("archives", f"real text, {method}", [1], [packed])
    return rows
