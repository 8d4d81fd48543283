"""Programs that are kept between processes: loaded only where everything that they depend on is the same."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlkl.runs.store import program_cache
from rlkl.tasks import Automaton
from rlkl.training import programs
from rlkl.training.programs import Program, executable
from rlkl.training.programs.static_key import NoStaticKeyError, structure_key, value_key
from tests.helpers import content


class Folder(dict):
    """A `programs.ProgramCache` in memory."""

    read, write = dict.get, dict.__setitem__


@pytest.fixture
def folder():
    kept = Folder()
    programs.use_cache(kept)
    yield kept
    programs.use_cache(None)


TRACED = []


def halved(x, y):
    TRACED.append(x.shape)
    return {"half": x / 2, "sum": (x.sum() + y, None)}


def doubled(x, y):
    return {"half": x * 2, "sum": (x.sum() + y, None)}


def called(function=halved, in_axes=(0, None), size=3, dtype=np.float64, **options):
    """The result of a new program, as another process has, and how often it was traced."""
    before = len(TRACED)
    x = np.arange(2.0 * size, dtype=dtype).reshape(size, 2)
    result = Program(function, in_axes, **options)(x, np.asarray(1.0, dtype))
    return jax.tree.map(np.asarray, result), len(TRACED) - before


def test_another_process_neither_traces_nor_compiles(folder, monkeypatch):
    first, traces = called()
    assert traces > 0
    assert len(folder) == 1
    monkeypatch.setattr(executable, "compile_flat", lambda *_: pytest.fail("compiled again"))
    second, traces = called()
    assert traces == 0
    assert jax.tree.structure(first) == jax.tree.structure(second)
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(second["half"], x / 2)
    np.testing.assert_array_equal(second["sum"][0], x.sum(1) + 1.0)


@pytest.mark.parametrize(
    "other",
    [
        {"function": doubled},
        {"size": 4},
        {"size": 1},
        {"dtype": np.float32},
        {"compiler_options": {"xla_cpu_prefer_vector_width": 512}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_a_program_depends_on_is_in_its_key(folder, other):
    called()
    called(**other)
    assert len(folder) == 2


SPOILT = [lambda whole: b"", lambda whole: bytes(1000), lambda whole: whole[:-1000], lambda whole: whole[:9] + whole[10:]]


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_does_not_fit_is_compiled_anew(folder, spoil):
    expected, _ = called()
    (key,) = folder
    folder[key] = spoil(folder[key])
    result, traces = called()
    assert traces > 0
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    assert called()[1] == 0  # and what was spoilt is whole again


def test_a_function_that_has_no_key_is_jitted_and_not_kept(folder):
    something = object()
    result, _ = called(lambda x, y: x if something else y)
    np.testing.assert_array_equal(result, np.arange(6.0).reshape(3, 2))
    assert not folder


def test_without_a_place_nothing_is_kept():
    Program(halved, (0, None))(np.ones((3, 2)), np.asarray(1.0))
    assert programs.program._cache is None


def test_an_executable_of_jax_s_own_cache_is_not_kept(folder, monkeypatch):
    """jaxlib writes such a one without its code."""
    monkeypatch.setattr(executable._thread, "hits", 0, raising=False)

    def hit(*arguments, **options):
        executable._thread.hits += 1
        return compiled(*arguments, **options)

    compiled = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", hit)
    called()
    assert not folder


def enclosing(number):
    return lambda x: x + number


@pytest.mark.parametrize(
    "pair",
    [
        (1, 2), (1, 1.0), (True, 1), ("a", "b"), (1.0, np.nextafter(1.0, 2.0)), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2}),
        (np.arange(3), np.arange(4)), (np.zeros(2), np.zeros(2, np.float32)), (np.zeros(0), np.zeros((0, 2))),
        (Automaton(np.array([[1, 2]]), 3, 1), Automaton(np.array([[2, 1]]), 3, 1)),
        (enclosing(1), enclosing(2)), (halved, doubled), (functools.partial(halved, 1), functools.partial(halved, 2)),
        (int, float),
    ],
    ids=lambda pair: type(pair[0]).__name__,
)  # fmt: skip
def test_different_values_have_different_keys(pair):
    first, second = (json.dumps(value_key(value)) for value in pair)
    assert first != second
    assert first == json.dumps(value_key(pair[0]))


@dataclasses.dataclass
class Options:
    """A dataclass of settings."""

    depth: int
    inner: object = None


def test_a_structure_s_key_tells_nodes_and_static_values_apart():
    trees = [(1, 2), [1, 2], {"a": 1, "b": 2}, {"a": 1, "c": 2}, (1, None, 2), ((1,), 2)]
    assert len({json.dumps(structure_key(jax.tree.structure(tree))) for tree in trees}) == len(trees)
    assert value_key(Options(1)) != value_key(Options(2))
    with pytest.raises(NoStaticKeyError):
        value_key(Options(1, object()))


def test_what_was_typed_in_has_no_key():
    scope = {"__name__": "__main__"}
    exec("def typed(x):\n    return x", scope)
    with pytest.raises(NoStaticKeyError):
        value_key(scope["typed"])


def test_a_folder_keeps_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "MOST_BYTES", 1000)
    for number in range(4):
        folder = program_cache.ProgramFolder(tmp_path)  # each as in a process of its own, which prunes once
        folder.write(str(number), bytes(400))
    assert folder.read("0") is None
    assert folder.read("3") == bytes(400)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    file = tmp_path / "file"
    file.touch()
    folder = program_cache.ProgramFolder(file / "programs")
    folder.write("key", b"content")
    assert folder.read("key") is None


def test_a_program_of_other_versions_is_another(tmp_path):
    folder = program_cache.ProgramFolder(tmp_path)
    folder.write("key", b"content")
    assert folder.read("key") == b"content"
    folder._environment = {"device": "another"}
    assert folder.read("key") is None


def test_a_command_that_loads_its_programs_writes_the_same_bytes(command, tmp_path):
    """As one that compiled them."""
    found, written = [], []
    for number in range(2):
        line = ["task=bandit/random", "algorithm=rloo", "steps=12", "log_every=3", "resume=false", "tracking=none"]
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = command(*line, f"hydra.run.dir={number}", environment=environment)
        assert done.returncode == 0, done.stderr
        found.append(content(tmp_path / str(number), "rlkl.log", "config.yaml", "overrides.yaml"))
        written.append(sorted(file.stat().st_ino for file in (tmp_path / "cache" / "rlkl" / "programs").iterdir()))
    assert found[0] == found[1]
    assert written[0] == written[1]
    assert len(written[0]) == 4  # start, prepare, advance, the last grade


def test_with_jax_s_own_cache_off_nothing_is_kept():
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        program_cache.enable()
        assert programs.program._cache is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_every_policy_algorithm_and_shaping_has_a_key():
    """In a process without the checks of types, which wrap every function in others that have none."""
    code = """
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.training.programs.static_key import structure_key
import jax
from tests.config.test_config import extra
from tests.helpers import SHIPPED
kinds = [each for each in SHIPPED if each[0].partition("=")[0] in ("algorithm", "policy", "reward_shaping")]
for overrides in [*kinds, ["penalty=mixed"], ["penalty=alpha"], ["task=preference/words"]]:
    structure_key(jax.tree.structure(build(compose([*overrides, *extra(overrides)])).run))
print(len(kinds))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
