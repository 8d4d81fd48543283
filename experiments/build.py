"""Run an experiment's sweep through `rlkl -m`, then make its table, its figure and its verdicts."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import pandas as pd
import yaml

from rlkl import cli, plots, records, results

HERE = Path(__file__).parent


class Claim(NamedTuple):
    """What a figure says, the number behind it, what the number must be, and whether it is."""

    claim: str
    value: float
    bound: str
    verdict: bool


class Finished(NamedTuple):
    """An experiment's runs (None where it trains nothing), the numbers it draws, and its claims."""

    runs: results.Runs | None
    table: pd.DataFrame
    claims: list[Claim]


def names() -> list[str]:
    """Every experiment: a folder with a sweep and a figure."""
    return sorted(path.parent.name for path in HERE.glob("*/sweep.yaml") if (path.parent / "figure.py").is_file())


def near(claim: str, value: float, expected: float, within: float) -> Claim:
    """A claim that a value lies within a distance of the expected one; false, never an error, where it is missing."""
    return Claim(claim, float(value), f"{expected:g} +- {within:g}", bool(abs(value - expected) <= within))


def at_most(claim: str, value: float, bound: float) -> Claim:
    """A claim that a value is at most a bound."""
    return Claim(claim, float(value), f"<= {bound:g}", bool(value <= bound))


def at_least(claim: str, value: float, bound: float) -> Claim:
    """A claim that a value is at least a bound."""
    return Claim(claim, float(value), f">= {bound:g}", bool(value >= bound))


def sweeps(name: str) -> list[list[str]]:
    """The override lists of an experiment, each one `rlkl -m`."""
    return [[str(entry) for entry in entries] for entries in yaml.safe_load((HERE / name / "sweep.yaml").read_text())]


def module(name: str) -> ModuleType:
    """The experiment's `figure.py`."""
    return importlib.import_module(f"experiments.{name}.figure")


def train(name: str, folder: Path) -> results.Runs | None:
    """Run an experiment's sweeps below a folder; None where it has none, all that it shows being exact."""
    if not sweeps(name):
        return None
    for number, overrides in enumerate(sweeps(name)):
        target = f"hydra.sweep.dir={folder / str(number)}"
        if status := cli.main(["-m", *overrides, target]):
            raise SystemExit(status)
    return results.load(folder)


def build(name: str, runs_in: Path, out: Path) -> Finished:
    """Train, then write figure.png, figure.pdf, figure.csv and claims.json into `out`."""
    runs, figure = train(name, runs_in), module(name)
    jax.clear_caches()  # the sweep's programs: hundreds more for the table would exceed the mappings that Linux gives a process
    table = figure.table(runs)
    claims = figure.claims(table)
    records.write(out / "figure.csv", table.to_csv(index=False, lineterminator="\n"))
    plots.save(figure.draw(pd.read_csv(out / "figure.csv")), out / "figure")
    records.write(out / "claims.json", json.dumps([claim_record(claim) for claim in claims], indent=2) + "\n")
    return Finished(runs, table, claims)


def claim_record(claim: Claim) -> dict[str, Any]:
    """A claim as JSON values."""
    return claim._asdict() | {"value": claim.value if claim.value == claim.value else None}
