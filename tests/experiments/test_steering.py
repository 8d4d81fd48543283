"""The steering experiment: its exact coefficients, its table from runs, and what one run off its target does to its claims."""

import numpy as np
import pytest

from experiments.steering import figure
from rlkl import cli, tasks
from rlkl.runs.load import load
from tests.experiments import house


@pytest.mark.parametrize("wanted", [0.1, 1.0])
def test_the_exact_coefficient_is_the_one_whose_optimum_has_the_kl(wanted):
    task, beta = tasks.build("bandit/zipf").task, figure.coefficient("bandit/zipf", wanted)
    log_ref, reward = task.log_reference[0], task.reward[1:]
    log_pi = log_ref + reward / beta
    log_pi -= np.log(np.exp(log_pi).sum())
    np.testing.assert_allclose(np.exp(log_pi) @ (log_pi - log_ref), wanted, rtol=1e-9)


def test_the_committed_exact_coefficients_are_current():
    drawn = house.committed("steering")
    for task, target, beta in drawn.loc[drawn["controller"] == "exact", ["task", "target", "beta"]].itertuples(index=False):
        np.testing.assert_allclose(figure.coefficient(task, target), beta, rtol=1e-6)


def test_one_run_off_its_target_is_enough():
    drawn = house.committed("steering")
    off = (
        (drawn["controller"] == "adaptive") & (drawn["seed"] == 1) & (drawn["target"] == 0.5) & (drawn["task"] == "bandit/zipf")
    )
    for factor in (1.07, 0.93, float("nan")):
        claims = figure.claims(drawn.assign(kl_pi_ref=drawn["kl_pi_ref"].where(~off, factor * drawn["kl_pi_ref"])))
        assert [claim.claim for claim in claims if not claim.verdict] == [
            "adaptive: KL over the last tenth, worst relative error"
        ]


@pytest.mark.slow
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
