"""Experiments: their sweeps compose, their claims hold and can fail, their committed figures are current."""

import pandas as pd
import pytest

from experiments import build
from rlkl import config, plots


@pytest.mark.parametrize("name", build.names())
def test_every_job_of_an_experiment_composes_and_builds(name):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for overrides in build.sweeps(name):
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
        for job in jobs[0][:: max(1, len(jobs[0]) // 4)]:
            config.build(config.compose(job))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mode_seeking")
    return build.build("mode_seeking", folder / "runs", folder / "out"), folder / "out"


def test_mode_seeking_holds(finished):
    result, out = finished
    assert [claim for claim in result.claims if not claim.verdict] == []
    assert {path.name for path in out.iterdir()} == {"figure.png", "figure.pdf", "figure.csv", "claims.json"}


def test_its_committed_figure_is_current(finished):
    committed = pd.read_csv(build.HERE / "mode_seeking" / "figure.csv")
    fresh = pd.read_csv(finished[1] / "figure.csv")
    pd.testing.assert_frame_equal(committed, fresh, check_exact=False, rtol=1e-6, atol=1e-9)


def test_its_figure_is_drawn_from_the_csv_to_the_same_bytes(finished, tmp_path):
    _, out = finished
    drawn = build.module("mode_seeking").draw(pd.read_csv(out / "figure.csv"))
    again = plots.save(drawn, tmp_path / "figure")
    assert [path.read_bytes() for path in again] == [(out / path.name).read_bytes() for path in again]


def test_claims_turn_false_on_other_numbers_and_never_raise(finished):
    table = pd.read_csv(finished[1] / "figure.csv")
    wrong = table.assign(y=0.5 * table["y"] + 0.01)
    claims = build.module("mode_seeking").claims
    assert sum(not claim.verdict for claim in claims(wrong)) >= 6
    assert not any(claim.verdict for claim in claims(table.iloc[:0]))
