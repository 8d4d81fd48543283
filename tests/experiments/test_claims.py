"""The experiments of one table format: claims hold of the committed numbers, each can fail, none holds of nothing; figures are
drawn from the CSV alone, to the same bytes."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from experiments.harness import series
from experiments.harness.build import HERE, build, module, sweeps
from rlkl.reports import plots

NAMES = [
    "asymmetry", "beta_is_the_knob", "compression", "equal_rewards", "fisher", "inference", "likelihood", "quantization",
    "rates", "reward_kl_frontier", "simplex", "support", "tails", "zero_and_units",
]  # fmt: skip
QUICK = ["asymmetry", "support"]  # made in a few seconds
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.fixture(params=NAMES)
def named(request):
    return module(request.param), pd.read_csv(HERE / request.param / "figure.csv")


def wrong(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table with other numbers, in ways of which each claim must mind one."""
    draw = np.random.default_rng(0)
    x, y = drawn["x"], drawn["y"]
    shuffled = draw.permutation(len(drawn))
    for other in (
        0.5 * y + 0.01,
        -y,
        0.0 * y,
        0.0 * y + 1.0,
        y.iloc[::-1].to_numpy(),
        y.iloc[shuffled].to_numpy(),
        y**2,
        100.0 * y,
    ):
        yield drawn.assign(y=other)
    for other in (y * (1.0 + 0.5 * draw.random(len(y))), y + 0.3 * np.arange(len(y)), y - 5.0 * drawn["error"] - 0.3, 1.0 - y):
        yield drawn.assign(y=other)
    for other in (0.3 * x + 0.2, x.iloc[shuffled].to_numpy()):
        yield drawn.assign(x=other)
    yield drawn.assign(x=0.0, y=0.0)
    yield drawn.assign(error=100.0 * drawn["error"])
    for column in ("panel", "series"):  # one of them alone
        for name in drawn[column].unique():
            for other in (0.0, 0.3 * y, 3.0 * y + 1.0, y.iloc[::-1].to_numpy()):
                yield drawn.assign(y=y.where(drawn[column] != name, other))


def test_claims_hold_of_the_committed_numbers(named):
    figure, drawn = named
    assert [claim for claim in figure.claims(drawn) if not claim.verdict] == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # nonsense is divided by, and taken the logarithm of
def test_each_claim_fails_on_some_other_numbers_and_none_raises(named):
    figure, drawn = named
    never = {claim.claim for claim in figure.claims(drawn)}
    for other in wrong(drawn):
        never -= {claim.claim for claim in figure.claims(other) if not claim.verdict}
        if not never:
            break
    assert never == set()


def test_no_claim_holds_of_nothing(named):
    figure, drawn = named
    claims = figure.claims(drawn.iloc[:0])
    assert len(claims) == len(figure.claims(drawn))
    assert not any(claim.verdict for claim in claims)


def test_figures_are_drawn_from_the_csv_alone(named):
    figure, drawn = named
    assert figure.draw(drawn).axes


@pytest.mark.parametrize("name", EVERY)
def test_figures_have_the_same_bytes_every_time(name, tmp_path):
    figure, drawn = module(name), pd.read_csv(HERE / name / "figure.csv")
    first, second = (plots.save(figure.draw(drawn), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("name", EVERY)
def test_the_committed_numbers_are_current(name, tmp_path):
    built = build(name, tmp_path / "runs", tmp_path / "out")
    assert [claim for claim in built.claims if not claim.verdict] == []
    assert (built.runs is None) == (sweeps(name) == [])
    if name not in ("compression", "quantization"):  # the one depends on Python's own text, the other on the machine's rounding
        committed, fresh = (pd.read_csv(folder / "figure.csv") for folder in (HERE / name, tmp_path / "out"))
        pd.testing.assert_frame_equal(committed, fresh, check_exact=False, rtol=1e-5, atol=1e-8)


def test_slopes_and_extremes_of_what_is_not_there():
    assert series.slope(series.frame(series.points("p", "s", [1.0, 2.0, 4.0], [3.0, 12.0, 48.0]))) == pytest.approx(2.0)
    for x, y in (([1.0, 2.0], [0.0, 1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.inf]), ([2.0], [1.0])):
        assert np.isnan(series.slope(series.frame(series.points("p", "s", x, y))))
    assert np.isnan(series.largest([])) and np.isnan(series.largest([1.0, np.nan])) and series.smallest([2.0, 1.0]) == 1.0
