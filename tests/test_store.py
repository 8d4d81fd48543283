"""The store: what a run is kept under, and that nothing half-written is ever taken for whole."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from rlkl import config, store

ENTRY = store.Entry(
    {"history.csv": b"step\n0\n" * 50, "checkpoint.npz": bytes(range(256)), "summary.json": b"{}"}, {"reward": 1.0}
)


def built(**plain) -> config.Built:
    return config.build({"task": {"name": "bandit/random"}, "steps": 10, **plain})


def test_an_entry_is_read_back_as_it_was(tmp_path):
    store.put(tmp_path, "k", ENTRY)
    assert store.read(tmp_path, "k") == ENTRY
    assert store.read(tmp_path, "other") is None
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["k.zip"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_entry_is_missing(tmp_path, part):
    store.put(tmp_path, "k", ENTRY)
    file = tmp_path / "runs" / "k.zip"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    assert store.read(tmp_path, "k") is None


def test_a_flipped_byte_is_never_taken_for_the_run(tmp_path):
    store.put(tmp_path, "k", ENTRY)
    file = tmp_path / "runs" / "k.zip"
    whole = bytearray(file.read_bytes())
    for at in range(len(whole)):
        flipped = whole.copy()
        flipped[at] ^= 0xFF
        file.write_bytes(flipped)
        found = store.read(tmp_path, "k")
        assert found is None or all(ENTRY.files.get(name, content) == content for name, content in found.files.items())


def test_a_chunk_is_read_back_and_goes_when_its_run_is_finished(tmp_path):
    leaves = [np.asarray(3), np.arange(4, dtype=np.float32), np.zeros((2, 0))]
    store.put_chunk(tmp_path, "k", leaves)
    found = store.read_chunk(tmp_path, "k")
    assert found is not None
    for a, b in zip(leaves, found, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    file = tmp_path / "unfinished" / "k.npz"
    file.write_bytes(file.read_bytes()[:-40])
    assert store.read_chunk(tmp_path, "k") is None
    store.put(tmp_path, "k", ENTRY)
    assert not file.exists()


def test_many_writers_and_readers_of_one_entry_see_it_whole(tmp_path):
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(store.read(tmp_path, "k"))

    store.put(tmp_path, "k", ENTRY)
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        store.put(tmp_path, "k", ENTRY)
    stop.set()
    reader.join()
    assert seen
    assert all(found == ENTRY for found in seen)


def test_the_key_holds_what_a_number_depends_on_and_nothing_else(tmp_path, monkeypatch):
    def words(folder: str, text: str):
        file = tmp_path / folder / "text.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return store.key(built(task={"name": "bandit/words", "path": str(file)}))

    base = built()
    same = [
        built(tracking={"name": "none"}),
        built(store="elsewhere", resume=False, fail_fast=True),
        built(engine={"name": "submitit"}),
        built(task={"name": "bandit/random", "export": str(tmp_path / "task.json")}),
        config.build(base.resolved),
    ]
    assert {store.key(each) for each in same} == {store.key(base)}
    other = [built(seed=1), built(penalty={"beta": 0.2}), built(steps=11), built(task={"name": "bandit/random", "seed": 1})]
    assert len({store.key(each) for each in [base, *other]}) == 5
    assert words("a", "a rose is a rose") == words("b", "a rose is a rose") != words("a", "a rose is a nose")
    plugin = tmp_path / "p.py"
    keys = set()
    for line in ("", "# another"):
        plugin.write_text(line)
        keys.add(store.key(built(plugins=[str(plugin)])))
    assert len(keys) == 2
    leaves, structure = jax.tree.flatten(base.card.task)
    for i, leaf in enumerate(leaves):
        changed = jax.tree.unflatten(structure, [*leaves[:i], np.asarray(leaf) + 1.0, *leaves[i + 1 :]])
        assert store.key(base._replace(card=dataclasses.replace(base.card, task=changed))) != store.key(base)
    before = store.key(base)
    monkeypatch.setattr("rlkl.settings._program", lambda: b"another source")
    assert store.key(base) != before
