"""Print what can be penalty, and what can be combined (`rlkl list`)."""

import inspect
from collections.abc import Mapping

from rich.table import Table

from rlkl import algorithms, divergences, policies, settings, surrogates, tasks
from rlkl.penalties import importance, kl_masks, options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.reports.console import console

PENALTIES = ("estimator=", "placement=", "level=", "gradient=", "and", "descends on a bandit", "descends on sequences")


def _first_paragraph(documented) -> str:
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def show() -> None:
    """Print the algorithms, tasks, policies, divergences, and the penalties of sampled algorithms."""
    for title, columns, rows in (
        ("algorithms", ("algorithm=", "what it is"), _algorithms()),
        (
            "surrogates of sampled algorithms",
            ("algorithm.surrogate=", "loss of a token", "options", "in libraries"),
            _surrogates(),
        ),
        (
            "corrections of samples of another policy",
            ("penalty.importance_correction=", "penalty.importance_limit=", "penalty.kl_mask=", "in libraries"),
            _corrections(),
        ),
        ("tasks", ("task=", "options", "what it is"), _tasks()),
        ("policies", ("policy=", "policy.init=", "family", "what it is"), _policies()),
        ("divergences", ("penalty.divergence=", "formula", "what it is"), _divergences()),
        (
            "penalties of sampled algorithms for KL(pi‖pi_ref); what descends something else needs penalty.allow_biased=true",
            PENALTIES,
            _penalties(),
        ),
    ):
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)


def _tasks():
    return [(name, ", ".join(tasks.options(name)), _first_paragraph(build)) for name, build in tasks.REGISTRY.items()]


def _algorithms():
    yield from algorithms.EXACT.items()
    for name, algorithm in algorithms.REGISTRY.items():
        yield name, _first_paragraph(algorithm.advantage)


def _surrogates():
    for name, surrogate in surrogates.REGISTRY.items():
        values = ", ".join(f"{key}={value:g}" for key, value in surrogate.options.items())
        yield name, surrogate.formula, values, _in_libraries(surrogate.libraries)


def _corrections():
    for (correction, limit), libraries in importance.LIBRARIES.items():
        yield correction, limit, "", _in_libraries(libraries)
    for mask, libraries in kl_masks.LIBRARIES.items():
        yield "", "", mask, _in_libraries(libraries)


def _in_libraries(names: Mapping[str, str]) -> str:
    return "\n".join(f"{library}: {options}" for library, options in names.items())


def _policies():
    return [
        (name, ", ".join(family.inits), _kind(family), _first_paragraph(family.build))
        for name, family in policies.REGISTRY.items()
    ]


def _kind(family: policies.Family) -> str:
    if family.network:
        return "network"
    return "restricted table" if family.restricted else "table"


def _divergences():
    return [(div.name, div.formula, _first_paragraph(div.both)) for div in divergences.REGISTRY.values()]


def _penalties():
    on_bandits = {_bandit_key(penalty): expected_gradient(penalty, 1).says for penalty in options.combinations("kl_pi_ref", 1)}
    for penalty in options.combinations("kl_pi_ref", 2):
        has_bandit = penalty.credit == "reward_to_go" and not penalty.future_kl
        bandit = on_bandits.get(_bandit_key(penalty), "") if has_bandit else ""
        extra = "immediate" if penalty.credit == "immediate" else "future_kl" if penalty.future_kl else ""
        yield (
            penalty.estimator,
            penalty.placement,
            penalty.level,
            penalty.gradient,
            extra,
            bandit,
            expected_gradient(penalty, 2).says,
        )
    of_reference = [[w for w in options.top_k_combinations("kl_pi_ref", n, 2) if w.top_k_of == "reference"] for n in (1, 2)]
    for bandit_way, way in zip(*of_reference, strict=True):
        says = (expected_gradient(bandit_way, 1).says, expected_gradient(way, 2).says)
        yield "top_k", way.placement, way.level, way.gradient, f"top_k_tail={way.top_k_tail}", *says


def _bandit_key(penalty: settings.PenaltySettings) -> tuple:
    """Return the settings that tell penalties apart on a bandit."""
    return penalty.estimator, penalty.placement, penalty.gradient
