"""The collapse experiment: its table from runs, and its text from the committed numbers."""

import pytest

from experiments.collapse import figure
from rlkl import cli
from rlkl.runs.load import load
from tests.experiments import house


def test_its_text_fits_a_readme():
    lines = figure.text(house.committed("collapse")).splitlines()
    assert len(lines) == 2 + 2 * 2 * len(figure.READ)
    assert max(map(len, lines)) <= 128
    assert all(line.endswith((".", "!", "?")) for line in lines[1:])


@pytest.mark.slow
def test_the_table_of_short_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["-m", "task=sequence/grammar", "task.reward=ending", "penalty.beta=0.3", "steps=2", "tracking=none"]
    for algorithm in ("exact", "rloo"):
        assert cli.main([*common, f"algorithm={algorithm}", f"hydra.sweep.dir={tmp_path / 'runs' / algorithm}"]) == 0
    rows = figure.table(load(tmp_path / "runs")).set_index("series")
    assert list(rows.index) == ["reference", "optimum", "exact", "rloo"]
    assert rows.loc["optimum", "reward"] > rows.loc["exact", "reward"] > rows.loc["reference", "reward"]
    assert rows.loc["optimum", "reward"] - 0.3 * rows.loc["optimum", "kl_pi_ref"] == pytest.approx(
        rows.loc["exact", "reward"] - 0.3 * rows.loc["exact", "kl_pi_ref"] + rows.loc["exact", "regret"]
    )
    assert rows.loc["reference", "sentence_3"] == "the cat near the cat paints the garden ."
    assert rows[[f"sentence_{i}" for i in (1, 2, 3)]].notna().all(axis=None)
