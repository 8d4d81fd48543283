"""What an import loads: each command starts without what it has no use for."""

import subprocess
import sys

import pytest

from tests.helpers import loaded_by


def test_importing_rlkl_loads_neither_wandb_nor_matplotlib_nor_jax():
    assert not {"wandb", "matplotlib", "jax", "pandas"} & loaded_by("import rlkl, rlkl.settings, rlkl.cli")


@pytest.mark.parametrize("argument", ["penalty.betta=1", "penalty.beta=-1", "--help"])
def test_help_and_what_a_declaration_refuses_load_no_jax(argument):
    code = f"""
import contextlib, io, sys
from rlkl import cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main([{argument!r}])
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "wandb", "pandas"} & set(loaded)
    assert "hydra" in loaded


def test_training_loads_neither_wandb_nor_matplotlib():
    assert not {"wandb", "matplotlib", "pandas"} & loaded_by(
        "import rlkl.runs.execute, rlkl.reports.console, rlkl.reports.tables"
    )


def test_the_process_that_tracks_loads_no_jax():
    """It starts beside a training, and would take its time."""
    assert not {"jax", "numpy", "wandb"} & loaded_by("import rlkl.sweeps.tracking_process")


def test_training_loads_no_part_of_scipy():
    """They take a fifth of a second; what needs one loads it."""
    loaded = "import sys, rlkl.runs.execute, rlkl.reports.console, rlkl.reports.tables"
    code = f"{loaded}; print(*[name for name in sys.modules if name.startswith('scipy.s')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_drawing_a_figure_for_a_tracker_loads_no_jax():
    assert not {"jax", "wandb"} & loaded_by("import rlkl.reports.plots, rlkl.runs.tracking.results")


def test_reading_rollouts_loads_neither_pyarrow_nor_torch_nor_jax():
    assert not {"pyarrow", "torch", "jax", "pandas"} & loaded_by("import rlkl.diagnostics.diagnose.reading.files")
