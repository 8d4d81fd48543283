"""What rlkl writes as CSV reads back as it was: names however hostile, missing cells, floats to the last bit."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rlkl
from rlkl import cli
from rlkl.config.build import build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.evaluation import metrics
from rlkl.reports import console
from rlkl.runs.folder import artifacts, csv_text, files
from rlkl.training import blocks
from tests.helpers import C3, HOSTILE

NAME = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"])))


def read_by_python(text: str) -> list[list[str]]:
    """The rows as the standard library has them, which knows no missing cell and no note."""
    return list(csv.reader(io.StringIO(text, newline="")))


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(NAME, min_size=1, unique=True),
    cells=st.lists(st.none() | NAME | st.floats(), min_size=1, max_size=4),
    note=st.booleans(),
)
@example(names=HOSTILE, cells=[None, "", "nan", math.nan], note=True)
def test_every_table_reads_back_to_what_was_written(names, cells, note):
    rows = [[name, *cells] for name in names]
    columns = [f"{i}" if i else "" for i in range(len(cells) + 1)]
    text = csv_text.dumps(columns, rows, "a note, with a comma" if note else "")
    read = csv_text.loads(text)
    assert list(read) == columns
    assert read[""] == names
    for column, cell in zip(columns[1:], cells, strict=True):
        if isinstance(cell, str):
            assert set(read[column]) == {cell}
        elif cell is None or math.isnan(cell):
            assert set(read[column]) == {None}
        else:
            assert set(csv_text.numbers(read[column])) == {cell}
    by_python = read_by_python(text)[1 : len(rows) + 1]
    assert [row[0] for row in by_python] == names


DAMAGED = ["", "a,b", "a,b\n1,2\n3\n", "a,b\n1,2\n3,", 'a,b\n"1,2\n', 'a,b\n1"2,3\n', "a,a\n1,2\n", "a,\n1,2\n", "\n"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_table_that_is_not_whole_is_refused(text):
    with pytest.raises(ValueError):
        csv_text.loads(text)


def test_whatever_an_outcome_is_named_its_row_is_loaded(tmp_path):
    """Through what a run writes; names that are numbers stay the text that they were given as."""
    names = [name for name in HOSTILE if name]
    options = {"reward": np.arange(len(names)).tolist(), "reference": [1 / len(names)] * len(names), "names": names}
    built = build(compose(["task=bandit/random", "steps=2"]) | {"task": {"name": "bandit/custom"} | options})
    files.fill(tmp_path, artifacts.files(built, blocks.train_runs([built.run])[0], 0.0))
    runs = rlkl.load(tmp_path)
    assert runs.outcomes["outcome"].tolist() == names
    assert runs.outcomes["reward"].tolist() == options["reward"]
    assert runs.outcomes.drop(columns=["run", "outcome"]).notna().all(axis=None)
    assert runs.history["step"].tolist() == [0, 1, 2]
    assert {"reward_q50", "mode_mass"} <= set(runs.diversity["metric"])


def test_an_outcome_named_like_the_note_is_told_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MOST_OUTCOMES", 2)
    named = [*C3, 'task.names=["# the 1 least likely of 3 outcomes are left out","#b",c]', f"hydra.run.dir={tmp_path}"]
    assert cli.main([*named, "store=" + str(tmp_path / "store")]) == 0
    assert (tmp_path / "outcomes.csv").read_text().splitlines()[-1] == "# the 1 least likely of 3 outcomes are left out"
    assert rlkl.load(tmp_path).outcomes["outcome"].tolist() == ["# the 1 least likely of 3 outcomes are left out", "#b"]


def test_two_outcomes_of_one_name_are_refused(capsys):
    assert cli.main([*C3, "task.names=[a,a,b]"]) == 2
    said = "error: task.names='a': names several outcomes of bandit/custom; each needs a name of its own\n"
    assert capsys.readouterr().err == said


def test_results_csv_and_load_keep_what_overrides_said(tmp_path):
    """A sweep over names; one that says `inf` is no number, an empty value is no missing one."""
    root = tmp_path / "sweep"
    swept = ['task.names=["#a","",inf],["nan","b,c","007"]', "tracking.entity=", f"hydra.sweep.dir={root}"]
    assert cli.main(["-m", *C3, *swept, "store=" + str(tmp_path / "store")]) == 0
    table, loaded = csv_text.loads((root / "results.csv").read_bytes().decode()), rlkl.load(root)
    for key, said in (("task.names", ['["#a","",inf]', '["nan","b,c","007"]']), ("tracking.entity", ["", ""])):
        assert table[f"override.{key}"] == loaded.summary[f"override.{key}"].tolist() == said
    assert table["diverged_at"] == [None, None]
    assert loaded.outcomes["outcome"].tolist() == ["#a", "", "inf", "nan", "b,c", "007"]
    assert loaded.summary["objective"].tolist() == csv_text.numbers(table["objective"])


def test_an_override_that_interpolates_is_loaded_as_it_was_typed(tmp_path):
    assert cli.main([*C3, "penalty.beta=${optimizer.b1}", f"hydra.run.dir={tmp_path}", "store=" + str(tmp_path / "store")]) == 0
    assert rlkl.load(tmp_path).summary["override.penalty.beta"].tolist() == ["${optimizer.b1}"]


def test_loaded_floats_are_those_that_were_written():
    draw = np.random.default_rng(0)
    values = draw.normal(size=500) * 10.0 ** draw.integers(-300, 300, 500)
    text = csv_text.dumps(["x"], ([x] for x in values))
    assert csv_text.numbers(csv_text.loads(text)["x"]) == values.tolist()


def test_a_summary_s_infinities_are_numbers_and_its_names_are_not(tmp_path):
    assert cli.main([*C3, f"hydra.run.dir={tmp_path}", "store=" + str(tmp_path / "store")]) == 0
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kl_ref_pi": "inf", "task": "inf"}))
    loaded = rlkl.load(tmp_path).summary.iloc[0]
    assert loaded["kl_ref_pi"] == math.inf
    assert loaded["task"] == "inf"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kl_ref_pi": "much"}))
    with pytest.raises(SettingsError, match=r"its summary\.json is not as it was written: its 'kl_ref_pi' is no number"):
        rlkl.load(tmp_path)


def test_no_file_shows_a_negative_zero_or_what_rounding_puts_below_zero(tmp_path):
    """Of a reference without entropy, at which the policy stays."""
    flat = ["task=bandit/custom", "task.reward=[0,1]", "task.reference=[1,0]", *C3[3:], f"hydra.run.dir={tmp_path}"]
    assert cli.main([*flat, "store=" + str(tmp_path / "store")]) == 0
    shown = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix in (".csv", ".json")}
    assert {name for name, text in shown.items() if re.search(r"-0\.0+(?![0-9])|e-(1[5-9]|[2-9][0-9])", text)} == set()


def test_a_quantity_that_is_never_negative_is_cleared_of_rounding():
    values = np.array([-1e-17, -0.0, 0.0, 1e-17, np.nan, np.inf])
    np.testing.assert_array_equal(metrics.clip_rounding("kl_pi_ref", values), [0.0, 0.0, 0.0, 1e-17, np.nan, np.inf])
    np.testing.assert_array_equal(metrics.clip_rounding("objective", values), values)
    for name in ("kl_pi_ref", "objective"):
        assert not np.signbit(metrics.clip_rounding(name, values)[1])


@pytest.mark.parametrize("value", [-0.0, -1e-17, -4e-6])
def test_no_number_is_shown_as_minus_zero(value):
    columns = {key: [value] for key in ("step", "reward", "objective", "kl_pi_ref", "kl_ref_pi", "entropy")}
    assert not re.search(r"-0\.0+(?![0-9])", console.progress_line(columns | {"regret": [-0.0]}))
    assert not re.search(r"-0\.0+(?![0-9])", console.number(value))
