"""Entropy coders that send real bits: Huffman's code (strings of 0 and 1), and a range coder whose model may change at every
token. Both ends know the model and the number of tokens.

Sources: Huffman, "A method for the construction of minimum-redundancy codes" (1952); Martin, "Range encoding: an algorithm for
removing redundancy from a digitised message" (1979), by Bamler's library `constriction` (2022, arXiv 2201.01741), which reads
probabilities to 24 bits.
"""

import heapq
from collections.abc import Sequence
from itertools import count

import constriction
import numpy as np

MODEL = constriction.stream.model.Categorical(perfect=False)  # reads a row of probabilities
WORD = 32  # bits of a message's words


def huffman(probability: np.ndarray) -> list[str]:
    """The codeword of each symbol of positive probability, at least two of them; the others have none ('')."""
    held = np.flatnonzero(probability > 0.0).tolist()
    order = count()  # ties go to what was made first, so that the code is the same everywhere
    heap: list[tuple[float, int, tuple[int, ...]]] = [(float(probability[symbol]), next(order), (symbol,)) for symbol in held]
    words = [""] * len(probability)
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        for bit, (_, _, symbols) in zip("01", (first, second), strict=True):
            for symbol in symbols:
                words[symbol] = bit + words[symbol]
        heapq.heappush(heap, (first[0] + second[0], next(order), first[2] + second[2]))
    return words


def huffman_decode(message: str, words: Sequence[str]) -> list[int]:
    """The symbols of a message."""
    symbol_of = {word: symbol for symbol, word in enumerate(words) if word}
    symbols, word = [], ""
    for bit in message:
        word += bit
        if word in symbol_of:
            symbols.append(symbol_of[word])
            word = ""
    return symbols


def encode(tokens: Sequence[int], probability: np.ndarray) -> np.ndarray:
    """The range coder's message (words of 32 bits) of tokens, the i-th by row i of `probability`."""
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.asarray(tokens, np.int32), MODEL, np.asarray(probability, np.float64))
    return encoder.get_compressed()


def decode(message: np.ndarray, probability: np.ndarray) -> list[int]:
    """The tokens of a message, as many as there are rows."""
    return constriction.stream.queue.RangeDecoder(message).decode(MODEL, np.asarray(probability, np.float64)).tolist()
