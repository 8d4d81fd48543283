"""Random settings: every one is built, or refused in one line that names its key."""

import json

import pytest

import rlkl
from rlkl.config.build import Built, build
from rlkl.config.compose import compose
from rlkl.errors import SettingsError
from rlkl.runs import execute
from rlkl.runs.folder.files import fill
from rlkl.runs.load import load
from rlkl.settings import numerics
from rlkl.training import blocks
from tests import fuzz

CHUNK, QUICK, ALL = 50, 50, 10_000
FIRST = [pytest.param(n, marks=[pytest.mark.slow] if n >= QUICK else []) for n in range(0, ALL, CHUNK)]


@pytest.mark.parametrize("first", FIRST)
def test_random_settings_are_built_or_refused_in_one_line(first):
    for seed in range(first, first + CHUNK):
        given = fuzz.random_overrides(seed)
        try:
            fuzz.outcome(given)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {given}") from error


def test_the_fuzz_reaches_every_option():
    """Its share of settings that are built is not nothing, and no key is left out."""
    given = [text for seed in range(20_000) for text in fuzz.random_overrides(seed)]
    keys = {text.lstrip("+~").partition("=")[0] for text in given}
    assert set(fuzz.KEYS) <= keys


NEVER_NEGATIVE = (
    "kl_pi_ref",
    "kl_ref_pi",
    "kl_pi_optimum",
    "kl_optimum_pi",
    "tv_optimum",
    "entropy",
    "divergence_value",
    "length",
)
TRAINED, SMALL = 200, (3,)  # of which this one compiles soon
NUMBERS = [pytest.param(i, marks=[] if i in SMALL else [pytest.mark.slow]) for i in range(TRAINED)]


@pytest.mark.parametrize("number", NUMBERS)
def test_random_valid_settings_train_to_sound_files(number, tmp_path):
    """Of the seeds from 1000 `number` on, the first that builds."""
    built = next(filter(None, map(_built, range(1000 * number, 1000 * number + 1000))))
    with numerics.pinned():
        trained = blocks.train_runs([built.run])[0]
    files = execute.entry(built, trained, 1.0).files
    fill(tmp_path, files)
    loaded = load(tmp_path)
    summary, history, outcomes = loaded.summary.iloc[0], loaded.history, loaded.outcomes
    json.loads(files["summary.json"], parse_constant=lambda name: pytest.fail(f"{name} in summary.json"))
    for name in (name for name in NEVER_NEGATIVE if name in history):
        assert not (history[name] < 0.0).any(), name
    for name in (name for name in NEVER_NEGATIVE if summary.get(name) is not None):
        estimated = f"{name}_stderr" in summary
        assert estimated or summary[name] >= 0.0, name
    if summary["exact"] and summary["regret"] is not None:
        assert (history["regret"].dropna() >= -1e-9 * max(1.0, abs(summary["optimal_objective"]))).all()
        assert history["reward"].notna().all()
    for name in ("reference", "policy", "optimum"):
        assert outcomes[name].isna().all() or outcomes[name].sum() == pytest.approx(1.0, abs=1e-6)
    named = list(dict.fromkeys(built.card.outcomes))  # end states that differ in what a policy remembers share a name
    assert list(outcomes["outcome"]) == named[: len(outcomes)]
    if summary["diverged_at"] is None:
        rlkl.load_policy(tmp_path)


def _built(seed: int) -> Built | None:
    try:
        return build(compose(fuzz.valid_overrides(seed)))
    except SettingsError:
        return None
