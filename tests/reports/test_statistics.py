"""Interquartile means and their intervals: closed forms, coverage, and what `rlkl summary` prints."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from rlkl.errors import SettingsError
from rlkl.reports import over_seeds, tables


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert over_seeds.interquartile_mean(np.array([100.0, 1.0, 2.0, -50.0])) == 1.5
    assert over_seeds.interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0  # of three, none is cut
    np.testing.assert_allclose(over_seeds.interquartile_mean(np.arange(8.0)[None]), [3.5])


def test_one_run_has_no_interval_and_equal_runs_an_empty_one():
    assert np.isnan(over_seeds.spread([np.array([2.0])]).low)
    assert over_seeds.spread([np.full(5, 2.0)]) == (2.0, 2.0, 2.0)


def test_resampling_stays_within_strata():
    """Two settings far apart: each resample has both, so the interval is as narrow as the noise within them."""
    draw = np.random.default_rng(0)
    strata = [0.01 * draw.normal(size=10), 1000.0 + 0.01 * draw.normal(size=10)]
    found = over_seeds.spread(strata)
    assert 499.9 < found.low <= found.mean <= found.high < 500.1


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 300 samples of 20 normal values, whose true interquartile mean is 0; a percentile bootstrap is known to run a little
    short of its level, by no more than .06 here."""
    draw = np.random.default_rng(1)
    hits = 0
    for i in range(300):
        found = over_seeds.spread([draw.normal(size=20)], seed=i)
        hits += found.low <= 0.0 <= found.high
    error = np.sqrt(0.95 * 0.05 / 300)
    assert 0.95 - 0.06 - 3 * error <= hits / 300 <= 0.95 + 3 * error


@pytest.fixture
def summary() -> pd.DataFrame:
    rows = [
        {"override.penalty.beta": beta, "override.seed": seed, "override.task.size": size, "override.steps": "5",
         "regret": float(beta) + int(seed), "reward": 1.0, "kl_pi_ref": np.inf, "entropy": np.nan,
         "diverged_at": 3 if (beta, seed) == ("0.2", "1") else None}
        for beta in ("0.1", "0.2") for size in ("3", "4") for seed in ("0", "1")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_groups_are_all_overrides_that_differ_but_the_seed(summary):
    found = over_seeds.group_runs(summary)
    assert [group.overrides for group in found] == [
        {"penalty.beta": b, "task.size": s} for b in ("0.1", "0.2") for s in ("3", "4")
    ]
    assert [group.runs for group in found] == [2] * 4
    assert [group.diverged for group in found] == [0, 0, 1, 1]
    assert found[0].spreads["regret"] == (pytest.approx(0.6), pytest.approx(0.1), pytest.approx(1.1))
    assert found[0].spreads["kl_pi_ref"].mean == np.inf
    assert found[0].spreads["entropy"] is None


def test_groups_can_be_named_and_an_unknown_one_is_refused(summary):
    found = over_seeds.group_runs(summary, ["penalty.beta"])
    assert [(group.overrides, group.runs) for group in found] == [({"penalty.beta": "0.1"}, 4), ({"penalty.beta": "0.2"}, 4)]
    with pytest.raises(SettingsError, match=r"did you mean 'penalty\.beta'"):
        over_seeds.group_runs(summary, ["penalty.bta"])


def test_the_table_has_every_group_and_interval(summary):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(tables.seeds_table(over_seeds.group_runs(summary)))
    shown = console.export_text()
    assert shown.count("0.1000..1.1000") == 2
    assert "diverged" in shown
    assert "inf" in shown
