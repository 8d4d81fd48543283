"""The experiments on where variety goes: their claims on the committed numbers, on wrong ones and on none; their figures."""

import importlib

import numpy as np
import pandas as pd
import pytest

from experiments import build
from rlkl import plots

NAMES = ("flat_reward",)


def committed(name: str) -> pd.DataFrame:
    return pd.read_csv(build.HERE / name / "figure.csv")


def false(name: str, drawn: pd.DataFrame) -> set[str]:
    return {claim.claim for claim in build.module(name).claims(drawn) if not claim.verdict}


@pytest.mark.parametrize("name", NAMES)
def test_claims_hold_on_the_committed_numbers(name):
    assert false(name, committed(name)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_turns_false_on_other_numbers(name):
    """Measured columns halved, mirrored, shifted or exchanged: each claim is false of one of them."""
    drawn = committed(name)
    measured = importlib.import_module(f"experiments.{name}.figure").MEASURED
    shuffled = drawn.assign(**{column: drawn[column].to_numpy()[::-1] for column in measured})
    wrong = [drawn.assign(**{column: change(drawn[column]) for column in measured}) for change in CHANGES]
    found = set.union(*(false(name, one) for one in [shuffled, *wrong]))
    assert {claim.claim for claim in build.module(name).claims(drawn)} - found == set()


CHANGES = (lambda x: 0.5 * x, lambda x: -x, lambda x: x + 1.0, lambda x: 0.0 * x, lambda x: np.nan * x)


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_holds_of_nothing(name):
    assert not any(claim.verdict for claim in build.module(name).claims(committed(name).iloc[:0]))


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_is_drawn_from_the_csv_to_the_same_bytes(name, tmp_path):
    module = build.module(name)
    first, second = (plots.save(module.draw(committed(name)), tmp_path / part) for part in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_exact_paths_start_where_they_are_told_and_descend():
    from experiments.flat_reward import paths

    rows = paths.follow("sgd", "kl_pi_ref", (0, 50, 100)).set_index(["start", "step"])
    p = np.array(paths.REFERENCE)
    np.testing.assert_allclose(rows.loc[("uniform", 0), "kl_pi_ref"], -np.log(6) - np.log(p).mean(), rtol=1e-12)
    without = np.where(np.arange(6) == 0, p * np.exp(-5.0), p)
    without /= without.sum()
    np.testing.assert_allclose(rows.loc[("lost 5", 0), "kl_ref_pi"], p @ np.log(p / without), rtol=1e-12)
    advantage = np.log(without / p) - without @ np.log(without / p)
    np.testing.assert_allclose(rows.loc[("lost 5", 0), "gradient_norm"], np.linalg.norm(without * advantage), rtol=1e-9)
    assert rows.loc[("lost 5", 100), "kl_pi_ref"] < rows.loc[("lost 5", 50), "kl_pi_ref"] < rows.loc[("lost 5", 0), "kl_pi_ref"]
