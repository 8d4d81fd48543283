"""A user's own divergence, task and policy, from their own file: as a function, and on an installed wheel."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import rlkl
from tests.helpers import CLONE, EXAMPLE

TASK_AND_POLICY = '''
import jax.numpy as jnp
from rlkl.policies import register as policy
from rlkl.policies.tabular import Tabular
from rlkl.tasks import register as task
from rlkl.tasks.bandits import card


@task("coins")
def coins(bias=0.5):
    """Two arms."""
    return card([0.0, 1.0], [1 - bias, bias], ["tails", "heads"])


@policy("timid", inits=("uniform",))
def timid(settings, task, support, key, dtype):
    """Starts uniform."""
    return Tabular(jnp.zeros((task.automaton.horizon, *task.log_reference.shape), dtype), support)
'''


def test_the_readme_s_divergence_trains_to_its_own_optimum(call, tmp_path):
    (tmp_path / "my_penalty.py").write_text(EXAMPLE.group(1))
    name = re.search(r'@register\("(\w+)"', EXAMPLE.group(1)).group(1)
    done = call(
        "plugins=[my_penalty.py]", f"penalty.divergence={name}", "task=bandit/two_modes", "tracking=none", "hydra.run.dir=run"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["divergence"] == name
    assert abs(summary["regret"]) <= 1e-5
    assert summary["divergence_value"] > 1e-3
    assert len(EXAMPLE.group(1).strip().splitlines()) <= 10


def test_a_task_and_a_policy_from_a_plugin(call, tmp_path):
    (tmp_path / "mine.py").write_text(TASK_AND_POLICY)
    chosen = ("task=plugin", "task.name=coins", "+task.bias=0.1", "policy=plugin", "policy.name=timid")
    done = call("plugins=[mine.py]", *chosen, "tracking=none", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    outcomes = pd.read_csv(tmp_path / "run" / "outcomes.csv")
    assert outcomes["outcome"].tolist() == ["tails", "heads"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["init"] == "uniform"
    code = "import rlkl; print(type(rlkl.load_policy('run')).__name__)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout == "Tabular\n"


def test_an_edited_plugin_is_compiled_anew(tmp_path):
    """In one process, as in a notebook: each training uses the definition of its time, also the first one again."""
    text, values = EXAMPLE.group(1).replace("triangular", "edited"), []
    chosen = [f"plugins=[{tmp_path / 'mine.py'}]", "penalty.divergence=edited", "penalty.beta=0.5", "steps=1"]
    twice = text.replace("return h *", "return 2 * h *").replace(", h *", ", 2 * h *").replace("=1.0", "=2.0")
    for definition in (text, twice, text):
        (tmp_path / "mine.py").write_text(definition)
        values.append(rlkl.train(chosen).summary["optimal_objective"])
    assert values[0] > values[1] + 1e-3
    assert values[0] == values[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The built wheel, unpacked by pip into an empty folder."""
    made, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(CLONE)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(made.glob("*.whl"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    return target


@pytest.mark.slow
def test_an_installed_wheel_works_in_an_empty_folder_with_a_plugin(command, installed, tmp_path):
    (tmp_path / "my_penalty.py").write_text(EXAMPLE.group(1))
    name = re.search(r'@register\("(\w+)"', EXAMPLE.group(1)).group(1)
    where = {"PYTHONPATH": str(installed)}
    code = "import rlkl; from rlkl.config import overrides; print(rlkl.__file__, overrides.config_directory())"
    paths = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True
    ).stdout
    assert paths.count(str(installed)) == 2
    done = command(
        "plugins=[my_penalty.py]",
        f"penalty.divergence={name}",
        "tracking=none",
        "hydra.run.dir=run",
        environment=where,
    )
    assert done.returncode == 0, done.stderr
    assert abs(json.loads((tmp_path / "run" / "summary.json").read_text())["regret"]) <= 1e-5
