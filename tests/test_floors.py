"""A module imports only from floors below its own (or from its own room)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlkl

FLOORS = {
    "settings": 0, "divergences": 0, "estimators": 0, "threefry": 0, "diversity": 0, "bradley_terry": 0, "numerics": 0,
    "tables": 0, "terminal": 0, "interrupts": 0,
    "tasks": 1, "policies": 1, "npz": 1,
    "rollout": 2, "comparison": 2,
    "exact": 3, "descent": 3, "controllers": 3, "penalty": 3, "terms": 3, "importance": 3,
    "oracle": 4, "algorithms": 4, "metrics": 4, "shaping": 4, "best_of_n": 4,
    "job": 5, "exact_losses": 5, "losses": 5, "training": 5, "matching": 5, "recognised": 6, "audit": 6,
    "plugins": 5, "composition": 5,
    "closing": 6, "pretraining": 6, "blocks": 6,
    "config": 6, "memory": 6, "overrides": 5,
    "records": 6, "tracking": 6, "background": 7, "results": 6, "report": 6, "listing": 6,
    "references": 6, "sealed": 6, "texts": 6, "portrait": 6,
    "scores": 0, "probes": 6,
    "store": 7, "runs": 7, "plots": 7, "suite": 7, "statistics": 7, "comparisons": 7,
    "audits": 8, "grading": 8, "scorecard": 8, "sweeps": 8, "jobs": 8,
    "machine": 1, "cluster": 9, "launcher": 10, "cli": 11,
}  # fmt: skip
# Within a floor, who may use whom: the order in which the house is built.
SAME_FLOOR = {
    ("numerics", "settings"), ("settings", "terminal"),
    ("estimators", "divergences"), ("penalty", "descent"), ("terms", "penalty"), ("audit", "recognised"),
    ("policies", "tasks"), ("metrics", "oracle"), ("shaping", "oracle"), ("best_of_n", "oracle"),
    ("losses", "job"), ("losses", "exact_losses"), ("exact_losses", "job"), ("training", "job"), ("training", "losses"),
    ("blocks", "closing"), ("memory", "blocks"), ("config", "memory"),
    ("records", "blocks"), ("records", "closing"), ("texts", "blocks"), ("texts", "config"),
    ("portrait", "blocks"), ("portrait", "closing"), ("portrait", "config"), ("portrait", "texts"),
    ("records", "texts"), ("records", "portrait"),
    ("references", "config"), ("references", "sealed"), ("references", "blocks"), ("references", "pretraining"),
    ("sealed", "records"),
    ("report", "blocks"),
    ("records", "config"), ("tracking", "config"), ("results", "records"), ("report", "config"), ("report", "records"),
    ("listing", "report"), ("runs", "store"), ("scorecard", "grading"),
}  # fmt: skip
ROOT = Path(rlkl.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlkl":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rlkl.")}
    return found


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) not in ("__init__", "__main__")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_module_imports_only_from_floors_below(path):
    own = room(path)
    for other in imported(path) - {own}:
        below = FLOORS[other] < FLOORS[own] or (own, other) in SAME_FLOOR
        assert below, f"{path.name} (floor {FLOORS[own]}) imports rlkl.{other} (floor {FLOORS[other]})"


def test_every_module_has_a_floor():
    assert {room(path) for path in MODULES} - {"__init__", "__main__"} == set(FLOORS)


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_rlkl_loads_neither_wandb_nor_matplotlib_nor_jax():
    assert not {"wandb", "matplotlib", "jax", "pandas"} & loaded_by("import rlkl, rlkl.settings, rlkl.cli")


def test_training_loads_neither_wandb_nor_matplotlib():
    assert not {"wandb", "matplotlib", "pandas"} & loaded_by(
        "import rlkl.runs.execute, rlkl.reports.console, rlkl.reports.tables"
    )


def test_the_process_that_tracks_loads_no_jax():
    """It starts beside a training, and would take its time."""
    assert not {"jax", "numpy", "wandb"} & loaded_by("import rlkl.runs.tracking_process")


def test_training_loads_no_part_of_scipy():
    """They take a fifth of a second; what needs one loads it."""
    loaded = "import sys, rlkl.runs.execute, rlkl.reports.console, rlkl.reports.tables"
    code = f"{loaded}; print(*[name for name in sys.modules if name.startswith('scipy.s')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
