"""What a reader of two models' log-probabilities returns: blocks of rows, whatever the format of the files."""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

ELEMENTS = 2**17  # numbers read at once from each file: they fit into a core's cache


class KLErrors(NamedTuple):
    """How far each position's KLs may lie from those of the numbers before rounding, in nats.

    The error of KL(base‖quant) is at most kld + kld_per_nat x d. There d is the largest distance, in nats, of a log-probability
    of quant below the least one that the file can hold. That of KL(quant‖base) likewise, with reverse and with base.
    """

    kld: Float[np.ndarray, " N"]
    kld_per_nat: Float[np.ndarray, " N"]
    reverse: Float[np.ndarray, " N"]
    reverse_per_nat: Float[np.ndarray, " N"]


class Block(NamedTuple):
    """Some consecutive positions: log-probabilities of base and quant, the text's tokens and rounding errors where known."""

    log_p: Float[np.ndarray, "N V"]
    log_q: Float[np.ndarray, "N V"]
    tokens: Int[np.ndarray, " N"] | None = None
    errors: KLErrors | None = None


class Stream(NamedTuple):
    """Blocks of `length` positions and `vocabulary` tokens; chunks: the number of each position's chunk of text, where known.

    unit: what chunks are called.
    """

    length: int
    vocabulary: int
    blocks: Generator[Block, None, None]
    chunks: Int[np.ndarray, " N"] | None = None
    unit: str = "chunks"


def at_once(vocabulary: int) -> int:
    """The number of rows in a block."""
    return max(1, ELEMENTS // vocabulary)
