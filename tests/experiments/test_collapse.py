"""The collapse experiment: its table from runs, its claims, its figure and its text, from the committed numbers."""

import pandas as pd
import pytest

from experiments.collapse import figure
from experiments.harness import build
from rlkl import cli
from rlkl.reports import plots
from rlkl.runs.load import load

COMMITTED = build.HERE / "collapse" / "figure.csv"
WRITERS = ("reference", "optimum", "exact", "rloo")


@pytest.fixture(scope="module")
def drawn():
    return pd.read_csv(COMMITTED)


def test_claims_hold_on_the_committed_numbers(drawn):
    assert [claim for claim in figure.claims(drawn) if not claim.verdict] == []


def test_claims_turn_false_on_other_numbers_and_never_raise(drawn):
    numbers = drawn.select_dtypes("number").columns.difference(["beta", "seed"])
    swapped = drawn.assign(series=drawn["series"].map({"optimum": "rloo", "rloo": "optimum"}).fillna(drawn["series"]))
    halved = [drawn.copy() for _ in ("optimum", "rloo")]
    for wrong, series in zip(halved, ("optimum", "rloo"), strict=True):
        wrong.loc[wrong["series"] == series, numbers] *= 0.5
    flat = drawn.assign(**dict.fromkeys(numbers, 1.0))
    false = [{claim.claim for claim in figure.claims(wrong) if not claim.verdict} for wrong in (swapped, flat, *halved)]
    assert {claim.claim for claim in figure.claims(drawn)} - set.union(*false) == set()


@pytest.mark.parametrize("series", [*WRITERS, "rloo, slow"])
def test_claims_never_raise_where_a_series_is_missing(drawn, series):
    assert not all(claim.verdict for claim in figure.claims(drawn[drawn["series"] != series]))


def test_no_claim_holds_of_nothing(drawn):
    assert not any(claim.verdict for claim in figure.claims(drawn.iloc[:0]))


@pytest.mark.slow
def test_its_figure_is_drawn_from_the_csv_to_the_same_bytes(drawn, tmp_path):
    first, second = (plots.save(figure.draw(pd.read_csv(COMMITTED)), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_its_text_fits_a_readme(drawn):
    lines = figure.text(drawn).splitlines()
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
