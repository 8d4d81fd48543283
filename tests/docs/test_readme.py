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


def test_what_grpo_maximises_has_its_number():
    lost = float(experiments.claim("grpo_objective", "trained, in the loss, KL(pi‖pi_ref), G = 64", ".17g"))
    assert f"end {lost:.2f} below the best E[r] - beta KL" in " ".join(README.split())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_its_links_lead_to_files(link):
    assert (CLONE / link).exists()


@pytest.mark.parametrize(
    ("experiment", "claim", "text"),
    [
        ("where_diversity_goes", "optimiser, last: largest step", "takes at most {:.2f} nats counted after the other causes"),
        ("collapse", "rloo, topic, KL(pi‖pi_ref), beta .03: the objective's share", "the exact optimum accounts for {:.0%}"),
    ],
)
def test_its_numbers_are_those_of_the_experiments(experiment, claim, text):
    value = float(experiments.claim(experiment, claim, ".17g"))
    assert text.format(value) in " ".join(README.split())


TEXT = " ".join(README.split())


def test_its_regrets_are_those_of_wrong_gradient():
    at = "task == 'ladder' and direction == 'kl_pi_ref' and series == "
    reference = results.number("wrong_gradient", at + "'reference'", "regret")
    ways = ("k3 in loss, token", "k3 in loss, sequence", "k2 in loss, token", "full in loss", "k3 in loss, token, unbiased")
    token, whole, *myopic = (results.number("wrong_gradient", f"{at}'descended' and way == '{way}'", "regret") for way in ways)
    shown = f"its regret is then {token:.3f} (whole sequences: {whole:.3f}; untrained reference: {reference:.3f})"
    assert shown in TEXT
    assert f"end at {max(myopic):.3f}, slightly below the untrained reference" in TEXT
    assert reference < min(myopic) and max(myopic) - min(myopic) < 1e-6


def test_its_causes_are_those_of_where_diversity_goes():
    alone = -results.share("grammar", "kl_ref_pi", "beta 0.1", "optimiser", " first")
    assert f"and up to {alone:.2f} on the gold reward alone" in TEXT
    assert results.most_lost("equal KL", "bias") == 4 and "in all four cases" in TEXT
    assert results.most_lost("equal reward", "bias") == 3 and "it does so in three" in TEXT
    changes = {step: results.share("words", "kl_ref_pi", "equal reward", step) for step in results.STEPS}
    assert min(changes, key=changes.get) == "data"
    betas = experiments.numbers("where_diversity_goes").query("series == 'exact'")["beta"]
    assert betas.nunique() == 9 and (betas.min(), betas.max()) == (0.1, 3.0)
    assert "at each of nine betas from .1 to 3" in TEXT
    assert float(experiments.claim("where_diversity_goes", "bias alone: least gain of E[log pi_ref]", ".17g")) > 0.0


def test_its_numbers_are_those_of_the_figures():
    at = "task == 'topic' and direction == 'kl_pi_ref' and beta == 0.03 and series == "
    reference = results.number("collapse", "task == 'topic' and series == 'reference'", "entropy")
    optimum, slow = (results.number("collapse", at + series, "entropy") for series in ("'optimum'", "'rloo, slow'"))
    assert f"at the default rate, for {(reference - optimum) / (reference - slow):.0%}" in TEXT
    low, high = results.crossings("beta_is_the_knob", "lesser mode's share", "kl_pi_ref", "kl_ref_pi")
    assert f"at equal beta between {low:.2f} and {high:.1f}" in TEXT
    (equal,) = results.equal_kl_crossings()
    assert f"at equal KL(pi‖pi_ref) above {equal:.1f} nats" in TEXT
    held = results.number(
        "mode_seeking", "direction == 'kl_pi_ref' and series == 'trained better mode' and 0.13 < x < 0.14", "y"
    )
    assert f"where they hold {2 * held:.0%} of the mass together" in TEXT
    same = results.highest("beta_is_the_knob", "panel == \"lesser mode's share\" and series == 'kl_ref_pi'", "y")
    assert f"about {same:.1f} under".replace("0.", ".") in TEXT


def test_the_front_page_has_twelve_sayings_each_with_a_number():
    rows = experiments.folklore().strip().splitlines()[2:]
    assert len(rows) == 12
    assert all(re.search(r"\*\*[-+.0-9e%]+\*\*", row) for row in rows)
