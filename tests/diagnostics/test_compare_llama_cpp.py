"""`rlkl compare` of llama.cpp's KL base files: statistics, the bound on the rounding's error, refusals, memory."""

import math
import struct
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from scipy import special

import rlkl
from rlkl import cli
from rlkl.diagnostics.compare import kl_statistics, llama_cpp, rounding, stream
from tests.diagnostics import kl_base_file

KLD, REVERSE, CHANGE = "KL(base‖quant)", "KL(quant‖base)", "change of p, text's token"
CHUNKS, CONTEXT, VOCABULARY = 5, 12, 30


@pytest.fixture
def pair(tmp_path):
    """Two files of close models, whose rows are not floored, with the logits."""
    tokens = kl_base_file.text(CHUNKS, CONTEXT, VOCABULARY)
    base = kl_base_file.logits(CHUNKS, CONTEXT, VOCABULARY, 1.5, 1)
    quant = (base + 0.2 * kl_base_file.logits(CHUNKS, CONTEXT, VOCABULARY, 1.0, 2)).astype("f4")
    paths = [kl_base_file.write(tmp_path / f"{name}.kld", tokens, rows) for name, rows in (("base", base), ("quant", quant))]
    return tokens, base, quant, *map(str, paths)


def log_probs(logits: np.ndarray) -> np.ndarray:
    return special.log_softmax(logits.reshape(-1, logits.shape[-1]).astype(np.float64), axis=1)


def row(comparison, about: str, name: str):
    return next(row for row in comparison.table if (row.about, row.name) == (about, name))


@pytest.mark.parametrize("elements", [1, 100, 2**17])
def test_the_table_is_that_of_the_unrounded_models(pair, monkeypatch, elements):
    """To within the grid's step: every statistic that llama.cpp prints, from the logits by NumPy and SciPy."""
    tokens, base, quant, *paths = pair
    monkeypatch.setattr(stream, "ELEMENTS", elements)
    comparison = rlkl.compare(*paths)
    log_p, log_q = log_probs(base), log_probs(quant)
    p, q, index = np.exp(log_p), np.exp(log_q), (np.arange(len(log_p)), kl_base_file.predicted(tokens))
    near = {"rel": 1e-2, "abs": 1e-4}
    kl_levels = {"99.9%": 99.9, "99%": 99, "95%": 95, "90%": 90, "median": 50, "10%": 10, "5%": 5, "1%": 1, "0.1%": 0.1}
    change_levels = {**kl_levels, "75%": 75, "25%": 25}
    for about, x, levels, factor in (
        (KLD, special.rel_entr(p, q).sum(1), kl_levels, 1.0),
        (REVERSE, special.rel_entr(q, p).sum(1), kl_levels, 1.0),
        (CHANGE, (q - p)[index], change_levels, 100.0),
    ):
        expected = {name: np.percentile(x, level) for name, level in levels.items()}
        expected |= {"mean": x.mean(), "maximum": x.max(), "minimum": x.min()}
        for name, value in expected.items():
            assert comparison.value(about, name) == pytest.approx(factor * value, rel=1e-2, abs=1e-4 * factor), (about, name)
    assert comparison.value(CHANGE, "RMS") == pytest.approx(100.0 * np.sqrt(np.mean((q - p)[index] ** 2)), **near)
    assert comparison.value("same top p", "mean") == pytest.approx(100.0 * np.mean(p.argmax(1) == q.argmax(1)))
    surprise_p, surprise_q = -log_p[index], -log_q[index]
    ppl_p, ppl_q = np.exp(surprise_p.mean()), np.exp(surprise_q.mean())
    for name, value in {
        "base": ppl_p,
        "quant": ppl_q,
        "quant/base": ppl_q / ppl_p,
        "quant - base": ppl_q - ppl_p,
        "ln(quant/base)": np.log(ppl_q / ppl_p),
        "correlation of ln": 100.0 * np.corrcoef(surprise_p, surprise_q)[0, 1],
    }.items():
        assert comparison.value("perplexity", name) == pytest.approx(value, rel=1e-2, abs=3e-3), name
    assert (comparison.length, comparison.vocabulary, comparison.chunks) == (25, VOCABULARY, CHUNKS)


def test_standard_errors_are_the_closed_forms(pair):
    """Of llama.cpp's formulas for independent positions, and of a plain sum over chunks for clustered ones."""
    comparison = rlkl.compare(*pair[3:])
    x, n = comparison.positions.kld, comparison.length
    mean = row(comparison, KLD, "mean")
    assert mean.stderr == pytest.approx(math.sqrt(np.var(x) / (n - 1)), rel=1e-12)
    sums = (x - x.mean()).reshape(CHUNKS, -1).sum(1)
    assert mean.clustered == pytest.approx(math.sqrt(CHUNKS / (CHUNKS - 1) * np.sum(sums**2)) / n, rel=1e-12)
    nll, nll_base = -comparison.positions.quant, -comparison.positions.base
    variance = {name: np.var(x) / (n - 1) for name, x in (("q", nll), ("p", nll_base))}
    covariance = np.mean((nll - nll.mean()) * (nll_base - nll_base.mean())) / (n - 1)
    ppl, ppl_base = np.exp(nll.mean()), np.exp(nll_base.mean())
    log_ratio = math.sqrt(variance["q"] + variance["p"] - 2.0 * covariance)
    difference = math.sqrt(ppl**2 * variance["q"] + ppl_base**2 * variance["p"] - 2.0 * ppl * ppl_base * covariance)
    for name, error in {
        "quant": ppl * math.sqrt(variance["q"]),
        "base": ppl_base * math.sqrt(variance["p"]),
        "ln(quant/base)": log_ratio,
        "quant/base": ppl / ppl_base * log_ratio,
        "quant - base": difference,
    }.items():
        assert row(comparison, "perplexity", name).stderr == pytest.approx(error, rel=1e-9), name
    square = comparison.positions.change**2
    rms = row(comparison, CHANGE, "RMS")
    assert rms.stderr == pytest.approx(50.0 / np.sqrt(square.mean()) * math.sqrt(np.var(square) / (n - 1)), rel=1e-9)


def test_a_chunk_that_repeats_itself_counts_once(tmp_path):
    """Positions of a chunk with equal KLs: the clustered error is that of the chunks' means alone."""
    tokens = kl_base_file.text(6, 20, 8)
    base, quant = (np.repeat(kl_base_file.logits(6, 4, 8, 1.0, seed), 9, axis=1) for seed in (1, 2))
    paths = [kl_base_file.write(tmp_path / f"{seed}", tokens, rows) for seed, rows in enumerate((base, quant))]
    comparison = rlkl.compare(*paths)
    means = comparison.positions.kld.reshape(6, 9).mean(1)
    mean = row(comparison, KLD, "mean")
    assert mean.clustered == pytest.approx(means.std(ddof=1) / math.sqrt(6), rel=1e-9)
    assert mean.clustered > 2.5 * mean.stderr


@pytest.mark.parametrize("vocabulary", [2, 5, 64, 1001])
@pytest.mark.parametrize(
    "scale, noise", [(0.0, 0.0), (0.01, 0.001), (1.0, 0.01), (4.0, 0.3), (4.0, 3.0), (8.0, 0.1), (30.0, 2.0)]
)
def test_rounding_errs_by_no_more_than_its_bound(tmp_path, vocabulary, scale, noise):
    """Flat and peaked models, floored and not: exact KLs of the unrounded logits against those of the files."""
    tokens = kl_base_file.text(3, 15, vocabulary)
    base = kl_base_file.logits(3, 15, vocabulary, scale, 1)
    quant = (base + noise * kl_base_file.logits(3, 15, vocabulary, 1.0, 2)).astype("f4")
    paths = [kl_base_file.write(tmp_path / f"{name}", tokens, rows) for name, rows in (("base", base), ("quant", quant))]
    with stream_of(paths) as blocks:
        errors = [np.concatenate(column) for column in zip(*(block.errors for block in blocks), strict=True)]
    comparison = rlkl.compare(*paths)
    log_p, log_q = log_probs(base), log_probs(quant)
    for kld, about, x, y, (error, per_nat) in (
        (comparison.positions.kld, KLD, log_p, log_q, errors[:2]),
        (comparison.positions.reverse, REVERSE, log_q, log_p, errors[2:]),
    ):
        exact = special.rel_entr(np.exp(x), np.exp(y)).sum(1)
        depth = np.clip(y.max(1) - 16.0 - y.min(1), 0.0, None)
        assert (np.abs(kld - exact) <= error + depth * per_nat + 1e-13).all()
        assert (kld - exact <= error + 1e-13).all()  # the depth can only add
        assert comparison.value(about, "mean's error, at most") == pytest.approx(error.mean(), rel=1e-12)
        assert comparison.value(about, "position's error, at most") == error.max()
        if depth.max() == 0.0 and scale <= 4.0:
            assert per_nat.max() == 0.0
            step = (max(x.max() - x.min(), y.max() - y.min()) + 1e-2) / 65535.0
            assert error.max() <= 2.0 * step * (1.0 + np.abs(x - y).max()) + 1e-7  # no more than the steps can do


def stream_of(paths):
    return closing(llama_cpp.read(*paths).blocks)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("error", [0.0, 1e-3])
@pytest.mark.parametrize("range_", [1.0, 3.0, 100.0])
def test_the_bound_holds_where_every_error_has_the_worst_sign(seed, error, range_):
    """Few tokens and high floors, so that each term of the bound counts. Without floors the bound is attained."""
    draw = np.random.default_rng(seed)
    log_p, log_q = special.log_softmax(draw.normal(scale=2.0, size=(2, 50, 6)), axis=-1)
    u = log_p - log_q
    shown, grids = [], []
    for log, sign in ((log_p, np.sign(u)), (log_q, -np.sign(u))):
        floor = log.max(1, keepdims=True) - range_
        shown.append(np.maximum(log + draw.choice([-error, error], (50, 1)) * sign, floor))
        grids.append(rounding.Grid(np.full(50, error), log <= floor + error))
    kld, per_nat, reverse, reverse_per_nat = rounding.kl_errors(*shown, *grids)
    position = kl_statistics.of_rows(*shown)
    for shown_kl, x, y, bound, factor in (
        (position.kld, log_p, log_q, kld, per_nat),
        (position.reverse, log_q, log_p, reverse, reverse_per_nat),
    ):
        exact = special.rel_entr(np.exp(x), np.exp(y)).sum(1)
        depth = np.clip(y.max(1) - range_ - y.min(1), 0.0, None)
        wrong = np.abs(shown_kl - exact)
        assert (wrong <= bound + depth * factor + 1e-13).all()
        if range_ == 100.0 and error:
            assert (wrong / bound).max() > 0.95


def test_the_bound_is_small_where_the_models_are_close(tmp_path):
    """A thousandth of the KL, though a half step is larger: errors of single tokens are not added up."""
    tokens, base = kl_base_file.text(3, 40, 500), kl_base_file.logits(3, 40, 500, 2.0, 1)
    quant = (base + 0.01 * kl_base_file.logits(3, 40, 500, 1.0, 2)).astype("f4")
    paths = [kl_base_file.write(tmp_path / f"{name}", tokens, rows) for name, rows in (("base", base), ("quant", quant))]
    comparison = rlkl.compare(*paths)
    kld = comparison.value(KLD, "mean")
    assert 3e-5 < kld < 1e-4
    assert comparison.value(KLD, "mean's error, at most") < 0.1 * kld


ROW = 20 + 240 + 68 * 7  # of a file of 5 chunks of 12 tokens and 30 words: 20 bytes of header, 240 of tokens, 68 a row


@pytest.mark.parametrize(
    "place, value, said",
    [
        (8, struct.pack("<i", -12), "states n_ctx -12, n_vocab 30 and n_chunk 5: it holds no row"),
        (8, struct.pack("<i", 2**31 - 1), "is truncated: it has 1,960 bytes, and its header states 408,0"),
        (12, struct.pack("<i", -1), "it holds no row"),
        (12, struct.pack("<i", 2**31 - 1), "is truncated: it has 1,960 bytes"),
        (12, struct.pack("<i", 20), "is damaged: it has 1,960 bytes, and its header states"),
        (16, struct.pack("<i", 0), "it holds no row"),
        (16, struct.pack("<i", 2**31 - 1), "is truncated: it has 1,960 bytes"),
        (8, struct.pack(">iii", 12, 30, 5), "is truncated: it has 1,960 bytes"),
        (8, struct.pack("<iii", *[2**31 - 1] * 3), "is truncated: it has 1,960 bytes"),
        (24, struct.pack("<i", 30), "its tokens must be from 0 to 29"),
        (24, struct.pack("<i", -1), "its tokens must be from 0 to 29"),
        (ROW, struct.pack("<f", math.nan), "QUANT, position 7: has a scale or a least log-probability that is NaN"),
        (ROW, struct.pack("<f", -1e-5), "QUANT, position 7: has a scale"),
        (ROW, struct.pack("<f", 1.0), "QUANT, position 7: has a scale"),
        (ROW + 4, struct.pack("<f", -math.inf), "QUANT, position 7: has a scale"),
        (ROW + 4, struct.pack("<f", -1e38), "QUANT, position 7: has a scale"),
        (ROW + 4, struct.pack("<f", 1.0), "QUANT, position 7: has a scale"),
        (ROW + 4, struct.pack("<f", -20.0), "QUANT, position 7: is not normalised"),
        (ROW + 8, b"\xff\xff" * 30, "QUANT, position 7: is not normalised"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(pair, tmp_path, capsys, place, value, said):
    content = bytearray((tmp_path / "quant.kld").read_bytes())
    assert len(content) == 1960
    content[place : place + len(value)] = value
    (tmp_path / "quant.kld").write_bytes(content)
    assert said in refusal(capsys, *pair[3:], f"out={tmp_path}/out")
    assert not (tmp_path / "out").exists()


def refusal(capsys, *arguments: str) -> str:
    """The one line with which a comparison is refused."""
    assert cli.main(["compare", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line[0].isdigit()]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("keep", [8, 19, 20, 200, 1000, 1959])
def test_a_truncated_file_is_refused(pair, tmp_path, capsys, keep):
    content = (tmp_path / "quant.kld").read_bytes()
    (tmp_path / "quant.kld").write_bytes(content[:keep])
    assert "is truncated" in refusal(capsys, *pair[3:])


def test_files_that_do_not_fit_together_are_refused(pair, tmp_path, capsys):
    tokens, base, *_, path, _ = pair
    other = tmp_path / "other.kld"
    kl_base_file.write(other, kl_base_file.text(5, 12, 29), base[:, :, :29])
    assert "has 29 tokens in its vocabulary, and BASE 30" in refusal(capsys, path, str(other))
    kl_base_file.write(other, tokens[:4], base[:4])
    assert "has 4 chunks, and BASE 5" in refusal(capsys, path, str(other))
    kl_base_file.write(other, tokens[:, :11], base)
    assert "has 11 tokens a chunk, and BASE 12" in refusal(capsys, path, str(other))
    changed = tokens.copy()
    changed[3, 2], changed[4, 1] = (changed[3, 2] + 1) % 30, (changed[4, 1] + 1) % 30
    kl_base_file.write(other, changed, base)
    line = refusal(capsys, path, str(other))
    assert f"is of another text: at token 2 of chunk 3 it has {changed[3, 2]}, BASE {tokens[3, 2]}" in line
    np.savez(tmp_path / "other.npz", log_probs=log_probs(base))
    assert "is of the format npz, and BASE of llama.cpp" in refusal(capsys, path, str(tmp_path / "other.npz"))


def test_the_command_prints_both_errors_and_says_which(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quant.kld").rename(tmp_path / "any name")  # the format is in the first bytes
    assert cli.main(["compare", "base.kld", "any name"]) == 0
    out = capsys.readouterr().out
    assert "25 positions x 30 tokens" in out and "± clustered" in out and "with 5 independent chunks" in out
    assert max(map(len, out.splitlines())) <= 100
    assert (tmp_path / "outputs/compare/compare.csv").read_text().startswith("about,name,value,stderr,unit,clustered\n")


@pytest.mark.slow
def test_a_large_file_is_not_loaded(tmp_path):
    """Two files of 325 MB each: the command grows by less than half of one."""
    tokens, vocabulary = kl_base_file.text(40, 256, 32_000), 32_000
    rows = kl_base_file.logits(1, 256, vocabulary, 3.0, 1)[0]
    header = b"_logits_" + struct.pack("<iii", 256, vocabulary, 40) + tokens.astype("<i4").tobytes()
    chunk = b"".join(kl_base_file.encoded(row) for row in rows)
    for name in ("base", "quant"):
        with (tmp_path / name).open("wb") as file:
            file.write(header)
            for _ in range(40):
                file.write(chunk)
    code = (
        "import resource, sys; from rlkl import cli; from rlkl.diagnostics.compare import command;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "status = cli.main(['compare', 'base', 'quant']);"
        "print('grew', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    grew = int(done.stdout.split("grew ")[1])  # KiB
    assert grew < 128 * 1024, grew
