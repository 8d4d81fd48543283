"""Log-probabilities in the JSON that inference servers answer with: OpenAI's API, vLLM, SGLang.

A file is one response, a JSON list of responses, or JSON lines, a response a line. Read are: completions
(`choices[].logprobs` with `tokens`, `token_logprobs`, `top_logprobs`), chat completions (`choices[].logprobs.content`),
vLLM's `prompt_logprobs`, SGLang's `meta_info` (`input_` and `output_token_logprobs`, `_top_logprobs`), and the lines of
OpenAI's batches, which wrap these. -9999.0 and below stand for minus infinity, and null for a prompt's first token. Whether
numbers are raw or processed (temperature, top-p) is not in the response. Sources: vllm/entrypoints/openai,
sglang/srt/managers/tokenizer_manager.py, OpenAI's API reference.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.diagnostics.json_values import json_values
from rlkl.errors import SettingsError

Token = int | str
UNKNOWN = -1  # in place of an id that the server leaves out
MINUS_INFINITY = -9999.0  # servers write this for a probability of zero
SLACK = 1e-3  # how far above 0 rounding may put a log-probability
ID_PREFIX = "token_id:"  # vLLM's names of tokens with return_tokens_as_token_ids


class ServerSequence(NamedTuple):
    """A prompt and its continuation, as far as the response has them.

    where: the place of the response, and of the choice in it, for messages. tokens: ids, or texts where the server names tokens
    by text. ids: of all tokens, UNKNOWN where the response lacks one. log_probs: of these tokens; NaN where the server has
    none. prompt_length: the number of leading tokens of the prompt; 0 of a prompt that is echoed, whose end is not known. top:
    at each position the log-probabilities of its likeliest tokens, by the names of `tokens`, None where the server has none;
    None as a whole unless asked for. group: equal for choices of one response, and for responses with the same ids of the
    prompt; None of SGLang.
    """

    where: str
    tokens: list[Token]
    ids: list[int]
    log_probs: list[float]
    prompt_length: int
    top: list[dict[Token, float] | None] | None
    group: str | None


class _Part(NamedTuple):
    """A stretch of consecutive tokens: names, ids, log-probabilities, and top lists in the server's form."""

    tokens: list[Token]
    ids: list[int]
    log_probs: list[float]
    top: Sequence[Any]


def sequences(path: Path, key: str, with_top: bool = False) -> Iterator[ServerSequence]:
    """Iterate over a file's sequences; `key` names the file in errors. Raises `SettingsError` for what it cannot read."""
    for where, response in json_values(path, f"{key}: {path.name}"):
        yield from sequences_of(response, where, with_top)


def sequences_of(response: Any, where: str, with_top: bool = False) -> Iterator[ServerSequence]:
    """Iterate over a response's sequences, one a choice; raises `SettingsError`, with its place, for what it cannot read."""
    if not isinstance(response, dict):
        raise SettingsError(where, "", f"is of type {type(response).__name__} where a server's response must be")
    try:
        body = unwrapped(response)
        if body.get("error") or body.get("object") == "error":
            raise SettingsError(where, "", f"is an error of the server: {body.get('error') or body.get('message')}")
        if isinstance(body.get("meta_info"), dict):
            yield _sequence(_sglang(body["meta_info"], where), None, where, with_top)
            return
        choices = body.get("choices") or [{}]
        for number, choice in enumerate(choices, 1):
            place = where if len(choices) == 1 else f"{where}, choice {number}"
            group = choice.get("prompt_token_ids") or body.get("prompt_token_ids") or body.get("id") or where
            yield _sequence(_choice(body, choice, place), str(group), place, with_top)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(where, "", f"has log-probabilities of an unknown shape ({error!r:.80})") from None


def unwrapped(response: dict[str, Any]) -> dict[str, Any]:
    """The response itself, which a line of OpenAI's batches wraps."""
    wrapped = response.get("response")
    return wrapped["body"] if isinstance(wrapped, dict) and isinstance(wrapped.get("body"), dict) else response


def _sequence(both: tuple[_Part | None, _Part | None], group: str | None, where: str, with_top: bool) -> ServerSequence:
    """The sequence of the parts of a prompt and of its continuation."""
    parts = [part for part in both if part is not None]
    if not parts:
        rule = "holds no log-probabilities; looked for choices[].logprobs, prompt_logprobs and meta_info"
        raise SettingsError(where, "", rule)
    return ServerSequence(
        where,
        [token for part in parts for token in part.tokens],
        [one for part in parts for one in part.ids],
        [log_prob for part in parts for log_prob in part.log_probs],
        0 if both[0] is None else len(both[0].tokens),
        [_top(entries, where) for part in parts for entries in part.top] if with_top else None,
        group,
    )


def _choice(response: dict[str, Any], choice: dict[str, Any], where: str) -> tuple[_Part | None, _Part | None]:
    """The prompt and the completion of a choice of OpenAI's and vLLM's responses."""
    logprobs = choice.get("logprobs") or {}
    completion = None
    if logprobs.get("content"):
        completion = _chat(logprobs["content"], choice.get("token_ids"), where)
    elif logprobs.get("tokens") or logprobs.get("token_logprobs"):
        completion = _completions(logprobs, choice.get("token_ids"), where)
    if completion is not None and math.isnan(completion.log_probs[0]):  # echo=true: the prompt is in it
        return None, completion
    prompt, ids = (choice.get(name) or response.get(name) for name in ("prompt_logprobs", "prompt_token_ids"))
    return _prompt(prompt, ids, where), completion


def _completions(logprobs: dict[str, Any], token_ids: list[Any] | None, where: str) -> _Part:
    names = [_name(text) for text in logprobs["tokens"]]
    top = logprobs.get("top_logprobs") or [None] * len(names)
    return _part(names, token_ids, logprobs["token_logprobs"], top, where)


def _chat(content: list[dict[str, Any]], token_ids: list[Any] | None, where: str) -> _Part:
    names = [_name(entry["token"], entry.get("bytes")) for entry in content]
    return _part(
        names, token_ids, [entry["logprob"] for entry in content], [entry.get("top_logprobs") for entry in content], where
    )


def _prompt(entries: list[dict[str, Any] | None] | None, token_ids: list[Any] | None, where: str) -> _Part | None:
    """vLLM's prompt_logprobs: null for the first token, then dictionaries by id that begin with the prompt's own token."""
    if not entries:
        return None
    ids = [int(next(iter(entry))) if entry else UNKNOWN for entry in entries] if token_ids is None else token_ids
    if len(ids) != len(entries):
        raise SettingsError(where, "", f"has {len(entries):,} prompt_logprobs for {len(ids):,} tokens of the prompt")
    log_probs = [entry[str(token)]["logprob"] if entry else None for token, entry in zip(ids, entries, strict=True)]
    return _part([*ids], token_ids, log_probs, entries, where)


def _sglang(meta: dict[str, Any], where: str) -> tuple[_Part | None, _Part | None]:
    """SGLang's lists of [log-probability, id, text or null]; a part of a prompt that was not scored is not in them."""

    def part(*prefixes: str) -> _Part | None:
        entries, top = (
            next((meta[f"{prefix}_{name}"] for prefix in prefixes if meta.get(f"{prefix}_{name}")), None)
            for name in ("token_logprobs", "top_logprobs")
        )
        if not entries:
            return None
        names: list[Token] = [UNKNOWN if entry is None else _id(entry[1], where) for entry in entries]
        log_probs = [None if entry is None else entry[0] for entry in entries]
        return _part(names, None, log_probs, top or [None] * len(entries), where)

    return part("input", "prefill"), part("output", "decode")


def _part(names: list[Token], ids: list[Any] | None, log_probs: Sequence[Any], top: Sequence[Any], where: str) -> _Part:
    """A part, with its lengths and its numbers checked; ids: None if they are known from the names alone."""
    sizes = {len(names), len(log_probs), len(top), len(names if ids is None else ids)}
    if len(sizes) > 1:
        raise SettingsError(where, "", f"has {' and '.join(map(str, sorted(sizes)))} entries in lists that must be as long")
    if ids is None:
        numbers = [name if isinstance(name, int) else UNKNOWN for name in names]
    else:
        numbers = [_id(one, where) for one in ids]
    return _Part(names, numbers, [_log_prob(value, where) for value in log_probs], top)


def _id(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise SettingsError(where, "", f"has {value!r:.40} in place of a token's id")
    return value


def _log_prob(value: Any, where: str) -> float:
    """A log-probability; null is NaN, and the servers' stand-in for minus infinity is that."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(where, "", f"has {value!r:.40} in place of a log-probability")
    if math.isnan(value):
        raise SettingsError(where, "", "has a log-probability that is NaN")
    if value > SLACK:
        raise SettingsError(where, "", f"has a log-probability of {value:.4g}: none is above 0")
    return -math.inf if value <= MINUS_INFINITY else min(float(value), 0.0)


def _name(text: str, in_bytes: list[int] | None = None) -> Token:
    """A token's name: its id where the text is one, its bytes where the text cannot show them, else its text."""
    if text.startswith(ID_PREFIX):
        return int(text.removeprefix(ID_PREFIX))
    return f"bytes:{bytes(in_bytes).hex()}" if in_bytes and "\ufffd" in text else text


def _top(entries: Any, where: str) -> dict[Token, float] | None:
    """A position's top log-probabilities by token, from a dictionary or a list in any of the servers' forms."""
    if not entries:
        return None
    by_token: dict[Token, float] = {}
    for name, value in _pairs(entries):
        if name in by_token:
            rule = f"shows the token {name!r:.40} twice at one position; ask the server for token ids"
            raise SettingsError(where, "", rule)
        by_token[name] = _log_prob(value, where)
    if any(math.isnan(value) for value in by_token.values()):
        raise SettingsError(where, "", "has null among the top log-probabilities of a position")
    return by_token


def _pairs(entries: Any) -> Iterator[tuple[Token, Any]]:
    if isinstance(entries, dict):
        for name, value in entries.items():
            yield (int(name), value["logprob"]) if isinstance(value, dict) else (_name(name), value)
    else:
        for entry in entries:
            is_chat = isinstance(entry, dict)
            yield (_name(entry["token"], entry.get("bytes")), entry["logprob"]) if is_chat else (int(entry[1]), entry[0])
