"""Experiments: their sweeps compose, reduced builds of all of them run, their committed figures are current."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from experiments.harness.build import FORMATS, HERE, build, module, names, sweeps
from experiments.harness.page import evidence
from rlkl.config import build as config_build
from rlkl.config.compose import compose, run_config
from rlkl.reports import plots

COMMITTED = [name for name in names() if (HERE / name / "figure.png").is_file()]
FILES = {"figure.png", "figure.pdf", "figure.svg", "figure.csv", "claims.json", "manifest.json"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder from which the experiments' own files are found."""
    (tmp_path / "experiments").symlink_to(HERE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", names())
def test_every_job_of_an_experiment_composes_and_builds(name, composer):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for overrides in sweeps(name):
        jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
        for job in {tuple(jobs[0][0]), tuple(jobs[0][-1])}:
            values = composer.values(job)  # None where the job needs the whole of Hydra
            config_build.build(compose(job) if values is None else run_config(values))


@pytest.mark.parametrize("name", names())
def test_an_experiment_says_what_it_shows_and_where_from(name):
    about = evidence.describe(name)
    assert about.title != about.headline and len(about.headline) > 20
    assert about.sources and all(len(source) > 5 for source in about.sources)


SMALL = ("asymmetry",)


@pytest.mark.parametrize("name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_a_reduced_build_of_every_experiment_runs(name, elsewhere):
    finished = build(name, elsewhere / "runs", elsewhere / "out", quick=True)
    assert {path.name for path in (elsewhere / "out").iterdir()} == FILES
    assert finished.reduced or all(claim.verdict for claim in finished.claims)
    assert len(finished.claims) == len(json.loads((elsewhere / "out" / "claims.json").read_text())) > 0
    assert len({claim.claim for claim in finished.claims}) == len(finished.claims)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_figure_is_what_its_committed_numbers_draw(name, tmp_path):
    """To a rounding of its pixels: between versions of matplotlib its bytes may differ."""
    drawn = module(name).draw(pd.read_csv(HERE / name / "figure.csv"))
    (fresh,) = plots.save(drawn, tmp_path / "figure", ["png"])
    old, new = (matplotlib.image.imread(path) for path in (HERE / name / "figure.png", fresh))
    assert old.shape == new.shape
    assert float(np.abs(old - new).mean()) < 1e-4
    assert drawn.get_figwidth() in (plots.COLUMN, plots.TEXT, plots.PAGE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mode_seeking")
    return build("mode_seeking", folder / "runs", folder / "out", also=(f"store={folder / 'store'}",)), folder / "out"


@pytest.mark.slow
def test_mode_seeking_holds(finished):
    result, out = finished
    assert [claim for claim in result.claims if not claim.verdict] == []
    assert not result.reduced
    assert {path.name for path in out.iterdir()} == FILES


@pytest.mark.slow
def test_its_committed_figure_is_current(finished):
    committed = pd.read_csv(HERE / "mode_seeking" / "figure.csv")
    fresh = pd.read_csv(finished[1] / "figure.csv")
    pd.testing.assert_frame_equal(committed, fresh, check_exact=False, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMITTED if name != "mode_seeking"])
def test_committed_numbers_are_current(name, elsewhere):
    """Sampled runs of one seed may part where a last bit does, between machines: numbers are then near, not equal."""
    finished = build(name, elsewhere / "runs", elsewhere / "out")
    assert [claim for claim in finished.claims if not claim.verdict] == []
    committed = pd.read_csv(HERE / name / "figure.csv")
    keys = committed.select_dtypes(exclude="number").columns.difference([f"sentence_{i}" for i in (1, 2, 3)])
    pd.testing.assert_frame_equal(committed[keys], finished.table[keys])
    pd.testing.assert_frame_equal(
        committed.select_dtypes("number"), finished.table.select_dtypes("number"), check_exact=False, rtol=0.05, atol=0.02
    )


@pytest.mark.slow
def test_its_figure_is_drawn_from_the_csv_to_the_same_bytes(finished, tmp_path):
    _, out = finished
    drawn = module("mode_seeking").draw(pd.read_csv(out / "figure.csv"))
    again = plots.save(drawn, tmp_path / "figure", FORMATS)
    assert [path.read_bytes() for path in again] == [(out / path.name).read_bytes() for path in again]


@pytest.mark.slow
def test_claims_turn_false_on_other_numbers_and_never_raise(finished):
    table = pd.read_csv(finished[1] / "figure.csv")
    wrong = table.assign(y=0.5 * table["y"] + 0.01)
    claims = module("mode_seeking").claims
    assert sum(not claim.verdict for claim in claims(wrong)) >= 6
    assert not any(claim.verdict for claim in claims(table.iloc[:0]))


@pytest.mark.slow
def test_a_second_build_from_nothing_writes_the_same_bytes(tmp_path):
    """Trained anew, with a store of its own: all but the seconds that it took."""
    left = []
    for number in ("first", "second"):
        folder = tmp_path / number
        build("mode_seeking", folder / "runs", folder / "out", quick=True, also=(f"store={folder / 'store'}",))
        assert any((folder / "store" / "runs").iterdir())
        files = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
        manifest = json.loads(files.pop("manifest.json"))
        assert manifest.pop("seconds") > 0.0
        left.append((files, manifest))
    assert left[0] == left[1]
