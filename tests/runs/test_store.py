"""The store: what a run is kept under, and that nothing but what was written is ever taken for it."""

import dataclasses
import io
import json
import os
import shutil
import threading
import zipfile

import jax
import numpy as np
import pytest

from rlkl.config import machine
from rlkl.config.build import Built, build
from rlkl.runs.folder import summary
from rlkl.runs.folder.files import pack_arrays
from rlkl.runs.store import checked_files, run_store
from rlkl.training import blocks
from tests.helpers import packed, seal

SUMMARY = {
    **dict.fromkeys(summary.ESTIMATES, 0.5), "kl_ref_pi": "inf", "divergence_value": None, "schema_version": 1, "steps": 4,
    "seconds": 0.1, "exact": True, "restricted": False, "diverged_at": None,
    **dict.fromkeys(("divergence", "formula", "dtype", "init", "task", "policy", "algorithm"), "x"),
}  # fmt: skip
ENTRY = run_store.Entry(
    {"history.csv": b"step\n0\n" * 50, "checkpoint.npz": bytes(range(256)), "summary.json": json.dumps(SUMMARY).encode()},
)
NAMES = tuple(ENTRY.files)
WHOLE = checked_files.Faults(pytest.fail)  # nothing is wrong with the store


def built(**plain) -> Built:
    return build({"task": {"name": "bandit/random"}, "steps": 10, **plain})


def put(root, entry=ENTRY):
    run_store.put(root, "k", entry, WHOLE)
    return root / "runs" / "k.zip"


def read(root) -> tuple[run_store.Entry | None, list[str]]:
    """What the store has, and what it says of it."""
    said: list[str] = []
    return run_store.read(root, "k", NAMES, checked_files.Faults(said.append)), said


def test_an_entry_is_read_back_as_it_was(tmp_path):
    put(tmp_path)
    assert read(tmp_path) == (ENTRY, [])
    assert run_store.read(tmp_path, "other", NAMES, WHOLE) is None
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["k.zip"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_entry_is_missing(tmp_path, part):
    file = put(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    found, said = read(tmp_path)
    assert found is None
    assert said == [f"the store's entry {file} is damaged (its content and its checksum differ); what it held is trained anew"]


def test_an_entry_with_any_byte_altered_is_missing(tmp_path):
    file = put(tmp_path)
    whole = bytearray(file.read_bytes())
    for at in range(len(whole)):
        flipped = whole.copy()
        flipped[at] ^= 0xFF
        file.write_bytes(flipped)
        assert read(tmp_path)[0] is None, at


def test_an_entry_under_another_run_s_key_is_missing(tmp_path):
    shutil.copy(put(tmp_path), tmp_path / "runs" / "other.zip")
    assert run_store.read(tmp_path, "other", NAMES, checked_files.Faults(str)) is None


MEMBERS = ENTRY.files


def of_summary(**changed) -> bytes:
    return packed(MEMBERS | {"summary.json": json.dumps(SUMMARY | changed).encode()})


def encrypted() -> bytes:
    content = bytearray(packed(MEMBERS))
    for mark, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = content.find(mark)
        while at >= 0:
            content[at + flag] |= 1
            at = content.find(mark, at + 4)
    return bytes(content)


NESTED = b"[" * 100_000
HOSTILE = {
    "no archive": b"nothing",
    "a path": packed(MEMBERS | {"../../escaped": b""}),
    "an absolute path": packed(MEMBERS | {"/tmp/escaped": b""}),
    "another name": packed(MEMBERS | {"more.txt": b""}),
    "no history": packed({name: content for name, content in MEMBERS.items() if name != "history.csv"}),
    "encrypted": encrypted(),
    "a list": packed(MEMBERS | {"summary.json": b"[]"}),
    "no fields": packed(MEMBERS | {"summary.json": b"{}"}),
    "no field": packed(MEMBERS | {"summary.json": json.dumps({k: v for k, v in SUMMARY.items() if k != "regret"}).encode()}),
    "a number that is text": of_summary(regret="0.1"),
    "a number that is a list": of_summary(objective=[0.1]),
    "a truth that is a number": of_summary(exact=1),
    "steps that are true": of_summary(steps=True),
    "a name that is none": of_summary(formula=None),
    "diverged at a word": of_summary(diverged_at="never"),
    "nested": packed(MEMBERS | {"summary.json": NESTED}),
    "no text": packed(MEMBERS | {"summary.json": b"\xff\xfe"}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_entry_of_anything_but_a_run_is_missing_though_its_checksum_holds(tmp_path, what):
    file = tmp_path / "runs" / "k.zip"
    seal(file, packed(MEMBERS))
    assert read(tmp_path) == (ENTRY, [])
    seal(file, HOSTILE[what])
    found, said = read(tmp_path)
    assert found is None
    assert len(said) == 1
    assert "\n" not in said[0]


def test_a_name_that_comes_twice_makes_an_entry_missing(tmp_path):
    out = io.BytesIO(packed(MEMBERS))
    with zipfile.ZipFile(out, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("history.csv", b"another")
    seal(tmp_path / "runs" / "k.zip", out.getvalue())
    assert read(tmp_path)[0] is None


def test_what_unpacks_to_more_than_the_limit_is_missing_and_is_never_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(checked_files, "LARGEST", 10_000)
    bomb = packed(MEMBERS | {"history.csv": bytes(20_000)})
    assert len(bomb) < 2_000
    seal(tmp_path / "runs" / "k.zip", bomb)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    assert "too large" in read(tmp_path)[1][0]
    (tmp_path / "runs" / "k.zip").write_bytes(bytes(10_001))
    assert "too large" in read(tmp_path)[1][0]
    said: list[str] = []
    run_store.put(
        tmp_path, "k", ENTRY._replace(files=ENTRY.files | {"history.csv": bytes(20_000)}), checked_files.Faults(said.append)
    )
    assert "it is too large" in said[0]


def test_what_is_no_file_is_missing_and_nothing_waits_for_it(tmp_path):
    (tmp_path / "runs" / "k.zip").mkdir(parents=True)
    assert "it is no file" in read(tmp_path)[1][0]
    (tmp_path / "runs" / "k.zip").rmdir()
    os.mkfifo(tmp_path / "runs" / "k.zip")
    assert "it is no file" in read(tmp_path)[1][0]
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("")
    assert read(tmp_path) == (None, [])


def test_what_cannot_be_kept_is_said_once_and_counted(tmp_path):
    (tmp_path / "runs" / "k.zip").mkdir(parents=True)
    (tmp_path / "unfinished").write_text("")
    said: list[str] = []
    faults = checked_files.Faults(said.append)
    for _ in range(3):
        run_store.put(tmp_path, "k", ENTRY, faults)
        run_store.put_chunk(tmp_path, "k", [], faults)
        assert run_store.read(tmp_path, "k", NAMES, faults) is None
    assert [line.split(" (")[0].split("/")[-1] for line in said] == ["k.zip cannot be written", "k.zip is damaged"]
    faults.close()
    assert said[2:] == ["1 more of the store's entries could not be written"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_chunk_is_read_back_and_goes_when_its_run_is_finished(tmp_path, chunk):
    run, leaves = chunk
    run_store.put_chunk(tmp_path, "k", leaves, WHOLE)
    found = run_store.read_chunk(tmp_path, "k", run, WHOLE)
    assert found is not None
    for a, b in zip(leaves, found, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    file = tmp_path / "unfinished" / "k.npz"
    file.write_bytes(file.read_bytes()[:-40])
    assert run_store.read_chunk(tmp_path, "k", run, checked_files.Faults(str)) is None
    put(tmp_path)
    assert not file.exists()


def half_way(**plain):
    """A run of 100 steps, and what is kept of it after its first chunk."""
    run = built(**{"steps": 100, "algorithm": {"name": "rloo"}, "batch_size": 8, "log_every": 5} | plain).run
    kept: list[list[np.ndarray]] = []
    blocks.train_block([run], on_chunk=lambda at: kept.append(at.checkpoint(0)))
    return run, kept[0]


SETTINGS = [
    {"algorithm": {"name": "exact"}, "stop_kl": 0.5},
    {"policy": {"name": "gru", "width": 4}, "rollout": {"staleness": 2}},
    {"penalty": {"controller": "lagrangian", "target_kl": 0.5}, "reference": {"update": "ema"}, "log_every": 30},
    {"optimizer": {"name": "sgd", "learning_rate": 1e308}, "penalty": {"divergence": "neyman"}, "algorithm": {"name": "exact"}},
]


@pytest.mark.parametrize("plain", SETTINGS, ids="-".join)
def test_what_a_chunk_holds_is_known_from_its_run(tmp_path, plain):
    run, leaves = half_way(**plain)
    like = blocks.checkpoint_shapes(run, int(leaves[0]))
    assert like is not None
    checked_files.check_arrays(leaves, like)


def at_step(step):
    return lambda leaves: [np.asarray(step), *leaves[1:]]


@pytest.mark.parametrize(
    "altered",
    [
        lambda leaves: [],
        lambda leaves: leaves[:-1],
        lambda leaves: [*leaves, leaves[-1]],
        lambda leaves: [leaves[0], leaves[1][:-1], *leaves[2:]],
        lambda leaves: [leaves[0], leaves[1].astype(np.float16), *leaves[2:]],
        lambda leaves: [leaves[0], leaves[1].astype(">f4"), *leaves[2:]],
        at_step("ten"), at_step(50.0), at_step(np.nan), at_step([50]), at_step(-50), at_step(0), at_step(49), at_step(100),
        at_step(150), at_step(2**62),
    ],
)  # fmt: skip
def test_a_chunk_of_other_arrays_or_another_step_is_missing(tmp_path, altered, chunk):
    run, leaves = chunk
    seal(tmp_path / "unfinished" / "k.npz", pack_arrays(altered(leaves)))
    said: list[str] = []
    assert run_store.read_chunk(tmp_path, "k", run, checked_files.Faults(said.append)) is None
    assert len(said) == 1


def npy(header: str) -> bytes:
    """An array of this header, and nothing in it."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    "member",
    [
        b"", b"PK\x05\x06" + bytes(18), npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}\n"), npy("(" * 200 + "\n"), npy("{'descr'\n"),
    ],
)  # fmt: skip
def test_a_chunk_of_no_arrays_is_missing(tmp_path, member, chunk):
    run, _ = chunk
    seal(tmp_path / "unfinished" / "k.npz", packed({"leaf_0.npy": member}))
    assert run_store.read_chunk(tmp_path, "k", run, checked_files.Faults(str)) is None


@pytest.fixture(scope="module")
def chunk():
    return half_way()


def test_many_writers_and_readers_of_one_entry_see_it_whole(tmp_path):
    seen, stop = [], threading.Event()

    def reader():
        while not stop.is_set():
            seen.append(read(tmp_path))

    put(tmp_path)
    thread = threading.Thread(target=reader)
    thread.start()
    for _ in range(50):
        put(tmp_path)
    stop.set()
    thread.join()
    assert seen
    assert all(found == (ENTRY, []) for found in seen)


def test_the_key_holds_what_a_number_depends_on_and_nothing_else(tmp_path, monkeypatch):
    def words(folder: str, text: str):
        file = tmp_path / folder / "text.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return run_store.key(built(task={"name": "bandit/words", "path": str(file)}))

    base = built()
    same = [
        built(tracking={"name": "none"}),
        built(store="elsewhere", resume=False, fail_fast=True),
        built(engine={"name": "submitit"}),
        built(task={"name": "bandit/random", "export": str(tmp_path / "task.json")}),
        build(base.resolved),
    ]
    assert {run_store.key(each) for each in same} == {run_store.key(base)}
    other = [built(seed=1), built(penalty={"beta": 0.2}), built(steps=11), built(task={"name": "bandit/random", "seed": 1})]
    assert len({run_store.key(each) for each in [base, *other]}) == 5
    assert words("a", "a rose is a rose") == words("b", "a rose is a rose") != words("a", "a rose is a nose")
    plugin = tmp_path / "p.py"
    keys = set()
    for line in ("", "# another"):
        plugin.write_text(line)
        keys.add(run_store.key(built(plugins=[str(plugin)])))
    assert len(keys) == 2
    leaves, structure = jax.tree.flatten(base.card.task)
    for i, leaf in enumerate(leaves):
        changed = jax.tree.unflatten(structure, [*leaves[:i], np.asarray(leaf) + 1.0, *leaves[i + 1 :]])
        assert run_store.key(base._replace(card=dataclasses.replace(base.card, task=changed))) != run_store.key(base)
    before = run_store.key(base)
    monkeypatch.setattr("rlkl.runs.store.fingerprint.program_hash", lambda: b"another source")
    assert run_store.key(base) != before


def test_the_key_holds_what_numbers_depend_on_of_the_machine(monkeypatch):
    run, flags = built(), os.environ.get("XLA_FLAGS", "")
    before = run_store.key(run)
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --{machine.DEVICE_COUNT_FLAG}=7 ")
    assert run_store.key(run) == before
    keys = {before}
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_enable_fast_math=true")
    keys.add(run_store.key(run))
    monkeypatch.setenv("XLA_FLAGS", flags)
    jax.config.update("jax_random_seed_offset", 5)
    try:
        keys.add(run_store.key(run))
    finally:
        jax.config.update("jax_random_seed_offset", 0)
    monkeypatch.setattr(machine, "_instructions", lambda: ["another"])
    keys.add(run_store.key(run))
    assert len(keys) == 4
    assert set(machine.NUMERIC_SETTINGS) <= set(jax.config.values)
