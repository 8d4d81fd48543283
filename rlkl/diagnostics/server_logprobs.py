"""Log-probabilities in the JSON that inference servers answer with: OpenAI's API, vLLM, SGLang.

A file is one response, a JSON list of responses, or JSON lines, a response a line. Read are: completions
(`choices[].logprobs` with `tokens`, `token_logprobs`, `top_logprobs`), chat completions (`choices[].logprobs.content`),
vLLM's `prompt_logprobs`, SGLang's `meta_info` (`input_` and `output_token_logprobs`, `_top_logprobs`), and the lines of
OpenAI's batches, which wrap these. -9999.0 and below stand for minus infinity, and null for a prompt's first token. Whether
numbers are raw or processed (temperature, top-p) is not in the response. Sources: vllm/entrypoints/openai,
sglang/srt/managers/tokenizer_manager.py, OpenAI's API reference.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlkl.errors import SettingsError

Token = int | str
UNKNOWN = -1  # in place of the id of a first token that the server leaves out
MINUS_INFINITY = -9999.0
SLACK = 1e-3  # how far above 0 rounding may put a log-probability
ID_PREFIX = "token_id:"  # vLLM's names of tokens with return_tokens_as_token_ids


class ServerSequence(NamedTuple):
    """A prompt and its continuation, as far as the response has them.

    tokens: ids, or texts where the server names tokens by text. ids: ids of all tokens, None if the response lacks one.
    log_probs: of these tokens; NaN where the server has none. prompt_length: the number of leading tokens of the prompt. top:
    at each position the log-probabilities of its likeliest tokens, by the names of `tokens`, None where the server has none;
    None as a whole unless asked for.
    """

    tokens: list[Token]
    ids: list[int] | None
    log_probs: list[float]
    prompt_length: int
    top: list[dict[Token, float] | None] | None


class _Part(NamedTuple):
    """A stretch of consecutive tokens: names, ids or None, log-probabilities, and top lists in the server's form."""

    tokens: list[Token]
    ids: list[int] | None
    log_probs: list[float]
    top: Sequence[Any]


def sequences(path: Path, key: str, with_top: bool = False) -> Iterator[ServerSequence]:
    """Iterate over a file's sequences; `key` names the file in errors. Raises `SettingsError` for what it cannot read."""
    for number, response in enumerate(responses(path, key), start=1):
        where = f"{key}, response {number}"
        try:
            yield from _sequences(response, where, with_top)
        except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, SettingsError):
                raise
            raise SettingsError(where, "", f"has log-probabilities of an unknown shape ({error!r:.80})") from None


def responses(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """Iterate over the JSON objects of a file; JSON lines are read one at a time."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            try:
                content = json.loads(first)
            except json.JSONDecodeError:
                content = json.loads(first + file.read())  # one document over several lines
            yield from _objects(content, key, path)
            for line in file:
                if line.strip():
                    yield from _objects(json.loads(line), key, path)
    except SettingsError:
        raise
    except FileNotFoundError:
        raise SettingsError(key, path, "there is no such file") from None
    except OSError as error:
        raise SettingsError(key, path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(key, path, f"is truncated or damaged, or no JSON ({error!s:.80})") from None


def _objects(content: Any, key: str, path: Path) -> Iterator[dict[str, Any]]:
    for response in content if isinstance(content, list) else [content]:
        if not isinstance(response, dict):
            raise SettingsError(key, path, f"holds a {type(response).__name__} where a server's response must be")
        yield response


def _sequences(response: dict[str, Any], where: str, with_top: bool) -> Iterator[ServerSequence]:
    wrapped = response.get("response")
    if isinstance(wrapped, dict) and isinstance(wrapped.get("body"), dict):
        response = wrapped["body"]
    if response.get("error") or response.get("object") == "error":
        raise SettingsError(where, "", f"is an error of the server: {response.get('error') or response.get('message')}")
    if isinstance(response.get("meta_info"), dict):
        parts = [[_sglang(response["meta_info"], names, where) for names in (("input", "prefill"), ("output", "decode"))]]
    else:
        parts = [_choice(response, choice, where) for choice in response.get("choices") or [{}]]
    for prompt, completion in parts:
        if prompt is None and completion is None:
            rule = "holds no log-probabilities; looked for choices[].logprobs, prompt_logprobs and meta_info"
            raise SettingsError(where, "", rule)
        yield _joined([part for part in (prompt, completion) if part is not None], prompt, where, with_top)


def _joined(parts: list[_Part], prompt: _Part | None, where: str, with_top: bool) -> ServerSequence:
    ids = [part.ids for part in parts]
    return ServerSequence(
        [token for part in parts for token in part.tokens],
        None if None in ids else [one for part in ids if part is not None for one in part],
        [log_prob for part in parts for log_prob in part.log_probs],
        0 if prompt is None else len(prompt.tokens),
        [_top(entries, where) for part in parts for entries in part.top] if with_top else None,
    )


def _choice(response: dict[str, Any], choice: dict[str, Any], where: str) -> list[_Part | None]:
    """The prompt and the completion of a choice of OpenAI's and vLLM's responses."""

    def field(name: str) -> Any:
        return choice.get(name) or response.get(name)

    logprobs = choice.get("logprobs") or {}
    completion = None
    if logprobs.get("content"):
        completion = _chat(logprobs["content"], choice.get("token_ids"), where)
    elif logprobs.get("tokens") or logprobs.get("token_logprobs"):
        completion = _completions(logprobs, choice.get("token_ids"), where)
    if completion is not None and math.isnan(completion.log_probs[0]):  # echo=true: the prompt is in it
        usage = response.get("usage") or {}
        end = len(field("prompt_logprobs") or ()) or usage.get("prompt_tokens") or 1
        return [_slice(completion, slice(0, end)), _slice(completion, slice(end, None))]
    return [_prompt(field("prompt_logprobs"), field("prompt_token_ids"), where), completion]


def _slice(part: _Part, place: slice) -> _Part:
    ids = None if part.ids is None else part.ids[place]
    return _Part(part.tokens[place], ids, part.log_probs[place], part.top[place])


def _completions(logprobs: dict[str, Any], token_ids: list[int] | None, where: str) -> _Part:
    names = [_name(text) for text in logprobs["tokens"]]
    top = logprobs.get("top_logprobs") or [None] * len(names)
    return _part(names, token_ids, logprobs["token_logprobs"], top, where)


def _chat(content: list[dict[str, Any]], token_ids: list[int] | None, where: str) -> _Part:
    names = [_name(entry["token"], entry.get("bytes")) for entry in content]
    return _part(
        names, token_ids, [entry["logprob"] for entry in content], [entry.get("top_logprobs") for entry in content], where
    )


def _prompt(entries: list[dict[str, Any] | None] | None, token_ids: list[int] | None, where: str) -> _Part | None:
    """vLLM's prompt_logprobs: null for the first token, then dictionaries by id that begin with the prompt's own token."""
    if not entries:
        return None
    ids = [int(next(iter(entry))) if entry else UNKNOWN for entry in entries] if token_ids is None else token_ids
    if len(ids) != len(entries):
        raise SettingsError(where, "", f"has {len(entries):,} prompt_logprobs for {len(ids):,} tokens of the prompt")
    log_probs = [entry[str(token)]["logprob"] if entry else None for token, entry in zip(ids, entries, strict=True)]
    names: list[Token] = list(ids)
    return _part(names, None if token_ids is None else ids, log_probs, entries, where)


def _sglang(meta: dict[str, Any], prefixes: tuple[str, str], where: str) -> _Part | None:
    """SGLang's lists of [log-probability, id, text or null]; a part of a prompt that was not scored is not in them."""

    def field(name: str) -> Any:
        return next((meta[f"{prefix}_{name}"] for prefix in prefixes if meta.get(f"{prefix}_{name}")), None)

    entries = field("token_logprobs")
    if not entries:
        return None
    ids = [UNKNOWN if entry is None else int(entry[1]) for entry in entries]
    top = field("top_logprobs") or [None] * len(entries)
    names: list[Token] = list(ids)
    return _part(names, None, [None if entry is None else entry[0] for entry in entries], top, where)


def _part(names: list[Token], ids: list[int] | None, log_probs: Sequence[Any], top: Sequence[Any], where: str) -> _Part:
    """A part, with its lengths and its numbers checked."""
    if ids is None and all(isinstance(name, int) and name != UNKNOWN for name in names):
        ids = [int(name) for name in names]
    sizes = {len(names), len(log_probs), len(top), len(names if ids is None else ids)}
    if len(sizes) > 1:
        raise SettingsError(where, "", f"has {' and '.join(map(str, sorted(sizes)))} entries in lists that must be as long")
    return _Part(names, ids, [_log_prob(value, where) for value in log_probs], top)


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
