"""Responses of servers with the log-probabilities of the tokens that they sampled, as JSON: an object a line, or a list.

- OpenAI's completions: `choices[].logprobs.token_logprobs`; with vLLM also `choices[].token_ids` and `prompt_token_ids`
  (vllm/entrypoints/openai/completion/protocol.py, read in August 2026).
- OpenAI's chat: `choices[].logprobs.content[].logprob`. Lines of OpenAI's batch files hold a response in `response.body`.
- SGLang's /generate: `meta_info.output_token_logprobs`, a list of [log-probability, token, text or null]. Its documentation
  does not spell the entries out; its tests and the readers of other projects take them so.

They are the sampler's. None of them says whether they are those of the model (raw) or those after temperature, top-p and top-k
(processed), so the user must. -9999.0 stands for minus infinity. Choices of one response are a group; so are responses with
the same `prompt_token_ids`. Prompts that are echoed are refused: they were not sampled.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlkl.diagnostics.diagnose.reading.chunk import REPORTED, Header
from rlkl.diagnostics.diagnose.reading.foreign import field, lists
from rlkl.diagnostics.diagnose.reading.json_values import Value
from rlkl.diagnostics.diagnose.reading.records import Record
from rlkl.errors import SettingsError

KEYS = {"choices", "meta_info", "response"}
TOKEN_ID = "token_id:"  # what vLLM writes for a token with return_tokens_as_token_ids


def header(first: Value, path: Path, settings: Header) -> Header:
    """The model, where a response names one; raises `SettingsError` unless the settings say what is reported."""
    if settings.reported is None:
        rule = f"must be {' or '.join(REPORTED)}: {path.name} does not say it (vLLM: logprobs_mode, by default raw)"
        raise SettingsError("reported", "", rule)
    model = response(first.content).get("model")
    return Header(model=model if isinstance(model, str) and settings.model is None else None)


def response(value: Any) -> Mapping[str, Any]:
    """The response of a line, also of one in a batch file; empty for what is none."""
    if isinstance(value, Mapping) and isinstance(value.get("response"), Mapping):
        value = value["response"].get("body")
    return value if isinstance(value, Mapping) else {}


def records(values: Iterator[Value], path: Path) -> Iterator[Record]:
    """The sequences of a file of responses."""
    for where, value in values:
        content = response(value)
        if "meta_info" in content:
            yield Record(where, _sglang(where, content["meta_info"]))
            continue
        choices = field(where, content, "choices")
        if not isinstance(choices, list) or not choices:
            raise SettingsError(f"{where}: choices", "", "must be a list of at least one choice")
        for number, choice in enumerate(choices, 1):
            place = where if len(choices) == 1 else f"{where}, choice {number}"
            prompt = choice.get("prompt_token_ids") if isinstance(choice, Mapping) else None
            label = prompt or content.get("prompt_token_ids") or content.get("id") or where
            yield Record(place, _choice(place, choice) | {"group": str(label)})


def _choice(where: str, choice: Any) -> dict[str, Any]:
    """The fields of a choice of a completion or a chat."""
    logprobs = field(where, choice, "logprobs")
    if isinstance(logprobs, Mapping) and logprobs.get("content") is not None:
        [content] = lists(where, logprobs, "content")
        values = [field(where, each, "logprob") for each in content]
        texts = [each.get("token") for each in content]
    else:
        [values] = lists(where, logprobs, "token_logprobs")
        texts = logprobs.get("tokens") or []
    if values and values[0] is None:
        raise SettingsError(where, "", "begins with a token that was not sampled: ask the server without echo")
    tokens = choice.get("token_ids")
    if tokens is None and texts and all(isinstance(text, str) and text.startswith(TOKEN_ID) for text in texts):
        numbers = [text.removeprefix(TOKEN_ID) for text in texts]
        tokens = [int(number) if number.isdecimal() else number for number in numbers]
    return {"sampler_log_probs": values} | ({} if tokens is None else {"tokens": tokens})


def _sglang(where: str, meta_info: Any) -> dict[str, Any]:
    """The fields of a response of SGLang."""
    [entries] = lists(where, meta_info, "output_token_logprobs")
    for position, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) < 2:
            rule = "must be [log-probability, token, text]"
            raise SettingsError(f"{where}, token {position}: output_token_logprobs", entry, rule)
    return {"sampler_log_probs": [entry[0] for entry in entries], "tokens": [entry[1] for entry in entries]}
