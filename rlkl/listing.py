"""`rlkl list`: what there is, and what goes with what."""

import inspect

from rich.table import Table

from rlkl import algorithms, divergences, penalty, policies, tasks
from rlkl.report import console

PENALTIES = ("algorithm=", "estimator=", "placement=", "for", "on", "descends")


def _first_paragraph(thing) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def show() -> None:
    """Print tasks, policies, divergences and the penalties that each algorithm may use."""
    for title, columns, rows in (
        ("tasks", ("task=", "options", "what it is"), _tasks()),
        ("policies", ("policy=", "policy.init=", "family", "what it is"), _policies()),
        ("divergences", ("penalty.divergence=", "formula", "what it is"), _divergences()),
        (
            "penalties (penalty.estimator, penalty.placement)",
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
    return [
        (name, entry.estimator, entry.placement, entry.divergence or "every divergence", _where(entry), entry.descends)
        for name in algorithms.names()
        for entry in penalty.offered(algorithms.kind(name))
    ]


def _where(entry: penalty.Combination) -> str:
    return "bandits" if entry.one_token else "bandits, sequences"
