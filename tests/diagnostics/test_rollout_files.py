"""Rollouts as files and arrays: rlkl's own format in three containers, and what cannot be read."""

import gzip
import io
import itertools
import json
import pickle
import re
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rlkl.diagnostics.diagnose.reading import records
from rlkl.diagnostics.diagnose.reading.arrays import from_arrays
from rlkl.diagnostics.diagnose.reading.chunk import LOG_PROBS, SEQUENCE_FIELDS, Chunk, Header, group_number
from rlkl.diagnostics.diagnose.reading.files import files, open_rollouts
from rlkl.diagnostics.diagnose.reading.write import write_rollouts
from rlkl.errors import SettingsError

HEADER = {"rlkl_rollouts": 1, "temperature": 0.7, "vocab_size": 50, "reported": "raw", "model": "a"}
CONTAINERS = ("jsonl", "npz", "padded", "parquet", "document")
LENGTHS = (3, 0, 5, 1, 2, 4)


def sequences(lengths=LENGTHS, seed=0):
    """Records with every field, of these lengths; the last token of each but the shortest ones is masked."""
    draw = np.random.default_rng(seed)
    rollouts = []
    for index, length in enumerate(lengths):
        log_probs = -draw.exponential(size=length)
        rollouts.append(
            {
                "tokens": draw.integers(0, 50, length).tolist(),
                "mask": [1] * (length - 1) + [0] if length > 2 else [1] * length,
                "log_probs": log_probs.tolist(),
                "sampler_log_probs": (log_probs - draw.exponential(size=length) / 100).tolist(),
                "ref_log_probs": (log_probs - draw.exponential(size=length)).tolist(),
                "advantages": draw.normal(size=length).tolist(),
                "reward": float(draw.normal()),
                "group": f"prompt {index // 2}",
                "step": index // 3,
            }
        )
    return rollouts


def expected(rollouts) -> Chunk:
    """The sequences as one chunk, by plain loops."""
    flat = {name: [] for name in (*LOG_PROBS, "advantages", "tokens")}
    lengths = []
    for record in rollouts:
        keep = [bool(each) for each in record.get("mask", [1] * len(record["log_probs"]))]
        lengths.append(sum(keep))
        for name, values in flat.items():
            values += [value for value, kept in zip(record[name], keep, strict=True) if kept]
    groups = [group_number(record["group"]) for record in rollouts]
    per_sequence = {"reward": [r["reward"] for r in rollouts], "group": groups, "step": [r["step"] for r in rollouts]}
    return Chunk(np.array(lengths), **{name: np.array(values) for name, values in (flat | per_sequence).items()})


def flat_arrays(rollouts) -> dict[str, np.ndarray]:
    per_token = {
        name: np.array([*itertools.chain(*(r[name] for r in rollouts))]) for name in rollouts[0] if name not in SEQUENCE_FIELDS
    }
    per_sequence = {name: np.array([record[name] for record in rollouts]) for name in SEQUENCE_FIELDS if name in rollouts[0]}
    return per_token | per_sequence | {"lengths": np.array([len(record["log_probs"]) for record in rollouts])}


def padded_arrays(rollouts) -> dict[str, np.ndarray]:
    width = max(len(record["log_probs"]) for record in rollouts)
    arrays = {}
    for name in rollouts[0]:
        values = [r[name] if name in SEQUENCE_FIELDS else r[name] + [0] * (width - len(r[name])) for r in rollouts]
        arrays[name] = np.array(values)
    return arrays


def stored(container: str, path: Path, rollouts, header=HEADER) -> Path:
    if container == "jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in [header, *rollouts]))
    elif container == "document":
        path.write_text(json.dumps([header, *rollouts], indent=2))
    elif container == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = arrow.Table.from_pylist(rollouts).replace_schema_metadata({"rlkl_rollouts": json.dumps(header)})
        parquet.write_table(table, path, row_group_size=2)
    else:
        arrays = flat_arrays(rollouts) if container == "npz" else padded_arrays(rollouts)
        with path.open("wb") as file:
            np.savez(file, **arrays, **header)
    return path


def read(*paths, **settings) -> tuple[list[Header], list[Chunk]]:
    headers, chunks = [], []
    for each in open_rollouts(paths, settings):
        headers.append(each.header)
        chunks += each.chunks
    return headers, chunks


def joined(chunks) -> Chunk:
    return Chunk(*(None if values[0] is None else np.concatenate(values) for values in zip(*chunks, strict=True)))


def assert_equal(chunk: Chunk, other: Chunk, rtol=0.0):
    assert chunk.fields == other.fields
    for name in ("lengths", *chunk.fields):
        np.testing.assert_allclose(getattr(chunk, name), getattr(other, name), rtol=rtol, err_msg=name)


def refused(*paths, **settings) -> str:
    """The message with which these paths are refused: one line."""
    with pytest.raises(SettingsError) as error:
        read(*paths, **settings)
    message = str(error.value)
    assert message.isprintable() and len(message) < 300
    return message


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("at_once", [1, 3, 4, 2**16])
def test_a_container_gives_back_what_it_holds(container, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "TOKENS_AT_ONCE", at_once)
    [header], chunks = read(stored(container, tmp_path / "any.name", sequences()))
    assert header == Header(temperature=0.7, vocab_size=50, reported="raw", model="a")
    assert_equal(joined(chunks), expected(sequences()))
    assert len(chunks) == 1 if at_once > 15 else len(chunks) > 1


@pytest.mark.parametrize("container", CONTAINERS)
def test_without_header_and_mask_and_with_one_advantage_a_sequence(container, tmp_path):
    rollouts = [{"log_probs": each["log_probs"], "advantages": each["reward"]} for each in sequences()]
    if container in ("npz", "padded"):
        arrays = (flat_arrays if container == "npz" else padded_arrays)([{"log_probs": each["log_probs"]} for each in rollouts])
        mask = {} if container == "npz" else {"mask": np.arange(5) < np.array(LENGTHS)[:, None]}
        np.savez(tmp_path / "a.npz", **arrays, **mask, advantages=[each["advantages"] for each in rollouts], rlkl_rollouts=1)
        [header], chunks = read(tmp_path / "a.npz")
    else:
        path = stored(container, tmp_path / "a", rollouts, {"rlkl_rollouts": 1})
        if container == "jsonl":
            path.write_text(path.read_text().split("\n", 1)[1])
        [header], chunks = read(path)
    assert header == Header()
    np.testing.assert_array_equal(joined(chunks).lengths, LENGTHS)
    np.testing.assert_array_equal(joined(chunks).advantages, np.repeat([each["reward"] for each in sequences()], LENGTHS))


@pytest.mark.parametrize("layout", [flat_arrays, padded_arrays])
@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_arrays_in_memory(layout, library):
    arrays = {name: values for name, values in layout(sequences()).items() if name != "group"}
    if library == "torch":
        torch = pytest.importorskip("torch")
        arrays = {name: torch.tensor(values, requires_grad=name == "log_probs") for name, values in arrays.items()}
    if library == "jax":
        arrays = {name: jnp.asarray(values) for name, values in arrays.items()}
    header, chunks = from_arrays(arrays | {"temperature": np.float32(0.5), "vocab_size": np.array(50)})
    assert header == Header(temperature=0.5, vocab_size=50)
    assert_equal(joined([*chunks]), expected(sequences())._replace(group=None), rtol=1e-6 if library == "jax" else 0.0)


def test_half_precision_is_widened():
    _, chunks = from_arrays({"log_probs": jnp.array([-0.5, -1.25], jnp.bfloat16), "lengths": np.array([2])})
    np.testing.assert_array_equal(joined([*chunks]).log_probs, [-0.5, -1.25])


def test_the_library_reads_what_it_writes(tmp_path):
    chunk, header = expected(sequences()), Header(temperature=0.7, vocab_size=50)
    for ending in ("npz", "jsonl"):
        write_rollouts(tmp_path / f"a.{ending}", header, [chunk])
        [again], chunks = read(tmp_path / f"a.{ending}")
        assert again == header
        assert_equal(joined(chunks), chunk, rtol=1e-6)


def test_zero_probabilities_and_rounding(tmp_path):
    rollouts = [{"log_probs": [0.0, 5e-4], "ref_log_probs": [-9999.0, -2e9]}]
    for container in CONTAINERS[:-1]:
        _, [chunk] = read(stored(container, tmp_path / "a", rollouts))
        np.testing.assert_array_equal(chunk.ref_log_probs, [-np.inf, -np.inf])
    (tmp_path / "b").write_text('{"log_probs": [-1], "ref_log_probs": [-Infinity]}')
    _, [chunk] = read(tmp_path / "b")
    assert chunk.ref_log_probs == -np.inf and chunk.log_probs == -1


@pytest.mark.parametrize("container", CONTAINERS)
def test_sequences_without_tokens(container, tmp_path):
    _, chunks = read(stored(container, tmp_path / "a", sequences([0, 0])))
    np.testing.assert_array_equal(joined(chunks).lengths, [0, 0])
    np.testing.assert_array_equal(joined(chunks).reward, [each["reward"] for each in sequences([0, 0])])


def test_nulls_may_stand_where_the_mask_is_zero(tmp_path):
    rollouts = [{"log_probs": [None, -1.0, -2.0], "mask": [0, 1, 1]}, {"log_probs": [-3.0]}]
    for container in ("jsonl", "parquet"):
        _, [chunk] = read(stored(container, tmp_path / "a", rollouts))
        np.testing.assert_array_equal(chunk.log_probs, [-1, -2, -3])
        np.testing.assert_array_equal(chunk.lengths, [2, 1])


def test_group_labels():
    labels = ["a", "b", "1", 1, -3, 2**70, 2**63 - 1]
    numbers = [group_number(label) for label in labels]
    assert len({*numbers}) == len(labels) and numbers[3:5] == [1, -3] and numbers[-1] == 2**63 - 1
    assert all(-(2**63) <= number < 2**63 for number in numbers)


def test_a_folder_is_read_by_numbers_in_its_names(tmp_path):
    for name in ("step_10/rank_0.jsonl", "step_2/rank_1.jsonl", "step_2/rank_0.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        stored("jsonl", tmp_path / name, sequences([1]))
    (tmp_path / "step_2" / "STABLE").touch()
    names = [str(path.relative_to(tmp_path)) for path in files([tmp_path])]
    assert names == ["step_2/rank_0.jsonl", "step_2/rank_1.jsonl", "step_10/rank_0.jsonl"]
    assert len(read(tmp_path)[1]) == 3


def test_settings_fill_what_a_file_does_not_say(tmp_path):
    path = stored("jsonl", tmp_path / "a", sequences())
    [header], _ = read(path, top_p=0.9, temperature=0.7)
    assert (header.top_p, header.temperature) == (0.9, 0.7)
    assert refused(path, temperature=0.8) == "temperature=0.8: a says 0.7"
    assert "is not below vocab_size=20" in refused(
        stored("jsonl", tmp_path / "b", sequences(), {"rlkl_rollouts": 1}), vocab_size=20
    )


CHANGES = {
    "NaN": ("log_probs", [-1.0, float("nan"), -1.0], "sequence 0, token 1: log_probs=nan: is not a number"),
    "positive": ("ref_log_probs", [-1.0, 0.5, -1.0], "token 1: ref_log_probs=0.5: is above 0, and a log-probability is not"),
    "drawn from nothing": ("sampler_log_probs", [-1.0, -9999.0, -1.0], "is minus infinity for a token that was drawn from it"),
    "vocabulary": ("tokens", [1, 50, 2], "token 1: tokens=50: is not below vocab_size=50"),
    "negative token": ("tokens", [1, -1, 2], "token 1: tokens=-1: is negative"),
    "infinite advantage": ("advantages", [0.0, 0.0, float("inf")], "token 2: advantages=inf: is not finite"),
    "half a token": ("tokens", [1.0, 1.5, 2.0], "whole number"),
    "half a mask": ("mask", [1.0, 0.5, 0.0], "must be of 0 and 1"),
    "long": ("log_probs", [-1.0, -1.0, -1.0, -1.0], ""),
    "texts": ("log_probs", ["-1", "-1", "-1"], "must be"),
    "reward": ("reward", float("nan"), "reward=nan: "),
    "unknown": ("logprobs", [-1.0, -1.0, -1.0], "did you mean 'log_probs'?"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("change", CHANGES)
def test_numbers_that_cannot_be_are_refused(change, container, tmp_path):
    field, value, message = CHANGES[change]
    rollouts = sequences([3, 2])
    rollouts[0] |= {"mask": [1, 1, 1], field: value}
    if change in ("unknown", "texts"):
        rollouts[1][field] = value[:2]
    if container == "padded" and change == "long":
        pytest.skip("its rows have one length")
    text = refused(stored(container, tmp_path / "a", rollouts))
    where = "a, " if container != "npz" or change not in ("long", "texts", "unknown", "half a mask") else "a: "
    assert text.startswith(where.rstrip(", :")) and message.split("sequence 0, ")[-1] in text


@pytest.mark.parametrize("container", ["jsonl", "parquet"])
def test_fields_that_come_and_go_are_refused(container, tmp_path):
    rollouts = sequences([2, 3])
    del rollouts[1]["ref_log_probs"]
    assert "lacks ref_log_probs, other than those before it" in refused(stored(container, tmp_path / "a", rollouts))
    rollouts[0] |= {"ref_log_probs": None, "step": None}
    assert "has step, other than those before it" in refused(stored(container, tmp_path / "a", rollouts))


@pytest.mark.parametrize("container", CONTAINERS)
def test_files_that_disagree_are_refused(container, tmp_path):
    first = stored("jsonl", tmp_path / "a", sequences())
    other = stored(container, tmp_path / "b", sequences(), HEADER | {"vocab_size": 60})
    assert refused(first, other) == "b: vocab_size=60: a has 50, and all files must agree"
    rollouts = [{name: value for name, value in each.items() if name != "ref_log_probs"} for each in sequences()]
    assert "lacks ref_log_probs, other than a" in refused(first, stored(container, tmp_path / "b", rollouts))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rlkl_rollouts": 2}, "rlkl_rollouts=2: this rlkl reads version 1"),
        ({"temprature": 1.0}, "is no "),
        ({"temperature": -1.0}, "must be a number of at least 0"),
        ({"top_p": 0.0}, "must be above 0 and at most 1"),
        ({"reported": "row"}, "did you mean 'raw'?"),
        ({"vocab_size": 0}, "must be a whole number of at least 1"),
        ({"sampled_from": "someone"}, "policy, reference, sampler"),
    ],
)
def test_headers_that_say_what_cannot_be_are_refused(container, change, message, tmp_path):
    assert message in refused(stored(container, tmp_path / "a", sequences(), HEADER | change))


@pytest.mark.parametrize("container", CONTAINERS)
def test_truncated_and_empty_files_are_refused(container, tmp_path):
    content = stored(container, tmp_path / "a", sequences([2000] * 3)).read_bytes()
    for size in (len(content) - 3, len(content) // 2, 100, 5):
        (tmp_path / "b").write_bytes(content[:size])
        assert "b" in refused(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"")
    assert refused(tmp_path / "b").endswith("is empty")
    if container not in ("npz", "padded"):
        assert "holds no sequence" in refused(stored(container, tmp_path / "b", sequences()[:0]))


def test_arrays_of_other_lengths_are_refused(tmp_path):
    arrays = flat_arrays(sequences())
    for change, message in {
        "lengths": (np.array([3, 1]), "must be of shape (2,)"),
        "log_probs": (np.zeros((2, 2, 2)), "must be sequences x tokens"),
        "reward": (np.zeros(3), "must be of shape (6,)"),
        "tokens": (np.zeros(4, int), "must be of shape (15,)"),
        "group": (np.ones(6), "must be whole numbers or texts"),
    }.items():
        np.savez(tmp_path / "a.npz", **arrays | {change: message[0]}, rlkl_rollouts=1)
        assert message[1] in refused(tmp_path / "a.npz")
    for lengths, message in (
        ([3, 0, 5, 1, 2, 5], "add up to 16"),
        ([3, 0, 5, 1, 7, -1], "at least 0"),
        ([0.5] * 6, "at least 0"),
    ):
        np.savez(tmp_path / "a.npz", **arrays | {"lengths": np.array(lengths)}, rlkl_rollouts=1)
        assert message in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", lengths=[2], tokens=[1, 2], rlkl_rollouts=1)
    assert "needs one of log_probs" in refused(tmp_path / "a.npz")
    with pytest.raises(SettingsError, match="arrays: log_probs: must be an array"):
        from_arrays({"log_probs": [[-1.0], [-1.0, -2.0]]})


def with_array(path: Path, header: bytes, data=b"") -> Path:
    """A .npz file with one array whose header is written by hand."""
    text = header + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log_probs.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("(1000000000000000,)", "<f8"), ("(3, 1000000000000000)", "<f8"), ("(1000000000000000, 3)", "<f8"), ("(-1,)", "<f8"),
        ("(2,)", "|O"), ("(2,)", "<U4"), ("(2,)", "|V16"), ("(2,)", "nonsense"), ("2", "<f8"), ("(0.5,)", "<f8"),
        ("(2**9,)", "<f8"), ("(0, 5)", "<f8"),
    ],
)  # fmt: skip
def test_headers_of_arrays_that_cannot_be_are_refused(shape, kind, tmp_path):
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    assert "a.npz" in refused(with_array(tmp_path / "a.npz", header, bytes(16)))


def test_zip_files_of_other_kinds_are_refused(tmp_path):
    for name, content in (("log_probs.npy", b"no array"), ("log_probs", b""), ("notes.txt", b"text")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr(name, content)
        assert "a.npz" in refused(tmp_path / "a.npz")


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickles(trap: Trap) -> dict[str, bytes]:
    """A pickle in the disguises of files."""
    contents = {f"protocol {protocol}": pickle.dumps([trap], protocol) for protocol in range(6)}
    contents |= {f"a dictionary, protocol {protocol}": pickle.dumps({"log_probs": trap}, protocol) for protocol in range(6)}
    contents["gzip"] = gzip.compress(contents["protocol 4"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a_long_name_of_a_run_that_goes_on_and_on_and_on/" + "x" * 80 + "/byteorder", "little")
        file.writestr("run/data.pkl", contents["protocol 2"])
    contents["torch.save"] = archive.getvalue()
    arrays = io.BytesIO()
    np.savez(arrays, log_probs=np.array([trap, trap], dtype=object), lengths=[2], rlkl_rollouts=1)
    contents["an array of objects"] = arrays.getvalue()
    header = io.BytesIO()
    np.savez(header, log_probs=[-1.0, -1.0], lengths=[2], rlkl_rollouts=1, model=np.array(trap, dtype=object))
    contents["a header of objects"] = header.getvalue()
    single = io.BytesIO()
    np.save(single, np.array([trap], dtype=object))
    contents[".npy"] = single.getvalue()
    contents["after white space"] = b"\n  " + contents["protocol 0"]
    contents["after a byte order mark"] = b"\xef\xbb\xbf" + contents["protocol 1"]
    contents["a pickle line by line"] = b"".join(pickle.dumps(trap, 0) for _ in range(3))
    return contents


@pytest.mark.parametrize("ending", ["jsonl", "npz", "parquet", "pt", "pkl"])
def test_pickles_by_any_name_are_refused_and_never_loaded(ending, tmp_path):
    trap = tmp_path / "trapped"
    for name, content in pickles(Trap(trap)).items():
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        assert f"a.{ending}" in refused(path), name
        assert "pickle" in refused(path).split(": ", 1)[1] or name == "gzip"  # not in the path
        assert not trap.exists()
    pickle.loads(pickles(Trap(trap))["protocol 0"])[0].close()
    assert trap.exists()


def test_what_torch_saves_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for is_zip in (True, False):
        torch.save({"log_probs": torch.zeros(2)}, tmp_path / "a.jsonl", _use_new_zipfile_serialization=is_zip)
        assert "is a pickle" in refused(tmp_path / "a.jsonl") or "pickles" in refused(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00" * 100, "is neither JSON lines nor .npz nor Parquet"),
        (b"hello\n", "is neither JSON lines nor .npz nor Parquet"),
        (b'{"log_probs": [-1]}\n{"log_probs": [-1\n', "line 2: is no JSON"),
        (b'{"log_probs": [-1]}\n{"log_probs": [-1', "line 2: is no JSON; the file ends in it: is it truncated?"),
        (b'{"log_probs": [-1], "extra": "\xe9"}\n', "line 1: is no text in UTF-8"),
        (b"[" * 100_000, "line 1: is no JSON"),
        (b'{"log_probs": [-1]}\n3\n', "line 2: must be an object with the fields of a sequence"),
        (b'{"log_probs": [-1]}\n{"rlkl_rollouts": 1}\n', "line 2: is a second header"),
        (b'{"rlkl_rollouts": "1"}\n', "rlkl_rollouts='1': this rlkl reads version 1"),
        (b'{"rlkl_rollouts": 1}\n\n', "holds no sequence"),
        (b"[]", "holds no sequence"),
        (b"[\n]", "holds no sequence"),
        (b'{"tokens": [1]}\n', "needs one of log_probs, sampler_log_probs, ref_log_probs"),
        (b'{"log_probs": -1}\n', "log_probs=-1: must be a list with an entry for each token"),
        (b'{"log_probs": [-1, null]}\n', "token 1: log_probs=nan: is not a number"),
        (b'{"log_probs": [-1, [2]]}\n', "token 1: log_probs=[2]: must be a number"),
        (b'{"log_probs": [-1, true]}\n', "line 1, token 1: log_probs=1.0: is above 0"),
        (b'{"log_probs": [-1, "2"]}\n', "token 1: log_probs='2': must be a number"),
        (b'{"log_probs": [-1], "tokens": [1e3]}\n', "tokens=1000.0: must be a whole number"),
        (b'{"log_probs": [-1], "tokens": [99999999999999999999]}\n', "tokens=99999999999999999999: must be a whole number"),
        (b'{"log_probs": [-1], "tokens": [9999999999999999999]}\n', "tokens=9999999999999999999: must be a whole number"),
        (b'{"log_probs": [-1], "tokens": [null]}\n', "tokens=None: must be a whole number"),
        (b'{"log_probs": [-1], "mask": ["1"]}\n', "mask='1': must be a number"),
        (b'{"log_probs": [-1], "mask": [2]}\n', "mask=2: must be of 0 and 1"),
        (b'{"log_probs": [-1], "mask": 1}\n', "mask=1: must be a list"),
        (b'{"log_probs": [-1], "mask": []}\n', "mask: has 0 entries, and log_probs has 1"),
        (b'{"log_probs": [-1], "advantages": "1"}\n', "advantages='1': must be a number"),
        (b'{"log_probs": [-1], "reward": "1"}\n', "reward='1': must be a number"),
        (b'{"log_probs": [-1], "reward": 1' + b"0" * 400 + b"}\n", "must be a finite number"),
        (b'{"log_probs": [-1], "step": 1.5}\n', "step=1.5: must be a whole number"),
        (b'{"log_probs": [-1], "step": Infinity}\n', "step=inf: must be a finite number"),
        (b'{"log_probs": [-1], "group": [1]}\n', "group=[1]: must be a whole number or a text"),
        (b'{"log_probs": [-1], "group": 0.5}\n', "group=0.5: must be a whole number or a text"),
        (b"\x1f\x8b\x08\x00", "is compressed: unpack it first"),
        (b"PAR1 and no more", "is no Parquet file that can be read"),
        (b"PK\x03\x04 and no more", "is truncated or damaged, or no .npz file"),
    ],
)
def test_text_that_cannot_be_read_is_refused(content, message, tmp_path):
    if b"PAR1" in content:
        pytest.importorskip("pyarrow")
    (tmp_path / "a").write_bytes(content)
    assert message in refused(tmp_path / "a")


def test_parquet_of_other_types_is_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for columns, message in (
        ({"log_probs": [["a"], ["b"]]}, "row 0, token 0: log_probs='a': must be a number"),
        ({"log_probs": [[[-1.0]], [[-1.0]]]}, "must be a number"),
        ({"log_probs": [[{"a": 1}], [{"a": 1}]]}, "must be a number"),
        ({"log_probs": [-1.0, -1.0]}, "must be a list with an entry for each token"),
        ({"log_probs": [[-1.0], None]}, "row 1: lacks log_probs"),
        ({"log_probs": [[-1.0], [None]]}, "row 1, token 0: log_probs=nan: is not a number"),
        ({"log_probs": [[-1.0], [-1.0]], "tokens": [[1], [None]]}, "row 1, token 0: tokens=None: must be a whole number"),
        ({"prompt": ["a", "b"]}, "is no field of a sequence"),
    ):
        parquet.write_table(arrow.table(columns), tmp_path / "a")
        assert message in refused(tmp_path / "a")


def test_paths_that_cannot_be_read_are_refused(tmp_path):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "nothing")
    assert "holds no file that ends in .jsonl" in refused(tmp_path)
    with pytest.raises(SettingsError, match=r"must end in .jsonl or .npz"):
        write_rollouts(tmp_path / "a.txt", Header(), [])


def test_the_example_of_the_reference_is_read(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "reference" / "rollouts.md"
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page.read_text(), re.S)[1], {})
    _, [chunk] = read("run.jsonl")
    np.testing.assert_array_equal(chunk.lengths, [2, 1])
    np.testing.assert_array_equal(chunk.ref_log_probs, [-1.0, -1.7, -0.5])


def test_bytes_that_change_are_read_or_refused_in_one_line(tmp_path):
    """Some 200 files with bytes that were replaced, cut or doubled."""
    draw = np.random.default_rng(1)
    for container in CONTAINERS:
        content = stored(container, tmp_path / "a", sequences()).read_bytes()
        for _ in range(40):
            wrong = bytearray(content)
            for place in draw.integers(0, len(content), draw.integers(1, 6)):
                wrong[place] = draw.integers(0, 256)
            cut = int(draw.integers(0, len(content)))
            wrong = wrong[:cut] + wrong[cut : cut + 9] + wrong[cut:] if draw.random() < 0.3 else wrong
            (tmp_path / "b").write_bytes(wrong)
            try:
                read(tmp_path / "b")
            except SettingsError as error:
                assert str(error).isprintable()
