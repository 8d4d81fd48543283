"""Tables of what is registered: divergences, tasks, policies, algorithms, estimators, and the shipped penalties."""

import inspect
import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from pages import markdown
from rlkl import algorithms, divergences, errors, policies, surrogates, tasks
from rlkl.diagnostics.check.arguments import MEANINGS, SPELLINGS
from rlkl.divergences import Params
from rlkl.penalties import estimators as registered
from rlkl.penalties import importance, kl_masks, options, terms, top_k
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.reports.one_page import citation

GOES_WITH = re.compile(r"^(Goes with:) (.+)$")
STARTS = ("Goes with:", "On a bandit ")  # of paragraphs in the comment of a preset
PRESETS = Path(__file__).parents[2] / "configs" / "penalty"
TASK_PRESETS = PRESETS.parent / "task"
NEEDED: dict[str, dict] = {  # values of the options that have no default
    "bandit/custom": {"reward": [0.0, 1.0], "reference": [0.5, 0.5]},
    "automaton/custom": {"path": "?"},
    "preference/any": {"base": {"name": "bandit/two_modes"}},
}
CHAINS = {"policy": "chain rule under the policy", "reference": "chain rule under the reference", "both": "both chain rules"}


def summary(documented) -> str:
    """The first paragraph of a docstring, on one line of a table."""
    return markdown.cell((inspect.getdoc(documented) or "").split("\n\n")[0])


SEMI = re.compile(r"the semi-gradient of each token's (.*?) \(the states that follow are left out\)")
DASH_NOTE = "A dash: the setting is about later tokens, which a bandit does not have.\n\n"
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


def _chain(chain) -> str:
    if isinstance(chain, tuple):
        return "sum of its parts: " + ", ".join(f"{weight:g} `{name}`" for name, weight in chain)
    return "none: sequences are listed" if chain is None else CHAINS.get(chain, "sum of pi^a pi_ref^(1-a)")


def divergences_table() -> str:
    """A row for each divergence: name, formula, limits, how it decomposes over tokens, what it is."""
    rows = []
    for div in divergences.REGISTRY.values():
        chain = _chain(div.chain)
        rows.append(
            (f"`{div.name}`", markdown.cell(div.formula), _limit(div.zero), _limit(div.infinity), chain, summary(div.both))
        )
    header = ("`penalty.divergence`", "formula", "f(0)", "lim f(t)/t", "over tokens", "what it is")
    return markdown.table(header, rows)


def tasks_table() -> str:
    """A row for each task, with a link to its options, and one for each preset of preference tasks."""
    rows = [(f"[`{name}`](#{_slug(name)})", summary(build)) for name, build in tasks.REGISTRY.items()]
    for path in sorted(TASK_PRESETS.glob("preference/*.yaml")):
        name, text = f"preference/{path.stem}", path.read_text(encoding="utf-8")
        if name not in tasks.REGISTRY:
            says = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#") and "@" not in line)
            rows.append((f"`{name}`", f"{markdown.cell(says)} It is `{' '.join(_overrides(yaml.safe_load(text)))}`."))
    return markdown.table(("`task`", "what it is"), rows)


def _overrides(preset: dict) -> list[str]:
    """The command line that does what a preset of preference tasks does."""
    base = next(each["override /task@base"] for each in preset["defaults"] if isinstance(each, dict) and len(each) == 1)
    words = ["task=preference/any", f"task@task.base={base}"]
    for key, value in preset.items():
        if isinstance(value, dict):
            words += [f"task.{key}.{inner}={number}" for inner, number in value.items()]
        elif key != "defaults":
            words.append(f"task.{key}={value}")
    return words


def _slug(name: str) -> str:
    return name.replace("/", "")


def task_names() -> list[str]:
    """The registered tasks."""
    return list(tasks.REGISTRY)


def task(name: str) -> str:
    """A task: its description, and a table of its options but `typicality`, which all tasks share, and `base`."""
    text = (inspect.getdoc(tasks.REGISTRY[name]) or "").replace("<", "&lt;")
    rows = [
        (f"`task.{key}`", _value(default), _allowed_in_task(name, key))
        for key, default in tasks.options(name).items()
        if key != "base" and (key != "typicality" or "base" in tasks.options(name))
    ]
    return f"{text}\n\n{markdown.table(('option', 'default', 'allowed'), rows) if rows else ''}\n"


def _value(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "none: needs a value"
    if isinstance(default, tuple):
        return f"`[{','.join(map(str, default))}]`"
    return f"`{json.dumps(default)}`" if default is None or isinstance(default, bool) else f"`{default}`"


def _allowed_in_task(name: str, key: str) -> str:
    """What a task says of bad values of an option: the values or the numbers that are allowed; "" where it says neither."""
    default = tasks.options(name)[key]
    share = isinstance(default, float) and 0 < default < 1
    bad = (-1, 2) if share else (-1,) if isinstance(default, (int, float)) and not isinstance(default, bool) else ("",)
    rules = dict.fromkeys(rule for value in bad if (rule := _rule(name, key, value)))
    return markdown.cell(("`null`, or " if default is None and rules else "") + ", ".join(rules))


def _rule(name: str, key: str, value: object) -> str:
    """What a task says that an option must be, where it refuses the value so; else ""."""
    try:
        tasks.build(name, **{**NEEDED.get(name, {}), key: value})
    except errors.SettingsError as error:
        found = re.match(r"(?:allowed: |must be )(.*)", error.allowed)
        return re.sub(r"list of \d+ ", "list of ", found[1]) if found else ""
    return ""


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


def surrogates_table() -> str:
    """A row for each surrogate: name, loss of a token, options with their defaults, what it is."""
    rows = [
        (
            f"`{name}`",
            f"`{markdown.cell(surrogate.formula)}`",
            ", ".join(f"`{key}={value:g}`" for key, value in surrogate.options.items()),
            summary(surrogate.loss),
        )
        for name, surrogate in surrogates.REGISTRY.items()
    ]
    return markdown.table(("`algorithm.surrogate`", "loss of a token", "options", "what it is"), rows)


def library_names() -> str:
    """A row for each surrogate and correction, with the libraries and their options that mean it."""
    rows = [(f"`algorithm.surrogate={name}`", _libraries(each.libraries)) for name, each in surrogates.REGISTRY.items()]
    for (correction, limit), names in importance.LIBRARIES.items():
        limited = f"`penalty.importance_correction={correction}`, `importance_limit={limit}`"
        rows.append((limited, _libraries(names)))
    rows += [(f"`penalty.kl_mask={mask}`", _libraries(names)) for mask, names in kl_masks.LIBRARIES.items()]
    return markdown.table(("here", "in libraries"), rows)


def _libraries(names: Mapping[str, str]) -> str:
    return "<br>".join(f"{library}: `{markdown.cell(options)}`" for library, options in names.items())


def estimators_table() -> str:
    """A row for each estimator: those that read one log-ratio u, then those of the whole vocabulary and the whole sequence."""
    rows = [
        (f"`{name}`", ", ".join(f"`{alias}`" for alias, own in registered.ALIASES.items() if own == name), summary(estimate))
        for name, estimate in registered.REGISTRY.items()
    ]
    others = {"full": registered.full, "top_k": top_k.top_k, "score": terms.score}
    rows += [(f"`{name}`", "", summary(estimate)) for name, estimate in others.items()]
    return markdown.table(("`penalty.estimator`", "in other libraries", "what it is"), rows)


def descends_table(name: str, estimator: str = "") -> str:
    """What each combination descends on a bandit and on sequences, for a divergence and, if given, one estimator.

    The columns `gradient`, `future_kl` and `sampler` are left out where all rows have the default.
    """
    penalties = [each for each in options.combinations(name, 2) if estimator in ("", each.estimator)]
    if estimator in ("", "top_k"):
        penalties += [each for each in options.top_k_combinations(name, 2, 2) if each.top_k_of == "reference"]
    varying = {
        key: default
        for key, default in (("gradient", "naive"), ("future_kl", False), ("sampler", "policy"))
        if any(getattr(each, key) != default for each in penalties)
    }
    rows = []
    for penalty in penalties:
        on_bandit = not penalty.future_kl and penalty.credit == "reward_to_go"
        rows.append(
            (
                f"`{penalty.estimator}` in the {penalty.placement}" + (f", tail {penalty.top_k_tail}" if penalty.top_k else ""),
                str(penalty.level),
                "" if penalty.placement == "loss" else str(penalty.credit),
                *(_setting(getattr(penalty, key)) for key in varying),
                markdown.cell(expected_gradient(penalty, 1).says) if on_bandit else "-",
                markdown.cell(short(expected_gradient(penalty, 2).says)),
            )
        )
    header = ("estimator", "level", "credit", *varying, "descends on a bandit", "descends on sequences")
    note = SEMI_NOTE if any(row[-1].startswith("semi-gradient") for row in rows) else ""
    note += DASH_NOTE if any(row[-2] == "-" for row in rows) else ""
    return note + markdown.table(header, rows)


def _setting(value: object) -> str:
    return ("true" if value else "") if isinstance(value, bool) else str(value)


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
    return f"{_paragraphs(_comment(name))}\n\n```yaml\n{body}\n```\n"


def _paragraphs(comment: list[str]) -> str:
    """The lines of a preset's comment as paragraphs: its title, its source, what it goes with, what it descends, notes."""
    paragraphs = comment[:1]
    for before, line in itertools.pairwise(comment):
        begins = before == comment[0] or line.startswith(STARTS) or before.startswith("Goes with:")
        paragraphs = [*paragraphs, line] if begins else [*paragraphs[:-1], f"{paragraphs[-1]} {line}"]
    return "\n\n".join(GOES_WITH.sub(r"\1 `\2`", paragraph) for paragraph in paragraphs)


def check_arguments() -> str:
    """The arrays that `rlkl check` can give a loss, with their spellings."""
    rows = [
        (f"`{name}`", MEANINGS[name], ", ".join(f"`{spelling}`" for spelling in spellings))
        for name, spellings in SPELLINGS.items()
    ]
    return markdown.table(("name", "what it is", "other spellings"), rows)
