"""`rlkl list`: what there is, and what goes with what."""

import inspect

from rich.table import Table

from rlkl import algorithms, divergences, policies, settings, tasks
from rlkl.penalties import options
from rlkl.penalties.expected_gradient import expected_gradient
from rlkl.reports.console import console

PENALTIES = ("estimator=", "placement=", "level=", "gradient=", "and", "descends on a bandit", "descends on sequences")


def _first_paragraph(thing) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def show() -> None:
    """Print tasks, policies, divergences and the penalties that each algorithm may use."""
    for title, columns, rows in (
        ("algorithms", ("algorithm=", "what it is"), _algorithms()),
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
    on_bandits = {_way(chosen): expected_gradient(chosen, 1).says for chosen in options.combinations("kl_pi_ref", 1)}
    for chosen in options.combinations("kl_pi_ref", 2):
        bandit = on_bandits.get(_way(chosen), "") if chosen.credit == "reward_to_go" and not chosen.future_kl else ""
        extra = "immediate" if chosen.credit == "immediate" else "future_kl" if chosen.future_kl else ""
        yield (
            chosen.estimator,
            chosen.placement,
            chosen.level,
            chosen.gradient,
            extra,
            bandit,
            expected_gradient(chosen, 2).says,
        )


def _way(chosen: settings.PenaltySettings) -> tuple:
    return chosen.estimator, chosen.placement, chosen.gradient
