"""`rlkl compare`: its numbers against SciPy's and closed forms, what it refuses, and that files are never loaded whole."""

import math
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special

import rlkl
from rlkl import cli
from rlkl.diagnostics.compare import kl_statistics, stream
from rlkl.errors import SettingsError

KLD, REVERSE = "KL(base‖quant)", "KL(quant‖base)"
OUTER = ("99%", "95%", "90%", "10%", "5%", "1%")  # whole ranks to either side: up to a quarter too wide
TOKENS, DRAWN = "change of p, text's token", "change of p, token from base"


def rows(seed: int, shape: tuple[int, int], scale: float = 2.0) -> np.ndarray:
    return special.log_softmax(np.random.default_rng(seed).normal(scale=scale, size=shape), axis=1)


@pytest.fixture
def save(tmp_path):
    def write(name: str, compressed: bool = False, **arrays):
        path = tmp_path / f"{name}.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return str(path)

    return write


@pytest.fixture
def pair(save):
    log_p, noise = rows(0, (301, 23)), rows(1, (301, 23), 0.3)
    log_q = special.log_softmax(log_p + noise, axis=1)
    tokens = np.random.default_rng(2).integers(0, 23, 301)
    return log_p, log_q, tokens, save("base", log_probs=log_p, tokens=tokens), save("quant", compressed=True, anything=log_q)


@pytest.mark.parametrize("elements", [1, 100, 2**17])
def test_the_table_is_scipys(pair, monkeypatch, elements):
    log_p, log_q, tokens, base, quant = pair
    monkeypatch.setattr(stream, "ELEMENTS", elements)
    found = rlkl.compare(base, quant)
    p, q, at = np.exp(log_p), np.exp(log_q), (np.arange(301), tokens)
    for about, kld in ((KLD, special.rel_entr(p, q).sum(1)), (REVERSE, special.rel_entr(q, p).sum(1))):
        assert found.value(about, "mean") == pytest.approx(kld.mean(), rel=1e-12)
        assert found.value(about, "maximum") == pytest.approx(kld.max(), rel=1e-12)
        for name, level in (("99.9%", 0.999), ("99%", 0.99), ("median", 0.5)):
            assert found.value(about, name) == pytest.approx(np.quantile(kld, level), rel=1e-12)
    change = 100.0 * (q - p)[at]
    assert found.value(TOKENS, "mean") == pytest.approx(change.mean(), rel=1e-11)
    assert found.value(TOKENS, "RMS") == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-12)
    assert found.value("same top p", "mean") == pytest.approx(100.0 * np.mean(p.argmax(1) == q.argmax(1)), rel=1e-12)
    assert 0.0 < found.value("same top p", "mean") < 100.0
    assert found.value("perplexity", "base") == pytest.approx(np.exp(-log_p[at].mean()), rel=1e-12)
    assert found.value("perplexity", "quant/base") == pytest.approx(np.exp(np.mean(log_p[at] - log_q[at])), rel=1e-12)


def test_without_tokens_the_change_of_p_is_its_expectation(save):
    log_p, log_q = rows(3, (50, 7)), rows(4, (50, 7))
    found = rlkl.compare(save("base", log_probs=log_p), save("quant", log_probs=log_q))
    p, q = np.exp(log_p), np.exp(log_q)
    assert found.value(DRAWN, "mean") == pytest.approx(100.0 * np.mean((p * (q - p)).sum(1)), rel=1e-12)
    assert found.value(DRAWN, "RMS") == pytest.approx(100.0 * np.sqrt(np.mean((p * (q - p) ** 2).sum(1))), rel=1e-12)
    assert "perplexity" not in {row.about for row in found.table}


def test_two_coins_and_a_probability_of_zero(save):
    coins, fair = np.log([[0.25, 0.75]] * 2), np.log([[0.5, 0.5]] * 2)
    found = rlkl.compare(save("base", log_probs=coins), save("quant", log_probs=fair))
    assert found.value(KLD, "mean") == pytest.approx(math.log(2.0) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75), rel=1e-13)
    with np.errstate(divide="ignore"):
        sure = np.log([[0.0, 1.0]] * 2)
    found = rlkl.compare(save("base", log_probs=sure), save("quant", log_probs=fair))
    assert found.value(KLD, "mean") == pytest.approx(math.log(2.0), rel=1e-13)
    assert found.value(REVERSE, "mean") == math.inf
    assert math.isnan(next(row.stderr for row in found.table if row.about == REVERSE and row.name == "mean"))
    assert rlkl.compare(save("one", log_probs=sure), save("two", log_probs=sure)).value(KLD, "mean") == 0.0


@pytest.mark.parametrize("dtype, within", [("f2", 3e-3), ("f4", 1e-5), (">f8", 1e-12)])
def test_any_float_will_do(save, dtype, within):
    log_p, log_q = rows(5, (200, 50)), rows(6, (200, 50))
    found = rlkl.compare(save("base", log_probs=log_p.astype(dtype)), save("quant", log_probs=log_q.astype(dtype)))
    assert found.value(KLD, "mean") == pytest.approx(special.rel_entr(np.exp(log_p), np.exp(log_q)).sum(1).mean(), rel=within)


def test_samples_estimate_what_whole_rows_have(save):
    draw = np.random.default_rng(7)
    log_p, log_q = rows(8, (1, 9), 1.0)[0], rows(9, (1, 9), 1.0)[0]
    drawn = draw.choice(9, 40_000, p=np.exp(log_p))
    found = rlkl.compare(save("base", log_probs=log_p[drawn]), save("quant", log_probs=log_q[drawn]))
    u = log_p - log_q
    for name, mean in (("k1", np.exp(log_p) @ u), ("k2", np.exp(log_p) @ (0.5 * u * u)), ("k3", np.exp(log_p) @ u)):
        row = next(row for row in found.table if row.name == name)
        assert 0.0 < row.stderr < 0.03
        assert abs(row.value - mean) < 4.5 * row.stderr
    assert found.vocabulary is None
    assert found.value("perplexity", "base") == pytest.approx(np.exp(-log_p[drawn].mean()), rel=1e-12)


@pytest.mark.slow
def test_standard_errors_are_the_spread_over_texts():
    """Of 3,000 tables of 400 positions each: the spread of a statistic is the mean of its standard errors."""
    draw = np.random.default_rng(10)
    log_p, log_q = rows(11, (4000, 6), 1.0), rows(12, (4000, 6), 1.0)
    tokens = np.array([draw.choice(6, p=row / row.sum()) for row in np.exp(log_p)])
    at = kl_statistics.of_rows(log_p, log_q, tokens)
    tables = []
    for _ in range(3000):
        picked = draw.integers(0, 4000, 400)
        tables.append(kl_statistics.of_positions(kl_statistics.PositionStatistics(*(column[picked] for column in at))))
    for number, row in enumerate(tables[0]):
        if row.name in ("maximum", "99.9%", "0.1%", "minimum", "correlation of ln"):
            assert math.isnan(row.stderr)
        else:
            seen = np.std([table[number].value for table in tables], ddof=1)
            said = np.mean([table[number].stderr for table in tables])
            assert said == pytest.approx(seen, rel=0.25 if row.name in OUTER else 0.1), row


def test_what_rounding_takes_from_a_rows_sum_is_no_divergence(save):
    log_p = rows(14, (30, 8))
    found = rlkl.compare(save("base", log_probs=log_p), save("quant", log_probs=log_p + 5e-4))
    assert abs(found.value(KLD, "mean")) < 1e-15 and abs(found.value(REVERSE, "maximum")) < 1e-14


def test_an_unbroken_model_differs_by_nothing(pair):
    found = rlkl.compare(pair[3], pair[3])
    assert found.value(KLD, "maximum") == found.value(TOKENS, "RMS") == 0.0
    assert found.value("same top p", "mean") == 100.0
    assert found.value("perplexity", "quant/base") == 1.0


def broken(kind: str) -> np.ndarray:
    log_p = rows(13, (40, 5))
    if kind == "NaN":
        log_p[31, 2] = np.nan
    elif kind == "logits":
        log_p[31] += 0.1
    elif kind == "infinite":
        log_p[31, 0] = np.inf
    return log_p


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"log_probs": broken("NaN")}, "QUANT, position 31: has a NaN"),
        ({"log_probs": broken("logits")}, "QUANT, position 31: is not normalised: its probabilities sum to 1.105"),
        ({"log_probs": broken("infinite")}, "QUANT, position 31: is not normalised"),
        ({"log_probs": rows(0, (39, 5))}, "has 39 x 5 log-probabilities, and BASE 40 x 5"),
        ({"log_probs": rows(0, (40, 6))}, "has 40 x 6 log-probabilities, and BASE 40 x 5"),
        ({"log_probs": np.zeros(40)}, "has 40 log-probabilities, and BASE 40 x 5"),
        ({"log_probs": np.asfortranarray(rows(0, (40, 5)))}, "is stored column by column"),
        ({"log_probs": np.zeros((40, 5), int)}, "`log_probs` is 40 x 5 of int64, not floats"),
        ({"log_probs": np.zeros((0, 5))}, "`log_probs` is 0 x 5 of float64"),
        ({"one": np.zeros(2), "two": np.zeros(2)}, "needs an array `log_probs`, and holds one, two"),
        ({"log_probs": np.array([None])}, "of object, not floats"),
        ({"log_probs": np.zeros(2, [("a", "f8")])}, "not floats"),
        ({"log_probs": rows(0, (40, 5)), "tokens": np.zeros(39, int)}, "`tokens` must be 40 whole numbers, one a position"),
        ({"log_probs": rows(0, (40, 5)), "tokens": np.full(40, 5)}, "`tokens` must be from 0 to 4"),
        ({"log_probs": rows(0, (40, 5)), "tokens": np.ones(40, int)}, "`tokens` differ from BASE's"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(save, capsys, tmp_path, arrays, said):
    base = save("base", log_probs=rows(0, (40, 5)), tokens=np.zeros(40, int))
    assert cli.main(["compare", base, save("quant", **arrays), f"out={tmp_path}/out"]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line[0].isdigit()]
    assert len(err) == 1 and err[0].startswith("error: ") and said in err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value, said", [(0.5, "is above 0"), (np.nan, "is NaN"), (-np.inf, "is -inf: base cannot")])
def test_sampled_log_probabilities_are_checked(save, value, said):
    bad = np.full(8, -1.0)
    bad[5] = value
    with pytest.raises(SettingsError, match=f"BASE, position 5: {said}"):
        rlkl.compare(save("base", log_probs=bad), save("quant", log_probs=np.full(8, -1.0)))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(save, tmp_path, compressed, keep):
    whole = save("base", compressed, log_probs=rows(0, (400, 50)))
    content = Path(whole).read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(SettingsError, match=r"QUANT.*truncated or damaged"):
        rlkl.compare(whole, cut)


def test_an_array_that_is_shorter_than_its_header_says_is_refused(save, tmp_path):
    whole = save("base", log_probs=rows(0, (400, 50)))
    with zipfile.ZipFile(whole) as archive:
        content = archive.read("log_probs.npy")
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("log_probs.npy", content[:-8])
    with pytest.raises(SettingsError, match="truncated or damaged"):
        rlkl.compare(whole, tmp_path / "short.npz")


def test_a_flipped_byte_is_seen(save, tmp_path):
    whole = save("base", log_probs=rows(0, (400, 50)).astype("f4"))
    content = bytearray(Path(whole).read_bytes())
    content[40_000] ^= 1  # the least bit of a number: only the archive's checksum can tell
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(SettingsError, match="truncated or damaged"):
        rlkl.compare(whole, tmp_path / "flipped.npz")


def test_what_is_no_npz_is_refused(tmp_path, save):
    (tmp_path / "text.npz").write_text("not an archive")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    base = save("base", log_probs=rows(0, (4, 5)))
    for name, said in (("text.npz", "no .npz file"), ("none.npz", "no such file"), ("other.npz", "no arrays of NumPy's")):
        with pytest.raises(SettingsError, match=said):
            rlkl.compare(base, tmp_path / name)


def test_the_command_prints_and_writes_its_table(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", pair[3], pair[4]]) == 0
    out = capsys.readouterr().out
    assert "301 positions x 23 tokens" in out and KLD in out and "same top p" in out
    assert max(map(len, out.splitlines())) <= 100
    written = pd.read_csv(tmp_path / "outputs" / "compare" / "compare.csv")
    assert [tuple(row) for row in written[["about", "name"]].to_numpy()] == [
        (row.about, row.name) for row in rlkl.compare(pair[3], pair[4]).table
    ]
    assert written["value"].tolist() == [row.value for row in rlkl.compare(pair[3], pair[4]).table]


@pytest.mark.parametrize("noise", [0.0, 1e-12])
def test_rounding_makes_no_kl_negative_and_the_table_says_so(pair, save, tmp_path, monkeypatch, capsys, noise):
    """Of a model with itself, and with one whose KL is below what rounding leaves; every number is as it is printed."""
    log_p, _, _, base, _ = pair
    monkeypatch.chdir(tmp_path)
    near = save("near", log_probs=log_p + noise * rows(3, log_p.shape))
    assert cli.main(["compare", base, near]) == 0
    shown = capsys.readouterr().out
    assert "no KL is negative: what rounding puts below 0 counts as 0" in shown
    written = pd.read_csv("outputs/compare/compare.csv")
    kld = written[written["about"].isin([KLD, REVERSE])]["value"]
    assert not np.signbit(kld).any()
    assert (kld < 1e-14).all()
    assert not re.search(r"-0\.0+\b", shown + Path("outputs/compare/compare.csv").read_text())


@pytest.mark.parametrize("width", ["|V2", "uint16"])
def test_bfloat16_is_named_where_it_is_given(save, capsys, width):
    """As ml_dtypes' arrays and PyTorch's bits come out of a .npz file; and as rows that it rounded are normalised."""
    log_p = rows(0, (5, 20)).astype(np.float32)
    bits = (log_p.view(np.uint32) >> 16).astype(np.uint16)
    base = save("base", log_probs=log_p)
    assert cli.main(["compare", base, save("quant", log_probs=bits.view(width))]) == 2
    said = f"`log_probs` is of {np.dtype(width)}, as bfloat16 is in a .npz file: take log_softmax in float32, and save that"
    assert said in capsys.readouterr().err
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    assert cli.main(["compare", base, save("quant", log_probs=rounded)]) == 2
    assert "log_softmax gives log-probabilities; take it in float32, bfloat16 is too coarse" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["one.npz"], ["a", "b", "c"], ["a", "b", "out=c", "out=d"]])
def test_the_command_says_what_it_takes(arguments, capsys):
    assert cli.main(["compare", *arguments]) == 2
    assert "takes BASE and QUANT, two files or two hf:MODEL" in capsys.readouterr().err


def write_large(path, positions: int, vocabulary: int, seed: int) -> None:
    """A file of float16 rows, written a block at a time."""
    block = rows(seed, (100, vocabulary)).astype(np.float16)
    with zipfile.ZipFile(path, "w") as archive, archive.open("log_probs.npy", "w", force_zip64=True) as member:
        about = {"descr": "<f2", "fortran_order": False, "shape": (positions, vocabulary)}
        np.lib.format.write_array_header_1_0(member, about)
        for _ in range(positions // 100):
            member.write(block.tobytes())


@pytest.mark.slow
def test_a_large_file_is_not_loaded(tmp_path):
    """Two files of 1.3 GB each in less memory than a fifth of one takes beyond what the command needs for nothing."""
    for seed, name in enumerate(("base", "quant")):
        write_large(tmp_path / f"{name}.npz", 20_000, 32_000, seed)
    code = (
        "import resource, sys; from rlkl import cli; from rlkl.diagnostics.compare import command;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "status = cli.main(['compare', 'base.npz', 'quant.npz']);"
        "print('grew', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    grew = int(done.stdout.split("grew ")[1])  # KiB
    assert grew < 256 * 1024, grew
    assert "20,000 positions x 32,000 tokens" in done.stdout
