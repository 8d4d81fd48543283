"""The reference's log-probabilities, from a server that scored prompt and completion of each sequence.

A line a sequence, in the order of the rollouts: a response of vLLM to prompt + completion with prompt_logprobs=0 (per token of
the prompt null or `{token: {"logprob": ..}}`), or one of SGLang with logprob_start_len=0 (`meta_info.input_token_logprobs`,
[log-probability or null, token, text]). The completion is the end of what was scored; its tokens must be those of the rollouts.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header, checked
from rlkl.diagnostics.server_logprobs import ServerSequence, sequences
from rlkl.errors import SettingsError

KEY = "reference_logprobs"


class Scored:
    """A file of scored sequences, read along with the rollouts."""

    def __init__(self, path: Path):
        self._path, self._sequences = path, sequences(path, KEY)

    def add(self, chunks: Iterator[Chunk], known: Header) -> Iterator[Chunk]:
        """The chunks with the reference's log-probabilities of their tokens."""
        for chunk in chunks:
            if chunk.tokens is None or chunk.ref_log_probs is not None:
                reason = "the rollouts have no tokens" if chunk.tokens is None else "the rollouts have ref_log_probs already"
                raise SettingsError(KEY, str(self._path), f"cannot be used: {reason}")
            places, parts = [], []
            for tokens in np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1]):
                sequence = next(self._sequences, None)
                if sequence is None:
                    raise SettingsError(KEY, str(self._path), "ends before the rollouts: a scored sequence each")
                places.append(sequence.where)
                parts.append(_log_probs(sequence, tokens.tolist()))
            values = np.array([number for part in parts for number in part], np.float64)
            yield checked(chunk._replace(ref_log_probs=values), known, places.__getitem__)

    def close(self) -> None:
        """Raise `SettingsError` if sequences are left that the rollouts do not have."""
        left = next(self._sequences, None)
        if left is not None:
            raise SettingsError(left.where, "", "has no sequence in the rollouts")


def _log_probs(sequence: ServerSequence, tokens: list[int]) -> list[float]:
    """The log-probabilities of these tokens, which end what was scored."""
    first = sequence.prompt_length - len(tokens)
    if first <= 0:
        scored = f"{sequence.prompt_length} tokens (prompt_logprobs of vLLM, input_token_logprobs of SGLang)"
        raise SettingsError(sequence.where, "", f"scores {scored}, and the completion alone has {len(tokens)}")
    ids, log_probs = sequence.ids[first : sequence.prompt_length], sequence.log_probs[first : sequence.prompt_length]
    for position, (token, one, log_prob) in enumerate(zip(tokens, ids, log_probs, strict=True)):
        if one != token or math.isnan(log_prob):
            rule = f"does not score token {token}, which the rollouts have there"
            raise SettingsError(f"{sequence.where}, token {position} of the completion", "", rule)
    return log_probs
