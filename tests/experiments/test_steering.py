"""The steering experiment: its exact coefficients, its table from runs, its claims and figure from the committed numbers."""

import numpy as np
import pandas as pd
import pytest

from experiments.harness import build
from experiments.steering import figure
from rlkl import cli, tasks
from rlkl.reports import plots
from rlkl.runs.load import load

COMMITTED = build.HERE / "steering" / "figure.csv"


@pytest.fixture(scope="module")
def drawn():
    return pd.read_csv(COMMITTED)


@pytest.mark.parametrize("wanted", [0.1, 1.0])
def test_the_exact_coefficient_is_the_one_whose_optimum_has_the_kl(wanted):
    task, beta = tasks.build("bandit/zipf").task, figure.coefficient("bandit/zipf", wanted)
    log_ref, reward = task.log_reference[0], task.reward[1:]
    log_pi = log_ref + reward / beta
    log_pi -= np.log(np.exp(log_pi).sum())
    np.testing.assert_allclose(np.exp(log_pi) @ (log_pi - log_ref), wanted, rtol=1e-9)


def test_the_committed_exact_coefficients_are_current(drawn):
    for task, target, beta in drawn.loc[drawn["controller"] == "exact", ["task", "target", "beta"]].itertuples(index=False):
        np.testing.assert_allclose(figure.coefficient(task, target), beta, rtol=1e-6)


def test_claims_hold_on_the_committed_numbers(drawn):
    assert [claim for claim in figure.claims(drawn) if not claim.verdict] == []


def test_every_claim_turns_false_on_other_numbers(drawn):
    wrong = drawn[(drawn["seed"] != 2)].assign(beta=1.2 * drawn["beta"], kl_pi_ref=1.1 * drawn["kl_pi_ref"])
    wrong.loc[wrong["controller"] == "exact", "beta"] /= 1.2
    assert not any(claim.verdict for claim in figure.claims(wrong))


def test_one_run_off_its_target_is_enough(drawn):
    off = (
        (drawn["controller"] == "adaptive") & (drawn["seed"] == 1) & (drawn["target"] == 0.5) & (drawn["task"] == "bandit/zipf")
    )
    for factor in (1.07, 0.93, float("nan")):
        claims = figure.claims(drawn.assign(kl_pi_ref=drawn["kl_pi_ref"].where(~off, factor * drawn["kl_pi_ref"])))
        assert [claim.claim for claim in claims if not claim.verdict] == [
            "adaptive: KL over the last tenth, worst relative error"
        ]


@pytest.mark.parametrize("controller", ["exact", "adaptive", "lagrangian"])
def test_claims_never_raise_where_a_controller_is_missing(drawn, controller):
    assert not all(claim.verdict for claim in figure.claims(drawn[drawn["controller"] != controller]))


def test_no_claim_holds_of_nothing(drawn):
    assert not any(claim.verdict for claim in figure.claims(drawn.iloc[:0]))


def test_its_figure_is_drawn_from_the_csv_to_the_same_bytes(drawn, tmp_path):
    first, second = (plots.save(figure.draw(drawn), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_table_of_short_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["-m", "task=bandit/zipf", "algorithm=rloo", "penalty.target_kl=0.5", "steps=20", "log_every=1", "tracking=none"]
    steered = "penalty.controller=adaptive,lagrangian"
    assert cli.main([*common, steered, f"hydra.sweep.dir={tmp_path / 'runs'}"]) == 0
    rows = figure.table(load(tmp_path / "runs"))
    assert list(rows.groupby("controller", sort=False).size().items()) == [("adaptive", 21), ("lagrangian", 21), ("exact", 1)]
    assert set(rows["target"]) == {0.5}
    ended = figure.late(rows).reset_index()
    last = rows[(rows["controller"] == "adaptive") & (rows["step"] > 18)]
    assert len(last) == 2
    np.testing.assert_allclose(ended.loc[ended["controller"] == "adaptive", "kl_pi_ref"], last["kl_pi_ref"].mean())
