"""Tables of what is registered: divergences, tasks, policies, algorithms, estimators, and the shipped penalties."""

import inspect
import math
import re
from pathlib import Path

import yaml

from pages import markdown
from rlkl import algorithms, divergences, policies, tasks
from rlkl.divergences import Params
from rlkl.penalties import estimators as registered
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.reports.one_page import citation

PRESETS = Path(__file__).parents[2] / "configs" / "penalty"
CHAINS = {"policy": "chain rule under the policy", "reference": "chain rule under the reference", "both": "both chain rules"}


def summary(documented) -> str:
    """The first paragraph of a docstring, on one line of a table."""
    return markdown.cell((inspect.getdoc(documented) or "").split("\n\n")[0])


SEMI = re.compile(r"the semi-gradient of each token's (.*?) \(the states that follow are left out\)")
SEMI_NOTE = (
    "*Semi-gradient of D*: the gradient of each token's D with the visited states held fixed. What a token does to the states "
    "that follow is left out.\n\n"
)


def short(says: str) -> str:
    """What a gradient descends, with the explanation of a semi-gradient left to a note above the table (`SEMI_NOTE`)."""
    return SEMI.sub(r"semi-gradient of \1", says)


def _limit(number) -> str:
    value = float(number(Params()) if callable(number) else number)
    text = "infinite" if math.isinf(value) else f"{value:g}"
    return f"{text} at the default parameters" if callable(number) else text


def divergences_table() -> str:
    """A row for each divergence: name, formula, limits, how it decomposes over tokens, what it is."""
    rows = []
    for div in divergences.REGISTRY.values():
        chain = CHAINS.get(div.chain, "sum of pi^a pi_ref^(1-a)") if div.chain is not None else "none: sequences are listed"
        rows.append(
            (f"`{div.name}`", markdown.cell(div.formula), _limit(div.zero), _limit(div.infinity), chain, summary(div.both))
        )
    header = ("`penalty.divergence`", "formula", "f(0)", "lim f(t)/t", "over tokens", "what it is")
    return markdown.table(header, rows)


def tasks_table() -> str:
    """A row for each task: name, options, what it is."""
    rows = (
        (f"`{name}`", ", ".join(f"`{key}`" for key in tasks.options(name)), summary(build))
        for name, build in tasks.REGISTRY.items()
    )
    return markdown.table(("`task`", "options", "what it is"), rows)


def policies_table() -> str:
    """A row for each policy family: name, inits, kind, what it is."""
    rows = (
        (
            f"`{name}`",
            ", ".join(f"`{init}`" for init in family.inits),
            "network" if family.network else "table",
            summary(family.build),
        )
        for name, family in policies.REGISTRY.items()
    )
    return markdown.table(("`policy`", "`policy.init`", "kind", "what it is"), rows)


def algorithms_table() -> str:
    """A row for each algorithm."""
    rows = [(f"`{name}`", markdown.cell(what)) for name, what in algorithms.EXACT.items()]
    rows += [(f"`{name}`", summary(algorithm.advantage)) for name, algorithm in algorithms.REGISTRY.items()]
    return markdown.table(("`algorithm`", "what it is"), rows)


def estimators_table() -> str:
    """A row for each estimator that reads one log-ratio u."""
    rows = [
        (f"`{name}`", ", ".join(f"`{alias}`" for alias, own in registered.ALIASES.items() if own == name), summary(estimate))
        for name, estimate in registered.REGISTRY.items()
    ]
    rows.append(("`full`", "", summary(registered.full)))
    return markdown.table(("`penalty.estimator`", "in other libraries", "what it is"), rows)


def descends_table(name: str, estimator: str = "") -> str:
    """What each combination descends on a bandit and on sequences, for a divergence and, if given, one estimator."""
    rows = []
    for penalty in options.combinations(name, 2):
        if estimator and penalty.estimator != estimator:
            continue
        extra = "future_kl" if penalty.future_kl else "" if penalty.placement == "loss" else str(penalty.credit)
        bandit = expected_gradient(penalty, 1).says if not penalty.future_kl and penalty.credit == "reward_to_go" else "-"
        where = f"`{penalty.estimator}` in the {penalty.placement}"
        rows.append(
            (
                where,
                str(penalty.level),
                penalty.gradient,
                extra,
                markdown.cell(bandit),
                markdown.cell(short(expected_gradient(penalty, 2).says)),
            )
        )
    header = ("estimator", "level", "gradient", "credit", "descends on a bandit", "descends on sequences")
    note = SEMI_NOTE if any(row[-1].startswith("semi-gradient") for row in rows) else ""
    return note + markdown.table(header, rows)


def bibtex() -> str:
    """The BibTeX entry of rlkl, from CITATION.cff."""
    return f"```bibtex\n{citation.bibtex(citation.citation_file())}\n```\n"


def preset_names() -> list[str]:
    """The shipped penalties, in alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def presets_table(estimator: str = "") -> str:
    """A row for each shipped penalty (if given, of one estimator), with the first line of its file."""
    rows = (
        (f"[`penalty={name}`](/penalties/presets.md#{name.replace('_', '-')})", markdown.cell(_comment(name)[0]))
        for name in preset_names()
        if not estimator or yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8")).get("estimator") == estimator
    )
    return markdown.table(("preset", "what it is"), rows)


def _comment(name: str) -> list[str]:
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def preset(name: str) -> str:
    """A shipped penalty: its description, and the settings that it fixes."""
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    body = "\n".join(line for line in lines if not line.startswith("#")).strip()
    text = "\n\n".join(_comment(name))
    return f"{text}\n\n```yaml\n{body}\n```\n"
