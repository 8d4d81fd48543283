"""What an import loads: each command starts without what it has no use for."""

import subprocess
import sys

from tests.helpers import loaded_by


def test_importing_rlkl_loads_neither_wandb_nor_matplotlib_nor_jax():
    assert not {"wandb", "matplotlib", "jax", "pandas"} & loaded_by("import rlkl, rlkl.settings, rlkl.cli")


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
