"""The page on `rlkl diagnose` works as shown: its script runs, its commands and its Python on the file that it writes."""

import json
import re
import runpy

import numpy as np
import pytest

import rlkl
from rlkl import cli
from rlkl.diagnostics.diagnose.reading.chunk import FIELDS
from rlkl.diagnostics.diagnose.showing import figures
from tests.docs.commands import commands, write_files
from tests.helpers import CLONE

PAGE = (CLONE / "docs" / "how_to" / "diagnose.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of the page; reports have no figures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "panels", lambda diagnosis: {})
    write_files(tmp_path)
    runpy.run_path(str(tmp_path / "make_rollouts.py"))
    return tmp_path


def test_the_page_s_commands_run(folder):
    every = [words[1:] for words in commands(PAGE)]
    assert len(every) == 4
    for arguments in every:
        assert cli.main(arguments) == 0, arguments
        content = json.loads((folder / "outputs" / "diagnose" / "report.json").read_text())
        expected = 2560 if arguments[1].startswith("example:") else 800
        assert content["sequences"] == expected and content["sampled_from"] == "sampler"


def test_the_page_s_python_runs(folder, capsys):
    codes = re.findall(r"```python\n(import .*?)```", PAGE, re.S)
    assert len(codes) == 2
    for code in codes:
        exec(code, {})
    assert "KL(pi‖pi_ref)" in capsys.readouterr().out
    assert (folder / "diagnosis" / "report.html").exists()


def test_the_page_s_lines_are_read(tmp_path):
    (lines,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    (tmp_path / "rollouts.jsonl").write_text(lines)
    diagnosis = rlkl.diagnose(tmp_path / "rollouts.jsonl")
    assert (diagnosis.sequences, diagnosis.tokens, diagnosis.header.reported) == (1, 3, "processed")
    k1 = diagnosis.mismatch.set_index(["name", "per"]).loc[("k1 = -log r", "sequence"), "value"]
    assert np.isclose(k1, -0.1)


def test_the_page_names_every_field_that_may_be_missing():
    table = re.findall(r"^\| `(\w+)` \| ", PAGE.split("### KL")[0], re.M)
    assert set(table) == set(FIELDS) - {"mask"}
