"""Build an experiment: its sweeps through `rlkl -m`, then its table, figure, verdicts and a manifest of what they came from.

An experiment is a folder with `sweep.yaml` (override lists, each one `rlkl -m`; an empty list where nothing is trained) and
`figure.py`: a docstring with sources, `table(runs)`, `draw(table)`, `claims(table)`. Figure and claims are made from the CSV
that the table was written to, never from the table itself, so that what is drawn is what is in the file.

Reduced (`--quick`), the sweeps are those of sweep.yaml's second document where it has one, else of the first with one seed and
few steps; `table` is told by `quick=True` where it takes that. The claims of a reduced build are stated but not enforced.
"""

import hashlib
import importlib
import inspect
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import pandas as pd
import yaml

from experiments.harness import provenance
from experiments.harness.claims import Claim, claim_record
from rlkl import cli
from rlkl.reports import plots
from rlkl.runs.folder import files
from rlkl.runs.load import Runs, load

HERE = Path(__file__).parent.parent  # one folder an experiment
FORMATS = ("png", "pdf", "svg")  # in this order: a layout starts from where the last format left it
QUICK_STEPS = 20


class Finished(NamedTuple):
    """An experiment's runs (None where it trains nothing), the numbers it draws, its claims, and whether they count."""

    runs: Runs | None
    table: pd.DataFrame
    claims: list[Claim]
    reduced: bool


def names() -> list[str]:
    """Every experiment: a folder with a sweep and a figure."""
    return sorted(path.parent.name for path in HERE.glob("*/sweep.yaml") if (path.parent / "figure.py").is_file())


def sweeps(name: str, quick: bool = False) -> list[list[str]]:
    """The override lists of an experiment, each one `rlkl -m`."""
    documents = list(yaml.safe_load_all((HERE / name / "sweep.yaml").read_text(encoding="utf-8")))
    chosen = [[str(entry) for entry in entries] for entries in documents[1 if quick and len(documents) > 1 else 0]]
    return [_few(entries) for entries in chosen] if quick and len(documents) == 1 else chosen


def _few(overrides: list[str]) -> list[str]:
    """The same sweep with one seed, few steps and no tracking."""
    kept = [entry for entry in overrides if not entry.startswith(("seed=", "steps=", "tracking="))]
    return [*kept, "seed=0", f"steps={QUICK_STEPS}", "tracking=none"]


def module(name: str) -> ModuleType:
    """The experiment's `figure.py`."""
    return importlib.import_module(f"experiments.{name}.figure")


def is_reduced(name: str, quick: bool) -> bool:
    """Whether a build leaves anything out."""
    return quick and (bool(sweeps(name)) or _takes_quick(name))


def _takes_quick(name: str) -> bool:
    return "quick" in inspect.signature(module(name).table).parameters


def train(name: str, folder: Path, quick: bool = False, also: tuple[str, ...] = ()) -> Runs | None:
    """Run an experiment's sweeps below a folder, with overrides beside theirs; None where it has none.

    Each set of sweeps has a folder of its own, so that what other ones left there is never read; finished runs are taken from
    the store.
    """
    chosen = sweeps(name, quick)
    if not chosen:
        return None
    folder = folder / hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:8]
    for number, overrides in enumerate(chosen):
        if status := cli.main(["-m", *overrides, *also, f"hydra.sweep.dir={folder / str(number)}"]):
            raise SystemExit(status)
    return load(folder)


def build(name: str, runs_in: Path, out: Path, quick: bool = False, also: tuple[str, ...] = ()) -> Finished:
    """Train below `runs_in`, then write figure.csv, the figure, claims.json and manifest.json into `out`."""
    started = time.perf_counter()
    runs = train(name, runs_in, quick, also)
    jax.clear_caches()  # the sweep's programs: hundreds more for the table would exceed the mappings that Linux gives a process
    said = {"quick": True} if quick and _takes_quick(name) else {}
    files.write(out / "figure.csv", module(name).table(runs, **said).to_csv(index=False, lineterminator="\n"))
    table, claims = finish(name, out)
    about = provenance.manifest(name, sweeps(name, quick), is_reduced(name, quick), out)
    write_manifest(out, about | {"seconds": round(time.perf_counter() - started, 1)})
    return Finished(runs, table, claims, is_reduced(name, quick))


def redraw(name: str, out: Path) -> Finished:
    """Figure and claims anew from the CSV that a build left in `out`; nothing is trained or computed."""
    table, claims = finish(name, out)
    about = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    write_manifest(out, about | {"drawn_by": provenance.code(name), "files": provenance.files(out)})
    return Finished(None, table, claims, about["quick"])


def finish(name: str, out: Path) -> tuple[pd.DataFrame, list[Claim]]:
    """Write the figure and claims.json beside the figure.csv in `out`; returns its table and its claims."""
    table = pd.read_csv(out / "figure.csv", keep_default_na=False, na_values=[""])
    claims = module(name).claims(table)
    plots.save(module(name).draw(table), out / "figure", FORMATS)
    files.write(out / "claims.json", _json([claim_record(claim) for claim in claims]))
    return table, claims


def write_manifest(out: Path, about: dict[str, Any]) -> None:
    """manifest.json, its keys in one order."""
    files.write(out / "manifest.json", _json(about))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
