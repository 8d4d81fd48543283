"""`rlkl compare` of servers' top-k log-probabilities: the table against the bounds of each position, and refusals."""

import math

import numpy as np
import pytest
from scipy import special

import rlkl
from rlkl import cli
from rlkl.diagnostics.compare import top_k
from tests.diagnostics import server_responses
from tests.diagnostics.server_responses import SHAPES

K, VOCABULARY, LENGTHS = 4, 15, (6, 9, 3)
KLD, REVERSE, CHANGE = "KL(base‖quant)", "KL(quant‖base)", "change of p, text's token"


def case() -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Both models' rows and the tokens of three sequences; a row is of the position after the first token."""
    draw = np.random.default_rng(0)
    sequences = []
    for length in LENGTHS:
        logits = draw.normal(scale=2.0, size=(length, VOCABULARY))
        other = logits + draw.normal(scale=0.5, size=logits.shape)
        tokens = draw.integers(VOCABULARY, size=length + 1).tolist()
        sequences.append((special.log_softmax(logits, axis=1), special.log_softmax(other, axis=1), tokens))
    return sequences


@pytest.fixture
def save(tmp_path):
    def write(name: str, responses: list[dict]) -> str:
        return str(server_responses.write(tmp_path / name, responses))

    return write


@pytest.fixture
def pair(save):
    return tuple(
        save(name, [server_responses.vllm_prompt(rows[side], rows[2], K) for rows in case()])
        for side, name in enumerate(("base.jsonl", "quant.jsonl"))
    )


@pytest.mark.parametrize("vocabulary", [None, VOCABULARY])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_is_that_of_the_positions_bounds(save, shape, vocabulary):
    paths = [save(name, [SHAPES[shape](rows[side], rows[2], K) for rows in case()]) for side, name in enumerate("pq")]
    comparison = rlkl.compare(*paths, vocabulary=vocabulary)
    log_p, log_q = (np.concatenate([rows[side] for rows in case()]) for side in (0, 1))
    tokens = np.concatenate([rows[2][1:] for rows in case()])
    shown = [
        [
            top_k.shown({i: row[i] for i in server_responses.top(row, K)}, token, row[token])
            for row, token in zip(rows, tokens.tolist(), strict=True)
        ]
        for rows in (log_p, log_q)
    ]
    for about, one, two, x, y in ((KLD, *shown, log_p, log_q), (REVERSE, *shown[::-1], log_q, log_p)):
        bounds = np.array([top_k.bounds(p, q, vocabulary) for p, q in zip(one, two, strict=True)])
        exact = special.rel_entr(np.exp(x), np.exp(y)).sum(1)
        assert (bounds[:, 0] <= exact + 1e-9).all() and (exact <= bounds[:, 1] + 1e-9).all()
        assert comparison.value(about, "mean, at least") == pytest.approx(bounds[:, 0].mean(), rel=1e-9)
        assert comparison.value(about, "mean, at most") == pytest.approx(bounds[:, 1].mean(), rel=1e-9)
        assert comparison.value(about, "maximum, at least") == pytest.approx(bounds[:, 0].max(), rel=1e-9)
        top = [sum(p.p[i] * math.log(p.p[i] / q.p[i]) for i in p.p.keys() & q.p.keys()) for p, q in zip(one, two, strict=True)]
        assert comparison.value(f"top-k {about}", "mean") == pytest.approx(np.mean(top), rel=1e-9)
        assert comparison.value(f"top-k {about}", "minimum") == pytest.approx(min(top), rel=1e-9)
        assert comparison.value(f"top-k {about}", "positions below 0") == pytest.approx(100.0 * np.mean(np.array(top) < 0.0))
    index = np.arange(len(tokens)), tokens
    assert comparison.value("same top p", "mean") == pytest.approx(100.0 * np.mean(log_p.argmax(1) == log_q.argmax(1)))
    assert comparison.value("perplexity", "quant") == pytest.approx(np.exp(-log_q[index].mean()), rel=1e-12)
    moved = np.exp(log_q[index]) - np.exp(log_p[index])
    assert comparison.value(CHANGE, "mean") == pytest.approx(100.0 * moved.mean(), rel=1e-9)
    assert (comparison.length, comparison.chunks, comparison.positions) == (sum(LENGTHS), len(LENGTHS), None)


def test_the_token_after_a_scored_prompt_may_differ(save):
    """A server that scores a prompt generates a token after it: in one file, in both, the same or another."""
    log_p, log_q, tokens = case()[1]
    whole = [server_responses.sglang_prompt(rows, tokens, K) for rows in (log_p, log_q)]
    expected = rlkl.compare(save("p", [whole[0]]), save("q", [whole[1]]))
    shorter = server_responses.sglang_prompt(log_q[:-1], tokens[:-1], K)
    assert rlkl.compare(save("p", [whole[0]]), save("q", [shorter])).length == len(log_p) - 1
    other = server_responses.sglang_prompt(log_q, [*tokens[:-1], (tokens[-1] + 1) % VOCABULARY], K)
    comparison = rlkl.compare(save("p", [whole[0]]), save("q", [other]))
    assert comparison.length == expected.length
    known = log_p[np.arange(8), tokens[1:-1]]
    assert comparison.value("perplexity", "base") == pytest.approx(np.exp(-known.mean()), rel=1e-12)


def test_a_prompt_s_first_token_need_not_be_known(save):
    """vLLM names a prompt's ids in some responses only."""
    log_p, log_q, tokens = case()[0]
    base = server_responses.vllm_prompt(log_p, tokens, K, with_ids=False)
    assert rlkl.compare(save("p", [base]), save("q", [server_responses.vllm_prompt(log_q, tokens, K)])).length == 6


def refusal(capsys, *arguments: str) -> str:
    assert cli.main(["compare", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_what_does_not_fit_together_is_refused(save, pair, capsys, tmp_path):
    base = pair[0]
    responses = [server_responses.vllm_prompt(rows[1], rows[2], K) for rows in case()]
    assert "QUANT has 2 sequences, and the other file more" in refusal(capsys, base, save("q", responses[:2]))
    assert "BASE has 3 sequences, and the other file more" in refusal(capsys, base, save("q", responses + responses[:1]))
    log_p, log_q, tokens = case()[0]
    changed = [tokens[0], tokens[1], (tokens[2] + 1) % VOCABULARY, *tokens[3:]]
    other = server_responses.vllm_prompt(log_q, changed, K)
    line = refusal(capsys, base, save("q", [other, *responses[1:]]))
    assert f"QUANT, sequence 1, token 2: is {changed[2]}, and BASE's {tokens[2]}: both must score the same tokens" in line
    long = save("q", [server_responses.vllm_prompt(log_q[:3], tokens[:4], K), *responses[1:]])
    assert "QUANT, sequence 1: has 4 tokens, and BASE's 7" in refusal(capsys, base, long)
    by_text = save("q", [server_responses.chat(rows[1], rows[2], K) for rows in case()])
    ids_shape = save("p", [server_responses.sglang_output(rows[0], rows[2], K) for rows in case()])
    assert "QUANT, sequence 1, token 0: is ' w" in refusal(capsys, ids_shape, by_text)
    mixed = [server_responses.sglang_prompt(rows[1], rows[2], K) for rows in case()]
    mixed[0]["meta_info"]["input_top_logprobs"][1] = [[math.log(0.2), 100 + i, None] for i in range(4)]
    mixed[0]["meta_info"]["input_token_logprobs"][1][0] = -9999.0
    assert "sequence 1, token 1: no token is in both lists: the vocabularies" in refusal(capsys, base, save("q", mixed))
    np.savez(tmp_path / "rows.npz", log_probs=log_p)
    assert "is of the format npz, and BASE of JSON" in refusal(capsys, base, str(tmp_path / "rows.npz"))


def test_lists_without_top_log_probabilities_are_refused(save, pair, capsys):
    responses = [server_responses.sglang_prompt(rows[1], rows[2], K) for rows in case()]
    responses[1]["meta_info"]["input_top_logprobs"] = []
    assert "sequence 2: has no position with top log-probabilities in both files" in refusal(
        capsys, pair[0], save("q", responses)
    )
    assert "BASE='" in refusal(capsys, save("p", []), save("q", []))


@pytest.mark.parametrize(
    "options, said",
    [
        (["vocabulary=3"], "BASE, sequence 1, token 1: more tokens are shown than vocabulary=3 has"),
        (["vocabulary=many"], "vocabulary='many': must be a whole number"),
        (["vocabulary=0"], "vocabulary=0: must be at least 1"),
        (["text=some"], "text='some': is for models of Hugging Face"),
        (["batch=2"], "batch=2: is for models of Hugging Face"),
        (["vocabulary=20", "vocabulary=20"], "each of out, vocabulary, text, context, batch, device at most once"),
    ],
)
def test_bad_options_are_refused(pair, capsys, options, said):
    assert said in refusal(capsys, *pair, *options)


def test_the_command_says_why_there_is_no_upper_bound(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *pair]) == 0
    out = capsys.readouterr().out
    assert "18 positions" in out and "mean, at most" in out and "inf" in out and "3 independent sequences" in out
    assert "no upper bound: one model may give no mass to a token that the other may draw" in out
    assert "it is not normalised and may be negative" in out
    assert (tmp_path / "outputs/compare/compare.csv").exists()


def test_a_vocabulary_is_for_json_alone(tmp_path, capsys):
    np.savez(tmp_path / "rows.npz", log_probs=case()[0][0])
    assert "vocabulary=15: is for top log-probabilities in JSON alone" in refusal(
        capsys, str(tmp_path / "rows.npz"), str(tmp_path / "rows.npz"), "vocabulary=15"
    )
