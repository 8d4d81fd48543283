"""Random settings: every one is built, or refused in one line that names its key."""

import pytest

from tests import fuzz

CHUNK, QUICK, ALL = 100, 300, 10_000
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
