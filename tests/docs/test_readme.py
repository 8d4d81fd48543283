"""The README: short, its links lead somewhere, and its numbers are those of the experiments."""

import re
import sys

import pytest

from tests.helpers import CLONE, README

sys.path.append(str(CLONE / "docs"))
from pages import experiments, results


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
        ("wrong_gradient", "these: least regret, over all that training can gain", "throw away {:.0%} there"),
        ("where_diversity_goes", "optimiser, last: largest step", "takes at most {:.2f} nats"),
        ("collapse", "rloo, topic, KL(pi‖pi_ref), beta .03: the objective's share", "the exact optimum accounts for {:.0%}"),
    ],
)
def test_its_numbers_are_those_of_the_experiments(experiment, claim, text):
    value = float(experiments.claim(experiment, claim, ".17g"))
    assert text.format(value) in " ".join(README.split())


def test_its_numbers_are_those_of_the_figures():
    text = " ".join(README.split())
    at = "task == 'topic' and direction == 'kl_pi_ref' and beta == 0.03 and series == "
    reference = results.number("collapse", "task == 'topic' and series == 'reference'", "entropy")
    optimum, slow = (results.number("collapse", at + series, "entropy") for series in ("'optimum'", "'rloo, slow'"))
    assert f"at the default rate, for {(reference - optimum) / (reference - slow):.0%}" in text
    low, high = results.crossings("beta_is_the_knob", "lesser mode's share", "kl_pi_ref", "kl_ref_pi")
    assert f"at equal beta between {low:.2f} and {high:.1f}" in text
    held = results.number(
        "mode_seeking", "direction == 'kl_pi_ref' and series == 'trained better mode' and 0.13 < x < 0.14", "y"
    )
    assert f"where they hold {2 * held:.0%} of the mass together" in text
    same = results.highest("beta_is_the_knob", "panel == \"lesser mode's share\" and series == 'kl_ref_pi'", "y")
    assert f"about {same:.1f} under".replace("0.", ".") in text
