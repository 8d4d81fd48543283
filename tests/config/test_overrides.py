"""Overrides as people mistype them: each refused in one line that names the key, the value and what is allowed."""

import json
import os

import pytest

from rlkl import tasks
from rlkl.config import overrides
from rlkl.errors import SettingsError
from tests import fuzz


def refused(given: list[str]) -> str:
    line = fuzz.outcome(given)
    assert line != "built"
    return line


@pytest.mark.parametrize("value", ["3", "null", "[null]", "1.5", "[1]", "true", "[[a]]", "''", "'a\x07'", "x" * 300])
@pytest.mark.parametrize("group", ["penalty", "task", "algorithm"])
def test_a_config_group_takes_names(group, value):
    assert refused([f"{group}={value}"]).startswith(group)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("task.path=a=b.txt", """task.path='a=b.txt': Hydra cannot read this value; quote it, as in 'task.path="a=b.txt"'"""),
        ("task.path=file (1).txt", """quote it, as in 'task.path="file (1).txt"'"""),
        ("task.path=~nosuch/x", """quote it, as in 'task.path="~nosuch/x"'"""),
        ("task.path='~nosuch/x'", "task.path='~nosuch/x': is no path"),
        ("task.path=/dev/zero", "is no regular file"),
        ("task.path='a\x1bb'", r"task.path='a\x1bb'"),
        ("task.path=\udcff", r"\udcff"),
        ("task.path=" + "'" + "y" * 5000 + "'", "yyy..."),
        ("learning_rate=1", "did you mean 'optimizer.learning_rate' or 'reference.learning_rate'?"),
        ("beta=1", "did you mean 'penalty.beta'?"),
        ("penalty.beta=inf", "penalty.beta=inf: must be finite"),
        ("penalty.beta=1e-400", "penalty.beta='1e-400': is too small: it rounds to 0"),
        ("penalty.beta=1e-200", "penalty.beta=1e-200: must be between 1e-12 and 1e+12"),
        ("stop_kl=" + "9" * 400, "stop_kl=a whole number of about 400 digits: must be finite"),
        ("stop_kl=" + "9" * 5000, "stop_kl='999"),
        ("log_every=1e300", "log_every=a whole number of about 300 digits: must be at most 100000000"),
        ("log_every=2147483648", "log_every=2147483648: must be at most 100000000"),
        ("penalty.beta=${nosuch}", "penalty.beta='${nosuch}': Hydra refuses it (InterpolationKeyError"),
        ("=1", "no override (key=value)"),
    ],
)  # fmt: skip
def test_a_mistyped_override_is_refused_with_what_would_do(given, says):
    assert says in refused(["task=bandit/words", given])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["algorithm=rloo", "batch_size=4294967296"], "batch_size=4294967296: would need at least"),
        (["policy=gru", "policy.width=200000"], "policy.width=200000: would need at least 3.58e+03 GiB"),
        (["policy=transformer", "task=sequence/motif", "algorithm=rloo", "policy.layers=1e9"], "policy.layers=1000000000"),
        (["algorithm=rloo", "rollout.staleness=1e18"], "rollout.staleness=1000000000000000000: would need"),
        (["task.others=4294967295"], "task.others=4294967295: a table of it would need 32 GiB"),
        (["task=sequence/motif", "task.horizon=1000000000"], "task.horizon=1000000000: a table"),
        (["task=sequence/brackets", "task.horizon=1000000"], "task.horizon=1000000: a table"),
        (["task=sequence/grammar", "task.horizon=" + "9" * 30], "task.horizon=" + "9" * 30 + ": must be a whole number"),
        (["task=preference/words", "task.pairs=1e17"], "task.pairs=1e+17: a table"),
        (["task=preference/grammar", "task.model=network", "task.width=1e6"], "task.width"),
        (["steps=100000000", "log_every=1"], "log_every=1: would need"),
        (["reference=pretrained", "reference.samples=1e15"], "reference.samples=1000000000000000: would need"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_fit_is_refused_with_the_size_it_would_need(given, says):
    assert says in refused(given)


GOOD = {
    "vocabulary": ["a", "b"], "horizon": 1, "start": 0, "next_state": [[1, 2]], "reference": [[0.5, 0.5]], "reward": [0, 0, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"states": 3}, {"states": True}, {"states": {"a": 1}}, {"states": [[], [], []]}, {"states": ["a"]},
        {"horizon": 10**400}, {"horizon": True}, {"start": True}, {"start": 10**400},
        {"reward": [0, 0, 10**400]}, {"vocabulary": [{}, {}]},
        {"vocabulary": "ab"}, {"next_state": [[1, 10**400]]}, {"next_state": "x"}, {"reference": None}, {"extra\x07": 1},
    ],
    ids=lambda changed: str(changed)[:40],
)  # fmt: skip
def test_a_wrong_automaton_is_refused(tmp_path, changed):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | changed))
    with pytest.raises(SettingsError) as error:
        tasks.build("automaton/custom", path=str(path))
    assert error.value.key == "task.path"
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_an_automaton_nested_a_thousand_deep_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for depth in (1000, 100_000):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(SettingsError, match=r"nested|one JSON object"):
            tasks.build("automaton/custom", path=str(path))


def test_a_good_automaton_may_number_its_states(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | {"states": [0, 1, 2]}))
    assert tasks.build("automaton/custom", path=str(path)).outcomes == ("1", "2")


def test_a_pipe_or_a_huge_file_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="no regular file"):
        tasks.build("bandit/words", path=str(tmp_path / "pipe"))
    monkeypatch.setattr("rlkl.tasks.checks.MOST_FILE", 3)
    (tmp_path / "a.txt").write_text("four")
    with pytest.raises(SettingsError, match="at most"):
        tasks.build("bandit/words", path=str(tmp_path / "a.txt"))


def test_choices_of_a_user_s_own_folder_are_suggested(tmp_path):
    (tmp_path / "penalty").mkdir()
    (tmp_path / "penalty" / "strange_name.yaml").write_text("divergence: kl_pi_ref\n")
    error = overrides.refusal(ValueError("no"), ["penalty=strange_nam"], str(tmp_path))
    assert "did you mean 'strange_name'?" in str(error)


def test_a_line_of_an_error_is_short_and_printable():
    for value in ("a\x1b[31m", "\u202e", "z" * 10_000, 10**5000, -(10**5000), ["x" * 500], {"k\n": "\x00"}):
        line = str(SettingsError("k\x07" + "k" * 500, value, "allowed: " + "q" * 1000))
        assert line.isprintable()
        assert len(line) < 300


def test_many_sequences_are_counted_without_overflow():
    card = tasks.build("sequence/motif", horizon=2000)
    assert card.task.automaton.unlisted == "more than 1e+308 sequences are too many to list"
    assert tasks.build("sequence/motif", horizon=16).task.automaton.sequences == 8**16
