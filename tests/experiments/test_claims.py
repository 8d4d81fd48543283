"""The experiments' claims hold of the committed numbers, each can fail, none holds of nothing; figures are drawn from the CSV
alone, to the same bytes."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from experiments.harness import series
from experiments.harness.build import HERE, build, module, sweeps
from experiments.where_diversity_goes.numbers import NUMBERS
from rlkl.reports import plots
from tests.experiments import house

# Of one table format.
SERIES = [
    "asymmetry", "beta_is_the_knob", "compression", "equal_rewards", "fisher", "inference", "likelihood", "mismatch_grows",
    "quantization", "rates", "reward_kl_frontier", "simplex", "support", "tails", "zero_and_units",
]  # fmt: skip
# Figures that name their measured columns.
MEASURED = ["flat_reward", "over_optimisation", "best_of_n", "mara", "entropy_mechanism"]
# Tables of several kinds of rows: the column that tells them apart, and the kinds that are left out in turn.
RUNS = {
    "collapse": ("series", ["reference", "optimum", "exact", "rloo", "rloo, slow"]),
    "typicality": ("series", ["policy", "reference", "recovered"]),
    "steering": ("controller", ["exact", "adaptive", "lagrangian"]),
    "wrong_gradient": ("series", ["reference", "descended", "trained"]),
    "where_diversity_goes": ("series", ["reference", "flat", "exact", "trained"]),
    "trust_regions": ("kind", ["surrogate", "weights", "trained by rlkl"]),
}
NAMES = [*SERIES, *MEASURED, *RUNS]


def quick(names: list[str], of: tuple[str, ...]) -> list:
    """Parameters for a test; all but those in `of` are slow."""
    return [name if name in of else pytest.param(name, marks=pytest.mark.slow) for name in names]


def wrong(name: str, drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table with other numbers, in ways of which each claim must mind one."""
    if name in SERIES:
        return wrong_series(drawn)
    if name in MEASURED:
        return wrong_measured(drawn, module(name).MEASURED)
    return WRONG_RUNS[name](drawn)


def wrong_series(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
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


def wrong_measured(drawn: pd.DataFrame, measured: list[str]) -> Iterator[pd.DataFrame]:
    for change in (
        lambda x: x.to_numpy()[::-1],
        lambda x: 0.5 * x,
        lambda x: -x,
        lambda x: x + 1.0,
        lambda x: 0.0 * x,
        lambda x: np.nan * x,
    ):
        yield drawn.assign(**{column: change(drawn[column]) for column in measured})


def wrong_collapse(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    numbers = drawn.select_dtypes("number").columns.difference(["beta", "seed"])
    yield drawn.assign(series=drawn["series"].replace({"optimum": "rloo", "rloo": "optimum"}))
    yield drawn.assign(**dict.fromkeys(numbers, 1.0))
    for kind in ("optimum", "rloo"):
        halved = drawn.copy()
        halved.loc[halved["series"] == kind, numbers] *= 0.5
        yield halved


def wrong_typicality(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    numbers = drawn.select_dtypes("number").columns.difference(["beta", "seed", "typicality_weight"])
    policy = drawn["series"] == "policy"
    yield drawn.assign(entropy=drawn["entropy"].where(~policy, 0.5 * drawn["entropy"]))
    yield drawn.assign(entropy=drawn["entropy"].where(~policy, 10.0))
    yield drawn.assign(stderr=0.1 * drawn["stderr"])
    yield drawn.assign(**dict.fromkeys(numbers, 1.0))


def wrong_steering(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    other = drawn[drawn["seed"] != 2].assign(beta=1.2 * drawn["beta"], kl_pi_ref=1.1 * drawn["kl_pi_ref"])
    other.loc[other["controller"] == "exact", "beta"] /= 1.2
    yield other


def wrong_wrong_gradient(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    numbers = ["regret", "to_own", "to_descended", "reward", "least", "gradient_norm"]
    yield drawn.assign(**dict.fromkeys(numbers, 0.0))
    yield drawn.assign(**dict.fromkeys(numbers, 0.9))
    yield drawn.assign(regret=drawn["regret"] + 0.5 * (drawn["seed"] % 2).fillna(0.0), reward=drawn["reward"] * drawn["seed"])
    yield drawn[drawn["seed"].isna() | (drawn["seed"] < 3)].drop_duplicates(["direction", "kind", "series", "seed"])


def wrong_where_diversity_goes(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    found = list(NUMBERS)
    exact, fitted, late = drawn["series"] == "exact", drawn["data"] == 1, drawn["beta"] == 1.0
    for rows, change in (
        (slice(None), lambda x: 0.0 * x + 1.0),  # nothing differs
        (slice(None), lambda x: -x),  # every step goes the other way
        (drawn["series"].isin(["flat", "trained"]), lambda x: x + 1.0),
        (exact & fitted & (drawn["estimator"] == 1), lambda x: x + 1.0),
        (exact & fitted & (drawn["estimator"] == 0), lambda x: 0.3 * x),
        (exact & late & (drawn["bias"] == 1), lambda x: x - 2.0),
    ):
        other = drawn.copy()
        other.loc[rows, found] = change(other.loc[rows, found])
        yield other


def wrong_trust_regions(drawn: pd.DataFrame) -> Iterator[pd.DataFrame]:
    numbers = ["regret", "entropy", "success", "half", "touched", "apart", "pull"]
    for value in (0.0, 1.0, np.nan):
        yield drawn.assign(**dict.fromkeys(numbers, value))
    yield drawn[drawn["method"].isin(["ppo", "uncorrected"])]


WRONG_RUNS = {
    "collapse": wrong_collapse,
    "typicality": wrong_typicality,
    "steering": wrong_steering,
    "wrong_gradient": wrong_wrong_gradient,
    "where_diversity_goes": wrong_where_diversity_goes,
    "trust_regions": wrong_trust_regions,
}


def named(name: str) -> tuple[ModuleType, pd.DataFrame]:
    return module(name), house.committed(name)


@pytest.mark.parametrize("name", NAMES)
def test_claims_hold_of_the_committed_numbers(name):
    figure, drawn = named(name)
    assert [claim for claim in figure.claims(drawn) if not claim.verdict] == []


NONSENSE = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # is divided by, and taken the logarithm of


LONG = {"where_diversity_goes": [pytest.mark.slow]}  # it has the most claims, and the most rows


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[*LONG.get(name, []), *([NONSENSE] if name in SERIES else [])]) for name in NAMES]
)
def test_each_claim_fails_on_some_other_numbers_and_none_raises(name):
    figure, drawn = named(name)
    never = {claim.claim for claim in figure.claims(drawn)}
    for other in wrong(name, drawn):
        never -= {claim.claim for claim in figure.claims(other) if not claim.verdict}
        if name in SERIES and not never:
            break  # the rest is much, and mostly nonsense
    assert never == set()


@pytest.mark.parametrize(
    ("name", "column", "kind"), [(name, column, kind) for name, (column, kinds) in RUNS.items() for kind in kinds]
)
def test_claims_never_raise_where_a_kind_of_run_is_missing(name, column, kind):
    figure, drawn = named(name)
    assert kind in set(drawn[column])
    assert not all(claim.verdict for claim in figure.claims(drawn[drawn[column] != kind]))


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_holds_of_nothing(name):
    figure, drawn = named(name)
    claims = figure.claims(drawn.iloc[:0])
    assert len(claims) == len(figure.claims(drawn))
    assert not any(claim.verdict for claim in claims)


@pytest.mark.parametrize("name", SERIES)
def test_figures_are_drawn_from_the_csv_alone(name):
    figure, drawn = named(name)
    assert figure.draw(drawn).axes


@pytest.mark.parametrize("name", quick(NAMES, ("asymmetry", "typicality")))
def test_figures_have_the_same_bytes_every_time(name, tmp_path):
    figure, drawn = named(name)
    first, second = (plots.save(figure.draw(drawn), tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("name", quick(SERIES, ("asymmetry", "support")))
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
