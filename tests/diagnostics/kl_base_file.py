"""A writer of llama.cpp's KL base files, from their layout alone: the tests' own, in float64."""

import struct
from pathlib import Path

import numpy as np
from scipy import special


def text(chunks: int, context: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, (chunks, context))


def logits(chunks: int, context: int, vocabulary: int, scale: float, seed: int) -> np.ndarray:
    """Logits of the rows of a file, as float32: chunks x rows x vocabulary."""
    rows = context - 1 - context // 2
    return np.random.default_rng(seed).normal(scale=scale, size=(chunks, rows, vocabulary)).astype("f4")


def encoded(row: np.ndarray) -> bytes:
    """A row: float32 scale, float32 least log-probability, 16-bit steps, and a pad where the vocabulary is odd."""
    row = row.astype(np.float64)
    floor = max(row.min(), row.max() - 16.0)
    scale = np.float32((row.max() - floor) / 65535.0)
    steps = np.zeros(len(row)) if scale == 0 else np.round((np.maximum(row, floor) - floor) / float(scale))
    steps = np.clip(steps, 0, 65535).astype("<u2")
    least = floor - special.logsumexp(row)
    return struct.pack("<ff", scale, least) + steps.tobytes() + b"\0\0" * (len(row) % 2)


def write(path: Path, tokens: np.ndarray, rows: np.ndarray) -> Path:
    """Write a file of the tokens (chunks x context) and the logits (chunks x rows x vocabulary)."""
    chunks, context = tokens.shape
    header = b"_logits_" + struct.pack("<iii", context, rows.shape[2], chunks)
    body = b"".join(encoded(row) for row in rows.reshape(-1, rows.shape[2]))
    path.write_bytes(header + tokens.astype("<i4").tobytes() + body)
    return path


def predicted(tokens: np.ndarray) -> np.ndarray:
    """The token that each row predicts."""
    return tokens[:, tokens.shape[1] // 2 + 1 :].reshape(-1)
