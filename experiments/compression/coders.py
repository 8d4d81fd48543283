"""Entropy coders that send real bits: Huffman's code, and an arithmetic coder whose model may change at every token.

Sources: Huffman, "A method for the construction of minimum-redundancy codes" (1952); Witten, Neal and Cleary, "Arithmetic
coding for data compression" (1987). Messages are strings of 0 and 1; both ends know the model and the number of tokens.
"""

import heapq
from collections.abc import Sequence
from itertools import count

import numpy as np

BITS, TOTAL = 62, 2**40  # of the coder's registers, and what a row's frequencies sum to: rare symbols keep their price
FULL, HALF, QUARTER = 2**BITS, 2 ** (BITS - 1), 2 ** (BITS - 2)


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


def frequencies(probability: np.ndarray) -> np.ndarray:
    """Cumulative whole-number frequencies of each row (a leading 0, then sums up to TOTAL); what is possible has at least 1."""
    raw = np.where(probability > 0.0, np.maximum(1, np.floor(probability * TOTAL)), 0).astype(np.int64)
    rest = TOTAL - raw.sum(-1)
    np.put_along_axis(raw, raw.argmax(-1)[..., None], raw.max(-1, keepdims=True) + rest[..., None], -1)
    return np.concatenate([np.zeros((*raw.shape[:-1], 1), np.int64), raw.cumsum(-1)], -1)


def encode(tokens: Sequence[int], rows: Sequence[int], sums: np.ndarray) -> str:
    """The message of tokens, the i-th by the row rows[i] of `sums` (of `frequencies`)."""
    table = sums.tolist()
    low, high, pending, out = 0, FULL - 1, 0, []
    for token, row in zip(tokens, rows, strict=True):
        width, at = high - low + 1, table[row]
        high = low + width * at[token + 1] // TOTAL - 1
        low = low + width * at[token] // TOTAL
        while True:
            if high < HALF:
                out.append("0" + "1" * pending)
                pending = 0
            elif low >= HALF:
                out.append("1" + "0" * pending)
                pending, low, high = 0, low - HALF, high - HALF
            elif low >= QUARTER and high < 3 * QUARTER:
                pending, low, high = pending + 1, low - QUARTER, high - QUARTER
            else:
                break
            low, high = 2 * low, 2 * high + 1
    last = "0" + "1" * (pending + 1) if low < QUARTER else "1" + "0" * (pending + 1)
    return "".join(out) + last


def decode(message: str, rows: Sequence[int], sums: np.ndarray) -> list[int]:
    """The tokens of a message, as many as there are rows."""
    padded = message + "0" * BITS
    low, high, code, read = 0, FULL - 1, int(padded[:BITS], 2), BITS
    tokens = []
    for row in rows:
        width, at = high - low + 1, sums[row]
        token = int(np.searchsorted(at, ((code - low + 1) * TOTAL - 1) // width, side="right")) - 1
        tokens.append(token)
        high = low + width * int(at[token + 1]) // TOTAL - 1
        low = low + width * int(at[token]) // TOTAL
        while True:
            if high < HALF:
                by = 0
            elif low >= HALF:
                by = HALF
            elif low >= QUARTER and high < 3 * QUARTER:
                by = QUARTER
            else:
                break
            low, high, code = (
                2 * (low - by),
                2 * (high - by) + 1,
                2 * (code - by) + int(padded[read] if read < len(padded) else 0),
            )
            read += 1
    return tokens
