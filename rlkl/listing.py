"""`rlkl list`: what there is, and what goes with what."""

import inspect

from rich.table import Table

from rlkl import algorithms, divergences, penalty, policies, tasks
from rlkl.report import console

PENALTIES = ("algorithm=", "estimator=", "placement=", "for", "descends")


def _first_paragraph(thing) -> str:
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def show() -> None:
    """Print tasks, policies, divergences and the penalties that each algorithm may use."""
    for title, columns, rows in (
        ("tasks", ("task=", "options", "what it is"), _tasks()),
        ("policies", ("policy=", "policy.init=", "family"), _policies()),
        ("divergences", ("penalty.divergence=", "formula", "what it is"), _divergences()),
        (
            "penalties on a bandit (penalty.estimator, penalty.placement)",
            ("algorithm=", "estimator=", "placement=", "for", "descends"),
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
        (name, ", ".join(family.inits), "restricted" if family.restricted else "unrestricted")
        for name, family in policies.REGISTRY.items()
    ]


def _divergences():
    return [(div.name, div.formula, _first_paragraph(div.both)) for div in divergences.REGISTRY.values()]


def _penalties():
    return [
        (name, entry.estimator, entry.placement, entry.divergence or "every divergence", entry.descends)
        for name in algorithms.names()
        for entry in penalty.COMBINATIONS
        if entry.algorithm == ("exact" if name == "exact" else "sampled")
    ]
