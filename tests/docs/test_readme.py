"""The README: short, its links lead somewhere, and its numbers are those of the experiments."""

import re
import sys

import pytest

from tests.helpers import CLONE, README

sys.path.append(str(CLONE / "docs"))
from pages import experiments


def test_it_is_short_and_narrow():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_its_links_lead_to_files(link):
    assert (CLONE / link).exists()


@pytest.mark.parametrize(
    ("experiment", "claim", "text"),
    [
        ("wrong_gradient", "the same: regret, over all that training can gain", "throws away {:.0%} of what training can gain"),
        ("collapse", "rloo, topic, KL(pi‖pi_ref), beta .03: the objective's share", "the exact optimum accounts for {:.0%}"),
    ],
)
def test_its_numbers_are_those_of_the_experiments(experiment, claim, text):
    value = float(experiments.claim(experiment, claim, ".17g"))
    assert text.format(value) in " ".join(README.split())
