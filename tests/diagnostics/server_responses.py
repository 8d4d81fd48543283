"""Responses as inference servers write them, from two tables of log-probabilities: the tests' own."""

import json
from pathlib import Path

import numpy as np


def top(row: np.ndarray, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-row, kind="stable")[:k]]


def text(token: int) -> str:
    return f" w{token}"


def vllm_prompt(log_p: np.ndarray, tokens: list[int], k: int, with_ids: bool = True) -> dict:
    """prompt_logprobs: the prompt's token first, then the top k; rows are of positions 1, 2, ..."""
    entries: list = [None]
    for row, token in zip(log_p, tokens[1:], strict=True):
        names = [token, *(i for i in top(row, k) if i != token)]
        ranks = {name: 1 + int((row > row[name]).sum()) for name in names}
        entries.append({str(i): {"logprob": float(row[i]), "rank": ranks[i], "decoded_token": text(i)} for i in names})
    choice = {"index": 0, "text": "", "logprobs": None, "prompt_logprobs": entries}
    return {"object": "text_completion", "choices": [choice | ({"prompt_token_ids": tokens} if with_ids else {})]}


def sglang_prompt(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    sampled = [[None, tokens[0], None]]
    sampled += [[float(row[token]), token, None] for row, token in zip(log_p, tokens[1:], strict=True)]
    tops = [None, *([[float(row[i]), i, None] for i in top(row, k)] for row in log_p)]
    meta = {"input_token_logprobs": sampled, "input_top_logprobs": tops, "output_token_logprobs": []}
    return {"text": "", "meta_info": meta}


def sglang_output(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    sampled = [[float(row[token]), token, text(token)] for row, token in zip(log_p, tokens[1:], strict=True)]
    tops = [[[float(row[i]), i, text(i)] for i in top(row, k)] for row in log_p]
    return {"text": "", "meta_info": {"output_token_logprobs": sampled, "output_top_logprobs": tops}}


def completions(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    """OpenAI's and vLLM's: the sampled token is in the dictionary whatever its rank."""
    tops = [{text(i): float(row[i]) for i in {*top(row, k), token}} for row, token in zip(log_p, tokens[1:], strict=True)]
    logprobs = {
        "text_offset": list(range(len(log_p))),
        "token_logprobs": [float(row[token]) for row, token in zip(log_p, tokens[1:], strict=True)],
        "tokens": [text(token) for token in tokens[1:]],
        "top_logprobs": tops,
    }
    return {"object": "text_completion", "choices": [{"index": 0, "text": "", "logprobs": logprobs}]}


def echoed(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    """Completions with echo=true: the whole sequence, null for its first token; and vLLM's prompt_logprobs of the same."""
    response = completions(log_p, tokens, k)
    logprobs = response["choices"][0]["logprobs"]
    for name, first in (("tokens", text(tokens[0])), ("token_logprobs", None), ("top_logprobs", None), ("text_offset", 0)):
        logprobs[name].insert(0, first)
    response["choices"][0]["prompt_logprobs"] = vllm_prompt(log_p, tokens, k)["choices"][0]["prompt_logprobs"]
    return response


def chat(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    def entry(row: np.ndarray, token: int) -> dict:
        value = float(row[token])
        return {"token": text(token), "logprob": max(value, -9999.0), "bytes": list(text(token).encode())}

    content = [
        entry(row, token) | {"top_logprobs": [entry(row, i) for i in top(row, k)]}
        for row, token in zip(log_p, tokens[1:], strict=True)
    ]
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {}, "logprobs": {"content": content}}]}


def batched(log_p: np.ndarray, tokens: list[int], k: int) -> dict:
    """A line of OpenAI's batches."""
    return {"id": "one", "response": {"status_code": 200, "body": chat(log_p, tokens, k)}, "error": None}


SHAPES = {
    "vllm": vllm_prompt,
    "sglang": sglang_prompt,
    "sglang-output": sglang_output,
    "completions": completions,
    "echo": echoed,
    "chat": chat,
    "batch": batched,
}


def write(path: Path, responses: list[dict], form: str = "lines") -> Path:
    """Write responses as JSON lines, as one list, or as an indented list."""
    content = {
        "lines": lambda: "".join(json.dumps(response) + "\n" for response in responses),
        "list": lambda: json.dumps(responses),
        "indented": lambda: json.dumps(responses, indent=2),
    }[form]()
    path.write_text(content)
    return path
