"""Reading of servers' responses: every shape gives back the numbers that were written, and bad ones are refused."""

import json
import math

import numpy as np
import pytest
from scipy import special

from rlkl.diagnostics import server_logprobs
from rlkl.errors import SettingsError
from tests.diagnostics import server_responses
from tests.diagnostics.server_responses import SHAPES

K, VOCABULARY = 3, 12


def case(seed: int, length: int = 6):
    draw = np.random.default_rng(seed)
    return special.log_softmax(draw.normal(scale=2.0, size=(length, VOCABULARY)), axis=1), draw.integers(
        12, size=length + 1
    ).tolist()


def read(path, with_top=True):
    return list(server_logprobs.sequences(path, "BASE", with_top))


@pytest.mark.parametrize("form", ["lines", "list", "indented"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read(tmp_path, shape, form):
    cases = [case(seed) for seed in range(3)]
    path = server_responses.write(tmp_path / "some", [SHAPES[shape](*one, K) for one in cases], form)
    whole = shape in ("vllm", "sglang", "echo")  # with the first token, of which nothing is known
    for (log_p, tokens), sequence in zip(cases, read(path), strict=True):
        expected = tokens[0 if whole else 1 :]
        numbers = [int(token.removeprefix(" w")) if isinstance(token, str) else token for token in sequence.tokens]
        assert numbers == expected
        log_probs = sequence.log_probs[1:] if whole else sequence.log_probs
        np.testing.assert_array_equal(log_probs, log_p[np.arange(6), tokens[1:]])
        assert not whole or (math.isnan(sequence.log_probs[0]) and sequence.top[0] is None)
        assert sequence.ids == (expected if shape.startswith(("vllm", "sglang")) else [-1] * len(expected))
        assert sequence.prompt_length == (7 if shape in ("vllm", "sglang") else 0)
        for row, top in zip(log_p, sequence.top[1:] if whole else sequence.top, strict=True):
            shown = {name if isinstance(name, int) else int(name.removeprefix(" w")): value for name, value in top.items()}
            assert set(server_responses.top(row, K)) <= set(shown)
            assert all(row[name] == value for name, value in shown.items())


def test_sampled_tokens_are_read_without_their_top_lists(tmp_path):
    response = server_responses.chat(*case(0), K)
    response["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = "nothing that is read"
    path = server_responses.write(tmp_path / "some", [response])
    assert read(path, with_top=False)[0].top is None
    with pytest.raises(SettingsError, match=r"BASE: some, line 1"):
        read(path)


def test_a_prompt_and_its_continuation_are_one_sequence(tmp_path):
    """vLLM's with both kinds of log-probabilities, and with ids of the continuation."""
    log_p, tokens = case(0)
    response = server_responses.completions(log_p[3:], tokens[3:], K)
    choice = response["choices"][0]
    prompt = server_responses.vllm_prompt(log_p[:3], tokens[:4], K)["choices"][0]
    choice |= {"prompt_logprobs": prompt["prompt_logprobs"], "prompt_token_ids": tokens[:4], "token_ids": tokens[4:]}
    (sequence,) = read(server_responses.write(tmp_path / "some", [response]))
    assert sequence.ids == tokens and sequence.prompt_length == 4
    np.testing.assert_array_equal(sequence.log_probs[1:], log_p[np.arange(6), tokens[1:]])
    del choice["prompt_token_ids"]  # then each dictionary's first entry is the prompt's token
    (sequence,) = read(server_responses.write(tmp_path / "some", [response]))
    assert sequence.tokens == sequence.ids[:4] + sequence.tokens[4:] and sequence.ids == [-1, *tokens[1:]]


def test_choices_are_sequences_with_a_place_and_a_group(tmp_path):
    """Equal groups for choices of one response, and for responses with the same ids of the prompt."""
    responses = [server_responses.completions(*case(seed), K) for seed in range(4)]
    responses[0]["choices"] *= 2
    for response, prompt in zip(responses[1:], ([5], [6], [5]), strict=True):
        response["prompt_token_ids"] = prompt
    sequences = read(server_responses.write(tmp_path / "some", [*responses, server_responses.sglang_output(*case(4), K)]))
    first, second, one, other, again, sglang = (sequence.group for sequence in sequences)
    assert first == second and one == again and len({first, one, other}) == 3 and sglang is None
    assert [each.where for each in sequences[:3]] == [
        "BASE: some, line 1, choice 1", "BASE: some, line 1, choice 2", "BASE: some, line 2"
    ]  # fmt: skip


def test_the_end_of_an_echoed_prompt_is_not_guessed(tmp_path):
    response = server_responses.echoed(*case(0), K) | {"usage": {"prompt_tokens": 4}}
    (sequence,) = read(server_responses.write(tmp_path / "some", [response]))
    assert sequence.prompt_length == 0 and len(sequence.tokens) == 7


def test_names_of_tokens(tmp_path):
    """Ids as vLLM names them, and bytes where a text cannot show them."""
    entry = {"token": "token_id:7", "logprob": -1.0, "bytes": None}
    half = {"token": "\ufffd", "logprob": -2.0, "bytes": [226, 130]}
    content = [entry | {"top_logprobs": [entry, half]}, half | {"top_logprobs": [entry, half]}]
    path = server_responses.write(tmp_path / "some", [{"choices": [{"logprobs": {"content": content}}]}])
    (sequence,) = read(path)
    assert sequence.tokens == [7, "bytes:e282"] and sequence.top[0] == {7: -1.0, "bytes:e282": -2.0}


def test_minus_9999_is_minus_infinity(tmp_path):
    response = server_responses.chat(*case(0), K)
    response["choices"][0]["logprobs"]["content"][2]["logprob"] = -9999.0
    assert read(server_responses.write(tmp_path / "some", [response]))[0].log_probs[2] == -math.inf


def changed(shape: str, **fields) -> dict:
    response = SHAPES[shape](*case(0), K)
    response["choices"][0]["logprobs"] |= fields
    return response


def with_value(value) -> dict:
    response = server_responses.chat(*case(0), K)
    response["choices"][0]["logprobs"]["content"][1]["logprob"] = value
    return response


ONE = {"tokens": ["a"], "token_logprobs": [-1.0]}
TWICE = {"token": "a", "logprob": -1.0}
BAD = {
    "positive": (with_value(0.5), "BASE: some, line 2: has a log-probability of 0.5: none is above 0"),
    "NaN": (with_value(math.nan), "BASE: some, line 2: has a log-probability that is NaN"),
    "text": (with_value("-1.0"), "BASE: some, line 2: has '-1.0' in place of a log-probability"),
    "huge": (with_value(-(10**400)), "of an unknown shape"),
    "bool": (with_value(False), "in place of a log-probability"),
    "short": (changed("completions", token_logprobs=[-1.0]), "has 1 and 6 entries in lists that must be as long"),
    "short top": (changed("completions", top_logprobs=[{" w1": -1.0}]), "has 1 and 6 entries"),
    "no lists": (changed("completions", token_logprobs=None), "of an unknown shape"),
    "number": (changed("completions", tokens=7), "of an unknown shape"),
    "strings": (changed("chat", content=["a"]), "of an unknown shape"),
    "none": ({"choices": [{"text": "a", "logprobs": None}]}, "holds no log-probabilities; looked for choices"),
    "empty": ({}, "holds no log-probabilities"),
    "error": ({"error": {"message": "no such model"}}, "is an error of the server: {'message': 'no such model'}"),
    "prompt": ({"prompt_logprobs": [None, {"3": {"logprob": -1.0}}], "prompt_token_ids": [1]}, "2 prompt_logprobs for 1 token"),
    "other id": ({"prompt_logprobs": [None, {"3": {"logprob": -1.0}}], "prompt_token_ids": [1, 2]}, "of an unknown shape"),
    "twice": ({"choices": [{"logprobs": {"content": [TWICE | {"top_logprobs": [TWICE] * 2}]}}]}, "shows the token 'a' twice"),
    "null top": ({"choices": [{"logprobs": {"content": [TWICE | {"top_logprobs": [TWICE | {"logprob": None}]}]}}]}, "has null"),
    "sglang": ({"meta_info": {"output_token_logprobs": [[-1.0]]}}, "of an unknown shape"),
    "no id": ({"meta_info": {"output_token_logprobs": [[-1.0, 8.7]]}}, "has 8.7 in place of a token's id"),
    "negative id": ({"choices": [{"logprobs": ONE, "token_ids": [-1]}]}, "has -1 in place of a token's"),
    "text as id": ({"choices": [{"logprobs": ONE, "token_ids": ["7"]}]}, "has '7' in place of a token's id"),
    "no meta": ({"text": "a", "meta_info": {"prompt_tokens": 2}}, "holds no log-probabilities"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_responses_are_refused(tmp_path, name):
    response, said = BAD[name]
    path = server_responses.write(tmp_path / "some", [server_responses.chat(*case(0), K), response])
    with pytest.raises(SettingsError) as raised:
        read(path)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (b'{"choices": [', "line 1: is no JSON; the file ends in it: is it truncated?"),
        (b"[1, 2]", "line 1, entry 1: is of type int where a server's response must be"),
        (b'["a"]', "is of type str"),
        (b"[" * 200_000, "is no JSON"),
        (b'{"a": "\xff"}', "is no text in UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, content, said):
    path = tmp_path / "some"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="BASE: some, line 1") as raised:
        read(path)
    assert said in str(raised.value)


def test_a_truncated_last_line_is_refused(tmp_path):
    path = server_responses.write(tmp_path / "some", [server_responses.chat(*case(seed), K) for seed in range(3)])
    path.write_text(path.read_text()[:-30])
    sequences = server_logprobs.sequences(path, "BASE")
    assert next(sequences) and next(sequences)  # lines are read one at a time
    with pytest.raises(SettingsError, match="line 3: is no JSON; the file ends in it: is it truncated"):
        next(sequences)


def test_lines_are_those_that_json_writes(tmp_path):
    path = tmp_path / "some"
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(server_responses.chat(*case(0), K)).encode() + b"\n\n")
    assert len(read(path)) == 1
