"""Numbers, tables and figures of the experiments, from their figure.csv and their claims."""

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from experiments.harness.page import evidence
from pages import markdown
from rlkl import divergences

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


@functools.cache
def numbers(name: str) -> pd.DataFrame:
    """The numbers that an experiment's figure draws."""
    return pd.read_csv(EXPERIMENTS / name / "figure.csv")


@functools.cache
def claims_of(name: str) -> tuple:
    """The claims of an experiment, from its committed numbers."""
    figure = importlib.import_module(f"experiments.{name}.figure")
    return tuple(figure.claims(numbers(name)))


def claim(name: str, start: str, form: str = ".3g") -> str:
    """The value of the one claim of an experiment that starts with these words; it must hold."""
    found = [each for each in claims_of(name) if each.claim.startswith(start)]
    if len(found) != 1 or not found[0].verdict:
        raise ValueError(f"{name} has {len(found)} claims that start with {start!r}, or it is false")
    return format(found[0].value, form)


def cell(name: str, query: str, column: str, form: str = ".3g") -> str:
    """The number in a column of the one row of an experiment's figure.csv that a pandas query selects."""
    rows = numbers(name).query(query)
    if len(rows) != 1:
        raise ValueError(f"{name}: {query!r} selects {len(rows)} rows")
    return format(rows[column].iloc[0], form)


def table(name: str, query: str, columns: list[str], form: str = ".3g") -> str:
    """A table of the rows of an experiment's figure.csv that a pandas query selects."""
    rows = numbers(name).query(query)[columns] if query else numbers(name)[columns]
    return markdown.table(columns, ([_text(value, form) for value in row] for row in rows.itertuples(index=False)))


def _text(value, form: str) -> str:
    """A cell: a divergence as its formula, and a dash for what is missing."""
    if isinstance(value, float):
        return "-" if pd.isna(value) else format(value, form)
    return divergences.REGISTRY[value].formula if value in divergences.REGISTRY else str(value)


def timings(name: str, columns: Sequence[str] = (), query: str = "") -> str:
    """The committed rows of a benchmark in `experiments/speed` that a pandas query selects, or those columns of them."""
    rows = pd.read_csv(EXPERIMENTS / "speed" / f"{name}.csv")
    rows = rows.query(query) if query else rows
    rows = rows[list(columns)] if columns else rows
    header = [column.replace("times_", "times ").replace("_", " ") for column in rows]
    return markdown.table(header, ([_timing(value) for value in row] for row in rows.itertuples(index=False, name=None)))


def _timing(value) -> str:
    """A cell of a benchmark: thousands separators and three digits, commands as code, a dash for what is missing."""
    if isinstance(value, str):
        return f"`{value}`" if value.startswith(("rlkl -", "rlkl list", "import ", "hydra/")) else markdown.cell(value)
    if pd.isna(value):
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


def claims(name: str) -> str:
    """Every claim of an experiment with its value, bound and verdict."""
    rows = (
        (markdown.cell(each.claim), f"{each.value:.4g}", each.bound, "yes" if each.verdict else "no")
        for each in claims_of(name)
    )
    return markdown.table(("claim", "value", "bound", "holds"), rows)


def figure(name: str, alt: str) -> str:
    """The committed figure of an experiment, and the command that draws it."""
    path = EXPERIMENTS / name / "figure.png"
    if not path.exists():
        raise ValueError(f"{name} has no committed figure.png")
    caption = f"`python -m experiments {name}` draws it and checks its claims."
    return f"```{{figure}} /../experiments/{name}/figure.png\n:alt: {alt}\n\n{caption}\n```\n"


def paper_index(kind: str = "claim") -> str:
    """A row for each cited paper of a kind: its claim, the command, the verdict with a number, and where its figure is.

    kind: "claim" for papers whose statement is checked here, "method" for those whose method rlkl implements or uses.
    """
    papers = yaml.safe_load((Path(__file__).with_name("papers.yaml")).read_text(encoding="utf-8"))
    papers = [paper for paper in papers if paper.get("kind", "claim") == kind]
    rows = []
    for paper in papers:
        link = f"[{paper['title']}](https://arxiv.org/abs/{paper['arxiv']})" if "arxiv" in paper else paper["title"]
        starts = [paper["number"]] if isinstance(paper.get("number", []), str) else paper.get("number", [])
        number = f": {max((claim(paper['experiment'], start) for start in starts), key=float)}" if starts else ""
        cells = (
            f"{link} ({paper['authors']}, {paper['year']})",
            paper["claim"],
            f"`{paper['command']}`",
            paper["verdict"] + number,
            paper["where"],
        )
        rows.append(cells)
    return markdown.table(("paper", "claim", "command", "verdict", "where"), rows)


def folklore() -> str:
    """A row for each thing that people say of KL penalties: the verdict with its numbers, and where its figure is."""
    rows = []
    for said in yaml.safe_load((Path(__file__).with_name("folklore.yaml")).read_text(encoding="utf-8")):
        numbers = [f"**{claim(*number)}**" for number in said["numbers"]]
        command = " ".join(dict.fromkeys(f"`{experiment}`" for experiment, *_ in said["numbers"]))
        rows.append((said["folklore"], said["verdict"].format(*numbers), said["where"], command))
    return markdown.table(("people say", "what came out", "figure", "experiment"), rows)


def experiments_table() -> str:
    """A row for each experiment: its name, what it shows, and how many claims it makes."""
    rows = []
    for path in sorted(EXPERIMENTS.glob("*/sweep.yaml")):
        name = path.parent.name
        count = len(claims_of(name)) if (path.parent / "figure.csv").exists() else "-"
        rows.append((f"`{name}`", markdown.cell(evidence.describe(name).headline), str(count)))
    return markdown.table(("experiment", "shows", "claims"), rows)
