"""The reference's log-probabilities, from a server that scored prompt and completion of each sequence.

A line a sequence, in the order of the rollouts: a response of vLLM to prompt + completion with prompt_logprobs=0 (per token of
the prompt null or `{token: {"logprob": ..}}`), or one of SGLang with logprob_start_len=0 (`meta_info.input_token_logprobs`,
[log-probability or null, token, text]). The completion is the end of what was scored; its tokens must be those of the rollouts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.diagnostics.diagnose.reading.chunk import Chunk, Header, checked
from rlkl.diagnostics.diagnose.reading.json_values import Value, json_values
from rlkl.diagnostics.diagnose.reading.servers import response
from rlkl.errors import SettingsError

KEY = "reference_logprobs"


class Scored:
    """A file of scored sequences, read along with the rollouts."""

    def __init__(self, path: Path):
        self._path, self._values = path, json_values(path)

    def add(self, chunks: Iterator[Chunk], known: Header) -> Iterator[Chunk]:
        """The chunks with the reference's log-probabilities of their tokens."""
        for chunk in chunks:
            if chunk.tokens is None or chunk.ref_log_probs is not None:
                reason = "the rollouts have no tokens" if chunk.tokens is None else "the rollouts have ref_log_probs already"
                raise SettingsError(KEY, str(self._path), f"cannot be used: {reason}")
            places, parts = [], []
            for tokens in np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1]):
                value = next(self._values, None)
                if value is None:
                    raise SettingsError(KEY, str(self._path), "ends before the rollouts: a scored sequence each")
                places.append(value.where)
                parts.append([*_log_probs(value, tokens.tolist())])
            values = np.array([number for part in parts for number in part], np.float64)
            yield checked(chunk._replace(ref_log_probs=values), known, places.__getitem__)

    def close(self) -> None:
        """Raise `SettingsError` if sequences are left that the rollouts do not have."""
        left = next(self._values, None)
        if left is not None:
            raise SettingsError(f"{KEY}: {left.where}", "", "has no sequence in the rollouts")


def _log_probs(value: Value, tokens: list[int]) -> Iterator[float]:
    """The log-probabilities of these tokens, which end a scored sequence."""
    entries = _entries(value)
    if len(entries) <= len(tokens):
        rule = f"scores {len(entries)} tokens, and the completion alone has {len(tokens)}"
        raise SettingsError(f"{KEY}: {value.where}", "", rule)
    for position, (token, entry) in enumerate(zip(tokens, entries[len(entries) - len(tokens) :], strict=True)):
        number = entry.get(str(token))
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            rule = f"does not score token {token}, which the rollouts have there"
            raise SettingsError(f"{KEY}: {value.where}, token {position} of the completion", "", rule)
        yield number


def _entries(value: Value) -> list[dict[str, Any]]:
    """For each token that was scored, log-probabilities by token; empty at the first one."""
    content = response(value.content)
    choices = content.get("choices")
    for holder in (choices[0] if isinstance(choices, list) and choices else None, content):
        if isinstance(holder, Mapping) and isinstance(holder.get("prompt_logprobs"), list):
            return [
                {str(token): each.get("logprob") for token, each in entry.items() if isinstance(each, Mapping)}
                if isinstance(entry, Mapping) else {}
                for entry in holder["prompt_logprobs"]
            ]  # fmt: skip
    meta_info = content.get("meta_info")
    inputs = meta_info.get("input_token_logprobs") if isinstance(meta_info, Mapping) else None
    if isinstance(inputs, list) and all(isinstance(entry, list) and len(entry) >= 2 for entry in inputs):
        return [{str(token): number} for number, token, *_ in inputs]
    raise SettingsError(f"{KEY}: {value.where}", "", "has neither prompt_logprobs (vLLM) nor input_token_logprobs (SGLang)")
