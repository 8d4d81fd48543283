"""The typicality experiment: its claims on the committed numbers, its figure and its text; its table from short runs."""

import pandas as pd
import pytest

from experiments.harness import build
from experiments.typicality import figure
from rlkl import cli
from rlkl.reports import plots
from rlkl.runs.load import load

COMMITTED = build.HERE / "typicality" / "figure.csv"


@pytest.fixture(scope="module")
def drawn():
    return pd.read_csv(COMMITTED)


def test_claims_hold_on_the_committed_numbers(drawn):
    assert [claim for claim in figure.claims(drawn) if not claim.verdict] == []


def test_claims_turn_false_on_other_numbers_and_never_raise(drawn):
    numbers = drawn.select_dtypes("number").columns.difference(["beta", "seed", "typicality_weight"])
    policy = drawn["series"] == "policy"
    halved = drawn.assign(entropy=drawn["entropy"].where(~policy, 0.5 * drawn["entropy"]))
    raised = drawn.assign(entropy=drawn["entropy"].where(~policy, 10.0))
    sure = drawn.assign(stderr=0.1 * drawn["stderr"])
    flat = drawn.assign(**dict.fromkeys(numbers, 1.0))
    false = [{claim.claim for claim in figure.claims(wrong) if not claim.verdict} for wrong in (halved, raised, sure, flat)]
    assert {claim.claim for claim in figure.claims(drawn)} - set.union(*false) == set()


@pytest.mark.parametrize("series", ["policy", "reference", "recovered"])
def test_claims_never_raise_where_a_series_is_missing(drawn, series):
    assert not all(claim.verdict for claim in figure.claims(drawn[drawn["series"] != series]))


def test_no_claim_holds_of_nothing(drawn):
    assert not any(claim.verdict for claim in figure.claims(drawn.iloc[:0]))


def test_its_figure_is_drawn_from_the_csv_to_the_same_bytes(drawn, tmp_path):
    first, second = (plots.save(figure.draw(pd.read_csv(COMMITTED)), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_its_text_is_the_readme_s(drawn):
    assert figure.text(drawn) in (build.HERE.parent / "README.md").read_text()


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
