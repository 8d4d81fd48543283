"""The figures of runs: what cannot be drawn is left out and said, and warns of nothing (warnings are errors here)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlkl.reports import plots
from rlkl.runs.load import Runs


def sweep(betas: list[float], regrets: list[float]) -> Runs:
    """A sweep over beta, each run with a history of its regret."""
    runs = [str(i) for i in range(len(betas))]
    named = {"task": "bandit/two_modes", "divergence": "kl_pi_ref", "formula": "KL(pi‖pi_ref)", "policy": "tabular"}
    graded = named | {"algorithm": "exact", "optimal_objective": -np.inf, "reward": 0.5, "kl_pi_ref": regrets, "entropy": 0.6}
    summary = pd.DataFrame({"run": runs, "beta": betas, "regret": regrets} | graded)
    lines = [(run, step, regret, 0.5, -regret, 0.1) for run, regret in zip(runs, regrets, strict=True) for step in (0, 1)]
    history = pd.DataFrame(lines, columns=["run", "step", "regret", "reward", "objective", "kl_pi_ref"])
    ends = pd.DataFrame({"run": "0", "outcome": ["a", "b"]} | dict.fromkeys(("reference", "policy", "optimum"), 0.5))
    diversity = pd.DataFrame({"run": runs, "metric": "entropy", "reference": 0.69})
    return Runs(summary, history, ends, diversity, pd.DataFrame({"run": []}), Path())


QUICK = {("beta", 1e300), ("regret", np.nan), ("both", np.inf)}
LEFT_OUT = [
    pytest.param(which, far, marks=[] if (which, far) in QUICK else pytest.mark.slow)
    for which in ("beta", "regret", "both")
    for far in (np.inf, np.nan, 1e300)
]


@pytest.mark.parametrize(("which", "far"), LEFT_OUT)
def test_a_run_that_cannot_be_drawn_empties_no_panel_and_is_said_to_be_left_out(tmp_path, which, far):
    betas, regrets = [0.1, 0.2, 0.5, 0.5], [0.1, 0.01, 0.02, 0.03]
    if which != "regret":
        betas[2] = far
    if which != "beta":
        regrets[2] = far
    figure = plots.draw(sweep(betas, regrets))
    left, right, entropy = figure.axes
    assert right.get_xlabel() == "beta\n(1 run left out: not finite, or above 1e+100)"
    assert right.lines[0].get_xdata().tolist() == [0.1, 0.2, 0.5]
    assert 0.0 < right.get_xlim()[0] < 0.1 and 0.5 < right.get_xlim()[1] < 1.0
    assert left.get_ylim()[1] < 1.0
    assert len(entropy.lines[1].get_xdata()) == (4 if which == "regret" else 3)
    plots.save(figure, tmp_path / "figure")


@pytest.mark.parametrize("far", [np.inf, np.nan])
def test_the_entropy_of_each_run_is_drawn_over_beta_beside_the_reference_s(far):
    runs = sweep([0.1, 0.2, 0.5], [0.1, 0.01, 0.02])
    runs.summary["entropy"] = [0.6, 0.5, far]
    entropy = plots.draw(runs).axes[2]
    reference, policies = entropy.lines
    assert reference.get_ydata() == [0.69, 0.69] and policies.get_ydata().tolist() == [0.6, 0.5]
    assert entropy.get_xlabel() == "beta\n(1 run left out: not finite, or above 1e+100)"
    runs.diversity.loc[2, "reference"] = 0.5  # of another task
    assert [len(line.get_xdata()) for line in plots.draw(runs).axes[2].lines] == [2]
    runs.summary["entropy"] = far
    assert not plots.draw(runs).axes[2].lines


def test_a_sweep_of_which_all_can_be_drawn_has_no_note():
    assert plots.draw(sweep([0.1, 0.2], [0.1, 0.01])).axes[1].get_xlabel() == "beta"


@pytest.mark.parametrize("far", [np.nan, *(pytest.param(far, marks=pytest.mark.slow) for far in (np.inf, 1e300))])
def test_runs_none_of_which_can_be_drawn_still_have_a_figure(tmp_path, far):
    for runs in (sweep([far], [far]), sweep([far, far], [far, far])):
        plots.save(plots.draw(runs), tmp_path / "figure")
