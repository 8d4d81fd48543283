"""The typicality experiment: its table from short runs, and its text from the committed numbers."""

import pytest

from experiments.typicality import figure
from rlkl import cli
from rlkl.runs.load import load
from tests.experiments import house


def test_its_text_has_a_row_for_each_reference_and_weight():
    lines = figure.text(house.committed("typicality")).splitlines()
    assert len(lines) == 1 + 2 * (1 + 3)  # words and sentences: the reference, and three weights
    assert sum(line.startswith("reference") for line in lines) == 2


@pytest.mark.slow
def test_the_table_of_short_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figure, "SEEDS", 2)
    common = ["-m", "task.pairs=null", "task.typicality=0.5", "penalty.beta=0.4", "steps=2", "tracking=none"]
    for task in ("words", "grammar"):
        assert cli.main([*common, f"task=preference/{task}", f"hydra.sweep.dir={tmp_path / 'runs' / task}"]) == 0
    rows = figure.table(load(tmp_path / "runs"))
    assert rows["series"].value_counts().to_dict() == {"recovered": 4, "policy": 2, "reference": 2}
    policy = rows[rows["series"] == "policy"]
    assert (policy["optimum_spread"] <= 1e-9).all()
    assert (policy["spread"] >= 1e-2).all()  # two steps are far from the end
    assert ((rows["recovered"] - 0.5).abs() <= 4 * rows["stderr"])[rows["series"] == "recovered"].all()
    assert rows.loc[rows["series"] == "reference", "text"].str.len().gt(10).all()
