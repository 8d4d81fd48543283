"""Responses of servers with the log-probabilities of the tokens that they sampled, as JSON: an object a line, or a list.

`rlkl.diagnostics.server_logprobs` reads them. They are the sampler's. None of them says whether they are those of the model
(raw) or those after temperature, top-p and top-k (processed), so the user must. Prompts that are echoed are refused: they were
not sampled.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from rlkl.diagnostics.diagnose.reading.chunk import REPORTED, Header
from rlkl.diagnostics.diagnose.reading.records import Record
from rlkl.diagnostics.json_values import Value
from rlkl.diagnostics.server_logprobs import UNKNOWN, sequences_of, unwrapped
from rlkl.errors import SettingsError

KEYS = {"choices", "meta_info", "response"}


def header(first: Value, path: Path, settings: Header) -> Header:
    """The model, where a response names one; raises `SettingsError` unless the settings say what is reported."""
    if settings.reported is None:
        rule = f"must be {' or '.join(REPORTED)}: {path.name} does not say it (vLLM: logprobs_mode, by default raw)"
        raise SettingsError("reported", "", rule)
    model = unwrapped(first.content).get("model")
    return Header(model=model if isinstance(model, str) and settings.model is None else None)


def records(values: Iterator[Value], path: Path) -> Iterator[Record]:
    """The sequences of a file of responses: what was sampled, without the prompts."""
    for place, response in values:
        for sequence in sequences_of(response, place):
            ids, log_probs = sequence.ids[sequence.prompt_length :], sequence.log_probs[sequence.prompt_length :]
            if not log_probs:
                raise SettingsError(sequence.where, "", "holds no log-probabilities of sampled tokens")
            if math.isnan(log_probs[0]):
                raise SettingsError(sequence.where, "", "begins with a token that was not sampled: ask the server without echo")
            tokens = None if UNKNOWN in ids else ids
            yield Record(sequence.where, {"sampler_log_probs": log_probs, "tokens": tokens, "group": sequence.group})
