"""Rollouts as other libraries and servers write them, and what of theirs cannot be read."""

import copy
import json

import numpy as np
import pytest

from rlkl.errors import SettingsError
from tests.diagnostics.test_rollout_files import joined, read, refused


def prime_rl(**changes):
    record = {
        "schema_version": 1, "step": 7, "rank": 0, "micro_step": 0, "env_name": "math", "token_ids": [5, 6, 8, 9],
        "position_ids": [0, 1, 2, 3], "loss_mask": [False, False, True, True], "advantages": [0.0, 0.0, 0.5, 0.5],
        "inference_logprobs": [0.0, 0.0, -1.5, -2.5], "trainer_logprobs": [None, -9.0, -1.0, -2.0],
        "entropy": [1.0, 1.0, 1.0, 1.0], "mismatch_kl": [None, None, 0.1, 0.1], "is_masked": [None, None, False, False],
    }  # fmt: skip
    return record | changes


def nemo_rl(**changes):
    record = {
        "content": ["question answer"], "rewards": [1.0], "input_lengths": [4], "token_ids": [[5, 6, 8, 9, 0]],
        "token_loss_mask": [[0, 0, 1, 1, 0]], "sample_loss_mask": [1.0], "advantages": [[0.5] * 5],
        "generation_logprobs": [[0.0, 0.0, -1.5, -2.5, 0.0]], "prev_logprobs": [[0.0, -9.0, -1.0, -2.0, 0.0]], "idx": 0,
    }  # fmt: skip
    return record | changes


def completion(**changes):
    logprobs = {"text_offset": [0, 1], "token_logprobs": [-1.5, -2.5], "tokens": ["a", "b"], "top_logprobs": [{"a": -1.5}, {}]}
    choice = {"index": 0, "text": "ab", "logprobs": logprobs, "token_ids": [8, 9], "prompt_token_ids": [5, 6]}
    return {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice | changes], "usage": {}}


def chat(**changes):
    content = [{"token": f"token_id:{8 + i}", "logprob": -1.5 - i, "bytes": None, "top_logprobs": []} for i in range(2)]
    choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "logprobs": {"content": content}}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice | changes]}


def sglang(**changes):
    meta_info = {"id": "1", "output_token_logprobs": [[-1.5, 8, None], [-2.5, 9, "b"]], "completion_tokens": 2}
    return {"text": "ab", "output_ids": [8, 9], "meta_info": meta_info | changes}


def batch(**changes):
    return {"id": "r", "custom_id": "1", "response": {"status_code": 200, "body": completion(**changes)}, "error": None}


SERVERS = {"completion": completion, "chat": chat, "sglang": sglang, "batch": batch}
LIBRARIES = {"prime_rl": prime_rl, "nemo_rl": nemo_rl}


def stored(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_read(library, tmp_path):
    example = LIBRARIES[library]
    changed = {"token_ids": [5, 7, 8, 9]} if library == "prime_rl" else {"token_ids": [[5, 7, 8, 9, 0]]}
    [header], [chunk] = read(
        stored(tmp_path / "train_data_step7.jsonl", example(), example(), example(**changed)), vocab_size=10
    )
    assert header.vocab_size == 10
    np.testing.assert_array_equal(chunk.lengths, [2, 2, 2])
    np.testing.assert_array_equal(chunk.tokens, [8, 9] * 3)
    np.testing.assert_array_equal(chunk.log_probs, [-1.0, -2.0] * 3)
    np.testing.assert_array_equal(chunk.sampler_log_probs, [-1.5, -2.5] * 3)
    np.testing.assert_array_equal(chunk.advantages, [0.5] * 6)
    np.testing.assert_array_equal(chunk.step, [7] * 3)
    assert chunk.group[0] == chunk.group[1] != chunk.group[2]
    assert chunk.ref_log_probs is None
    np.testing.assert_array_equal(chunk.reward, None if library == "prime_rl" else [1.0] * 3)


def test_a_folder_of_prime_rl_is_read_whole(tmp_path):
    for step, rank in ((10, 0), (2, 1), (2, 0)):
        folder = tmp_path / "token_exports" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        stored(folder / f"rank_{rank}.jsonl", prime_rl(step=step, rank=rank))
        (folder / "STABLE").touch()
    np.testing.assert_array_equal(joined(read(tmp_path)[1]).step, [2, 2, 10])


def test_prime_rl_without_advantages(tmp_path):
    _, [chunk] = read(stored(tmp_path / "a", prime_rl(advantages=[None] * 4)))
    assert chunk.advantages is None


def test_nemo_rl_by_batches_without_prev_logprobs_and_with_samples_left_out(tmp_path):
    wide = {name: value * 2 for name, value in nemo_rl().items() if name != "idx"} | {"sample_loss_mask": [0.0, 1.0]}
    _, [chunk] = read(stored(tmp_path / "a", wide, nemo_rl()))
    np.testing.assert_array_equal(chunk.lengths, [2, 2])
    assert chunk.step is None and chunk.log_probs is not None
    _, [chunk] = read(stored(tmp_path / "a", nemo_rl(prev_logprobs=[[0.0] * 5])))
    assert chunk.log_probs is None and chunk.sampler_log_probs is not None
    _, [chunk] = read(stored(tmp_path / "a", nemo_rl(filtered_rewards=[0.25])))
    assert chunk.reward == 0.25


def test_nemo_rl_without_lists_of_one(tmp_path):
    plain = {name: value if name == "idx" else value[0] for name, value in nemo_rl().items()}
    _, [chunk] = read(stored(tmp_path / "a", plain))
    np.testing.assert_array_equal(chunk.log_probs, [-1.0, -2.0])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("reported", ["raw", "processed"])
def test_a_server_is_read(server, reported, tmp_path):
    path = stored(tmp_path / "a", SERVERS[server](), SERVERS[server]())
    [header], [chunk] = read(path, reported=reported)
    assert header.reported == reported and header.model == (None if server == "sglang" else "m")
    assert chunk.fields == (("sampler_log_probs", "tokens", "group") if server != "sglang" else ("sampler_log_probs", "tokens"))
    np.testing.assert_array_equal(chunk.sampler_log_probs, [-1.5, -2.5] * 2)
    np.testing.assert_array_equal(chunk.tokens, [8, 9] * 2)
    assert read(path, reported=reported, model="other")[0][0].model == "other"
    (tmp_path / "b").write_text(json.dumps([SERVERS[server]()] * 2, indent=1))
    np.testing.assert_array_equal(read(tmp_path / "b", reported=reported)[1][0].lengths, [2, 2])


def test_responses_of_one_prompt_are_a_group(tmp_path):
    several = completion()
    several["choices"] = [{name: each for name, each in several["choices"][0].items() if name != "prompt_token_ids"}] * 2
    alone, other = copy.deepcopy(completion()), copy.deepcopy(completion(prompt_token_ids=[5]))
    _, [chunk] = read(stored(tmp_path / "a", several, alone, alone, other), reported="raw")
    first, second, third, fourth, fifth = chunk.group
    assert first == second and third == fourth and len({first, third, fifth}) == 3


def test_prompts_that_a_server_scored_are_left_out(tmp_path):
    prompt = scored([], [])["choices"][0]["prompt_logprobs"]
    vllm = completion(prompt_logprobs=prompt)
    unnamed = completion(prompt_logprobs=prompt, prompt_token_ids=None)
    for value in (vllm, unnamed, sglang(input_token_logprobs=[[None, 5, None], [-7.0, 6, None]])):
        _, [chunk] = read(stored(tmp_path / "a", value), reported="raw")
        np.testing.assert_array_equal(chunk.sampler_log_probs, [-1.5, -2.5])
        np.testing.assert_array_equal(chunk.tokens, [8, 9])


def test_what_is_reported_must_be_said(tmp_path):
    for server, example in SERVERS.items():
        message = refused(stored(tmp_path / server, example()))
        assert message == f"reported: must be raw or processed: {server} does not say it (vLLM: logprobs_mode, by default raw)"


def scored(completion_tokens, log_probs, prompt=(5, 6)):
    entries = [None] + [{str(token): {"logprob": -7.0, "rank": 9, "decoded_token": "x"}} for token in prompt[1:]]
    for token, number in zip(completion_tokens, log_probs, strict=True):
        entries.append({str(token): {"logprob": number}, "3": {"logprob": -0.1, "rank": 1}})
    return {"id": "1", "model": "ref", "choices": [{"index": 0, "text": "", "prompt_logprobs": entries}]}


@pytest.mark.parametrize("server", ["vllm", "chat", "sglang"])
def test_a_server_scores_for_the_reference(server, tmp_path, monkeypatch):
    example = [scored([8, 9], [-0.25, -9999.0]), scored([8, 9], [-0.5, -0.75])]
    if server == "chat":
        example = [{"choices": [{"index": 0}], "prompt_logprobs": each["choices"][0]["prompt_logprobs"]} for each in example]
    if server == "sglang":
        numbers = ([-0.25, -9999.0], [-0.5, -0.75])
        example = [{"meta_info": {"input_token_logprobs": [[None, 5, None], [a, 8, None], [b, 9, None]]}} for a, b in numbers]
        for response in example:  # the token that was generated after the prompt
            response["meta_info"]["output_token_logprobs"] = [[-3.0, 1, None]]
    paths = stored(tmp_path / "a", completion()), stored(tmp_path / "b", completion())
    _, chunks = read(*paths, reported="raw", reference_logprobs=str(stored(tmp_path / "s", *example)))
    np.testing.assert_array_equal(joined(chunks).ref_log_probs, [-0.25, -np.inf, -0.5, -0.75])


def test_scores_that_do_not_fit_are_refused(tmp_path):
    path, score = stored(tmp_path / "a", completion()), tmp_path / "s"
    for example, message in (
        ([], "ends before the rollouts"),
        ([scored([8, 9], [-1, -1])] * 2, "reference_logprobs: s, line 2: has no sequence in the rollouts"),
        ([scored([9, 9], [-1, -1])], "s, line 1, token 0 of the completion: does not score token 8"),
        ([scored([8, 9], [-1, "x"])], "s, line 1: has 'x' in place of a log-probability"),
        ([scored([8, 9], [-1, None])], "token 1 of the completion: does not score token 9"),
        ([scored([8, 9], [-1, 1.0])], "reference_logprobs: s, line 1: has a log-probability of 1: none is above 0"),
        (
            [scored([9], [-1.0], prompt=(5,))],
            "scores 2 tokens (prompt_logprobs of vLLM, input_token_logprobs of SGLang), and the completion alone has 2",
        ),
        ([completion()], "s, line 1: scores 0 tokens (prompt_logprobs of vLLM, input_token_logprobs of SGLang)"),
        ([[1]], "s, line 1, entry 1: is of type int where a server's response must be"),
    ):
        stored(score, *example)
        assert message in refused(path, reported="raw", reference_logprobs=str(score))
    assert "cannot be read" in refused(path, reported="raw", reference_logprobs=str(tmp_path / "none"))
    assert "the rollouts have no tokens" in refused(
        stored(tmp_path / "b", completion(token_ids=None)), reported="raw", reference_logprobs=str(score)
    )
    stored(tmp_path / "c", {"ref_log_probs": [-1.0], "tokens": [1]})
    assert "the rollouts have ref_log_probs already" in refused(tmp_path / "c", reference_logprobs=str(score))


def logprobs(**changes):
    return completion()["choices"][0]["logprobs"] | changes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (prime_rl(schema_version=2), "schema_version=2: this rlkl reads version 1 of prime-rl's token export"),
        (prime_rl(schema_version=None), "line 1: lacks schema_version"),
        (prime_rl(step=None), "line 1: lacks step"),
        (prime_rl(loss_mask=None), "lacks loss_mask"),
        (prime_rl(loss_mask=[True]), "mask: has 1 entries, and log_probs has 4"),
        (prime_rl(token_ids="5689"), "token_ids='5689': must be a list with an entry for each token"),
        (prime_rl(trainer_logprobs=[0.0, 0.0, None, -1.0]), "token 0: log_probs=nan: is not a number"),
        (prime_rl(trainer_logprobs=[0.0, 0.0, 0.5, -1.0]), "token 0: log_probs=0.5: is above 0"),
        (prime_rl(trainer_logprobs=[0.0, 0.0, "a", -1.0]), "token 2: log_probs='a': must be a number"),
        (prime_rl(inference_logprobs=[0.0, 0.0, -9999.0, -1.0]), "is minus infinity for a token that was drawn from it"),
        (prime_rl(token_ids=[5, 6, 10, 9]), "token 0: tokens=10: is not below vocab_size=10"),
        (prime_rl(advantages=[0.0, 0.0, None, 0.5]), "token 0: advantages=nan: is not finite"),
        (nemo_rl(token_loss_mask=None), "lacks token_loss_mask"),
        (nemo_rl(rewards=[1.0, 2.0]), "rewards: must have 1 entries, one a sequence"),
        (nemo_rl(rewards=["1"]), "reward='1': must be a number"),
        (nemo_rl(prev_logprobs=[[-1.0]]), "sampler_log_probs: has 5 entries, and log_probs has 1"),
        (nemo_rl(prev_logprobs=[-1.0]), "prev_logprobs=-1.0: must be a list with an entry for each token"),
        (nemo_rl(prev_logprobs=[[0.0, -9.0, 2.0, -2.0, 0.0]]), "token 0: log_probs=2.0: is above 0"),
        (nemo_rl(token_ids=[[5, 6, 8, 10, 0]]), "token 1: tokens=10: is not below vocab_size=10"),
        (nemo_rl(sample_loss_mask=[0.0]), "holds no sequence"),
        (completion(logprobs=None), "line 1: holds no log-probabilities"),
        (completion(logprobs=[1]), "line 1: has log-probabilities of an unknown shape"),
        (completion(logprobs=logprobs(token_logprobs=[None, -1.0])), "ask the server without echo"),
        (completion(logprobs=logprobs(token_logprobs=[-1.0, None])), "token 1: sampler_log_probs=nan: is not a number"),
        (completion(logprobs=logprobs(token_logprobs=[-1.0, 0.5])), "line 1: has a log-probability of 0.5: none is above 0"),
        (completion(logprobs=logprobs(token_logprobs=[-1.0, -9999.0])), "is minus infinity for a token that was drawn"),
        (completion(token_ids=[8]), "has 1 and 2 entries in lists that must be as long"),
        (completion(token_ids=[8, 10]), "tokens=10: is not below vocab_size=10"),
        (completion() | {"choices": []}, "line 1: holds no log-probabilities"),
        (completion() | {"choices": 1}, "of an unknown shape"),
        (batch(logprobs=None), "line 1: holds no log-probabilities"),
        ({"response": {"status_code": 500, "body": None}}, "line 1: holds no log-probabilities"),
        ({"response": None, "error": {"code": "expired"}}, "is an error of the server: {'code': 'expired'}"),
        (scored([8, 9], [-1.0, -1.0]), "line 1: holds no log-probabilities of sampled tokens"),
        (chat(logprobs={"content": None}), "line 1: holds no log-probabilities"),
        (chat(logprobs={"content": [1]}), "of an unknown shape"),
        (chat(logprobs={"content": [{"token": "token_id:x", "logprob": -1.0}]}), "of an unknown shape"),
        (sglang(output_token_logprobs=None), "line 1: holds no log-probabilities"),
        (sglang(output_token_logprobs=[[-1.0, 8], -1.0]), "of an unknown shape"),
        (sglang(output_token_logprobs=[[None, 8]]), "begins with a token that was not sampled"),
        (sglang(output_token_logprobs=[[-1.0, 10]]), "tokens=10: is not below vocab_size=10"),
        ({"meta_info": 1}, "line 1: holds no log-probabilities"),
    ],
)
def test_what_others_write_and_cannot_be_is_refused(value, message, tmp_path):
    assert message in refused(stored(tmp_path / "a", value), reported="raw", vocab_size=10)


@pytest.mark.parametrize("example", [prime_rl, nemo_rl, completion, chat, sglang, batch])
def test_files_of_others_that_are_broken_are_refused(example, tmp_path):
    path = stored(tmp_path / "a", example(), example())
    content = path.read_bytes()
    for cut in (len(content) - 2, len(content) - 20, 3 * len(content) // 4, 50):
        path.write_bytes(content[:cut])
        assert "is no JSON; the file ends in it" in refused(path, reported="raw")
    path.write_bytes(content + b'{"\xff": 1}\n')
    assert "line 3: is no text in UTF-8" in refused(path, reported="raw")
    for other in ({"log_probs": [-1.0]}, 3, [1], {}):
        assert "line 3" in refused(stored(path, example(), example(), other), reported="raw")
    headed = {"rlkl_rollouts": 1}, example()
    assert "is no field of a sequence" in refused(stored(path, *headed), reported="raw")


def places(value, path=()):
    """The paths to every value within a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


@pytest.mark.parametrize("example", [prime_rl, nemo_rl, completion, chat, sglang, batch, lambda: scored([8, 9], [-1, -2])])
def test_any_value_at_any_place_is_read_or_refused_in_one_line(example, tmp_path):
    policy = stored(tmp_path / "policy", completion())
    for path in places(example()):
        for other in (None, "x", -1.5, 10**30, float("nan"), [[]], {"a": 1}):
            value = holder = {"": example()}
            *way, last = ("", *path)
            for key in way:
                holder = holder[key]
            holder[last] = other
            stored(tmp_path / "a", value[""])
            try:
                if "prompt_logprobs" in json.dumps(example()):
                    read(policy, reported="raw", reference_logprobs=tmp_path / "a")
                else:
                    read(tmp_path / "a", reported="raw")
            except SettingsError as error:
                assert str(error).isprintable() and len(str(error)) < 300
