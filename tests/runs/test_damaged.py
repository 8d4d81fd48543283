"""A run's folder read back: what is damaged is refused in one line that names the file, and a policy keeps its precision."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import rlkl
from rlkl import cli, policies
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError, directory
from rlkl.runs.folder.checkpoint import checkpoint
from rlkl.training import loop
from rlkl.training.blocks import Trained
from tests.helpers import C3


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run's folder, as the command left it."""
    folder = tmp_path_factory.mktemp("finished")
    assert cli.main([*C3, f"hydra.run.dir={folder / 'run'}", f"store={folder / 'store'}"]) == 0
    return folder / "run"


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def refused(read, folder, names: str) -> str:
    """What the refusal says: one line under 300 characters."""
    with pytest.raises(SettingsError) as refusal:
        read(folder)
    said = str(refusal.value)
    assert names in said
    assert len(said) < 300
    assert len(said.splitlines()) == 1
    return said


def npz(arrays: dict) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def encrypted(content: bytes) -> bytes:
    """The archive with the flag of encryption set on its first member."""
    altered = bytearray(content)
    altered[6] |= 1
    altered[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(altered)


ALTERED = {
    "policy": ["x", None, 1], "dtype": ["int8", "float16", "nosuch", "float32", 1], "states": [-1, 0, "x", None, 1.5, 10**30],
    "horizon": [0, "x", 10**30, True, None], "start": [-1, 9, "x", None], "context": [[], [[1]], "x", None],
    "plugins": [3, None],
}  # fmt: skip


def test_a_checkpoint_that_is_not_as_it_was_written_is_refused(folder):
    file = folder / "checkpoint.npz"
    good = file.read_bytes()
    saved = dict(np.load(file))
    about, logits = json.loads(str(saved["about"])), saved["leaf_0"]

    def saying(text: str) -> bytes:
        return npz(saved | {"about": np.asarray(text)})

    contents = [b"", b"text", good[:9], good[: len(good) // 2], good[:-1], encrypted(good), pickle.dumps(saved), npy(logits)]
    contents += [npz({name: array for name, array in saved.items() if name != left_out}) for left_out in saved]
    contents += [npz(saved | {"leaf_2": logits}), npz(saved | {"leaf_-1": logits}), npz({})]
    wrong = [logits[..., :2], logits[0], logits.astype(np.float32), logits.astype(int), logits * np.nan, np.array([{}], object)]
    contents += [npz(saved | {"leaf_0": leaf}) for leaf in wrong]
    graphs = [np.arange(3), np.zeros((0, 3), int), saved["next_state"] + 9, saved["next_state"] - 9, np.asarray("x")]
    contents += [npz(saved | {"next_state": graph}) for graph in graphs]
    contents += [saying(text) for text in ("", "[1]", "3", "null", json.dumps(about)[:-2], "[" * 100_000, "{}")]
    contents += [saying(json.dumps({k: v for k, v in about.items() if k != left_out})) for left_out in ALTERED]
    contents += [saying(json.dumps(about | {key: value})) for key, values in ALTERED.items() for value in values]
    options = ({"name": "nosuch"}, {"name": 3}, {"nosuch": 1}, {"width": "x"}, {"name": "gru"})
    contents += [saying(json.dumps(about | {"policy": about["policy"] | given})) for given in options]
    for content in contents:
        file.write_bytes(content)
        refused(rlkl.load_policy, folder, "its checkpoint.npz is not as it was written")
    file.write_bytes(saying(json.dumps(about | {"plugins": [str(folder / "gone.py")]})))
    refused(rlkl.load_policy, folder, "plugins=")
    file.unlink()
    refused(rlkl.load_policy, folder, "it holds no checkpoint.npz")
    file.mkdir()
    refused(rlkl.load_policy, folder, "its checkpoint.npz")


def test_no_byte_of_a_checkpoint_changes_unseen(folder):
    """A changed byte is refused, or it is none that anything is read from."""
    file = folder / "checkpoint.npz"
    good = file.read_bytes()
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(rlkl.load_policy(folder))]
    loaded = 0
    for at in range(0, len(good), max(1, len(good) // 150)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :])
        try:
            found = jax.tree.leaves(rlkl.load_policy(folder))
        except SettingsError:
            continue
        loaded += 1
        for leaf, kept in zip(found, leaves, strict=True):
            np.testing.assert_array_equal(leaf, kept)
    assert loaded < 75


def test_a_pickle_is_never_loaded(folder):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (folder / "sprung",))

    for content in (pickle.dumps(Trap()), npz({"about": np.array([Trap()], object)})):
        (folder / "checkpoint.npz").write_bytes(content)
        refused(rlkl.load_policy, folder, "its checkpoint.npz")
    with zipfile.ZipFile(folder / "checkpoint.npz", "w") as archive:
        archive.writestr("about.npy", pickle.dumps(Trap()))
    refused(rlkl.load_policy, folder, "its checkpoint.npz")
    assert not (folder / "sprung").exists()


def test_damaged_files_of_a_run_are_refused_by_name(folder):
    good = json.loads((folder / "summary.json").read_text())
    summaries = [b"", b"\xff", b"[1]", b"3", b"null", json.dumps(good).encode()[:-2], b"[" * 100_000, b'{"a":' * 100_000, b"{}"]
    for key in ("regret", "task", "diverged_at", "kl_pi_ref", "formula"):
        lacking = {name: value for name, value in good.items() if name != key}
        summaries += [json.dumps(each).encode() for each in (lacking, *(good | {key: value} for value in ([], {}, True)))]
    whole = (folder / "outcomes.csv").read_bytes()
    tables = [b"", b"\xff\xfe\x00", whole[:-3], whole[: len(whole) // 2], b"a,b\n1\n", b"\n", whole.replace(b"0.7", b"much")]
    history = (folder / "history.csv").read_bytes()
    cases = {
        "summary.json": summaries, "outcomes.csv": tables, "diversity.csv": tables[:-1],
        ".hydra/overrides.yaml": [b"3", b"a: [", b"\xff", b"[1]"],
        "history.csv": [history.replace(b"\n0,", b"\n,", 1), history[:-9], b""],
    }  # fmt: skip
    for name, contents in cases.items():
        file = folder / name
        kept = file.read_bytes()
        for content in contents:
            file.write_bytes(content)
            refused(rlkl.load, folder, f"its {file.name} ")
        file.unlink()
        if name != "summary.json":
            if file.suffix == ".csv":
                refused(rlkl.load, folder, f"its {name} cannot be read (No such file or directory)")
            file.mkdir()
            refused(rlkl.load, folder, f"its {file.name} cannot be read (Is a directory)")
            file.rmdir()
        file.write_bytes(kept)
    (folder / "deeper" / "summary.json").mkdir(parents=True)
    refused(rlkl.load, folder, "its summary.json cannot be read (Is a directory)")


@pytest.mark.parametrize("given", [3, None, b"run", ["run"], "a\0b", "x" * 5000, "nowhere"], ids=lambda given: repr(given)[:9])
def test_what_is_no_folder_is_refused(given):
    for read in (rlkl.load, rlkl.load_policy) if isinstance(given, str) else (directory,):  # whose types tests check
        refused(read, given, "is no folder with a finished run")


def test_the_command_refuses_a_damaged_folder_in_one_line(folder, capsys):
    (folder / "outcomes.csv").write_bytes(b"outcome,rew")
    for command in ("plot", "summary"):
        assert cli.main([command, str(folder)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: folder=") and "its outcomes.csv is not as it was written" in said
        assert len(said.splitlines()) == 1


FAMILIES = {
    "tabular": ["task=bandit/two_modes"],
    "gaussian": ["task=bandit/bimodal"],
    "ngram": ["task=sequence/brackets", "task.horizon=2"],
    "gru": ["task=sequence/brackets", "task.horizon=2", "policy.width=4"],
    "transformer": ["task=sequence/brackets", "task.horizon=2", "policy.width=4", "policy.layers=1"],
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(policies.REGISTRY))
def test_a_policy_keeps_its_precision_where_jax_has_64_bits_off(family, tmp_path):
    """As it starts and as it is loaded: the same log-probabilities, in the dtype that it has, and no warning."""
    built = build(compose([*FAMILIES[family], f"policy={family}", "dtype=float64"]))
    state = jax.jit(loop.start)(built.run)
    (tmp_path / "checkpoint.npz").write_bytes(checkpoint(built, Trained(None, state, None, None, None)))
    jax.config.update("jax_enable_x64", False)
    try:
        both = [state.policy, rlkl.load_policy(tmp_path)]
        if policies.REGISTRY[family].network:
            tokens, states = jax.numpy.zeros((3, 2), int), jax.numpy.zeros((3, 3), int)
            read = [policy.score(tokens, states) for policy in both]
            carried = jax.tree.leaves(both[1].start(3))
            assert carried[0].dtype == np.float64
        else:
            read = [policy.table() for policy in both]
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", True)
    assert [each.dtype for each in read] == [np.float64, np.float64]
    np.testing.assert_array_equal(*read)
    np.testing.assert_allclose(np.logaddexp.reduce(read[0], axis=-1), 0.0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_policy_that_was_trained_in_memory_has_the_table_of_its_dtype(dtype):
    jax.config.update("jax_enable_x64", False)
    try:
        trained = rlkl.train(["task=bandit/two_modes", "steps=2", f"dtype={dtype}"])
        table = trained.policy.table()
    finally:
        jax.config.update("jax_enable_x64", True)
    assert table.dtype == dtype
    assert isinstance(table, jax.Array) == (dtype == "float32")
