"""engine=submitit: groups are shipped, pickled, to jobs that write to the store; with submitit itself where it is installed."""

import importlib.util
import os
import pickle
import subprocess
import sys
import types
from typing import ClassVar

import pandas as pd
import pytest

from rlkl import settings
from rlkl.errors import SettingsError
from rlkl.sweeps import cluster
from tests.helpers import WHOLE, files, finished, job, stored

PROCESS = (
    "import pickle, sys; call, arguments = pickle.load(sys.stdin.buffer); pickle.dump(call(*arguments), sys.stdout.buffer)"
)


class Executor:
    """submitit's interface, as far as it is used: every job is pickled and runs in a process of its own."""

    made: ClassVar[list["Executor"]] = []

    def __init__(self, folder, cluster=None):
        self.folder, self.cluster, self.parameters, self.shipped = folder, cluster, {}, []
        Executor.made.append(self)

    def update_parameters(self, **parameters):
        if "nonsense" in parameters:
            raise NameError("unexpected parameter nonsense")
        self.parameters = parameters

    def batch(self):
        import contextlib

        return contextlib.nullcontext()

    def submit(self, call, *arguments):
        self.shipped.append(pickle.dumps((call, arguments)))
        sent = self.shipped[-1]
        run = lambda: subprocess.run([sys.executable, "-c", PROCESS], input=sent, capture_output=True, check=True, timeout=300)  # noqa: E731
        return types.SimpleNamespace(result=lambda: pickle.loads(run().stdout))


@pytest.fixture
def fake(monkeypatch):
    Executor.made.clear()
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor))
    return Executor


@pytest.mark.slow
def test_parts_of_a_group_are_trained_elsewhere_to_the_same_bits(tmp_path, fake):
    jobs = [job(seed) for seed in range(3)]
    engine = settings.Engine("submitit", None, 2, {"timeout_min": 5})
    parts = cluster.train_on_cluster(jobs, tmp_path / "there", engine, lambda told: None, WHOLE)
    there = {key: entry for part in parts for key, entry in part}
    (executor,) = fake.made
    assert executor.parameters == {"timeout_min": 5}
    assert len(executor.shipped) == 2
    here = finished(jobs, tmp_path / "here")
    for each in jobs:
        assert files(there[each.key]) == files(here[each.key])
        assert stored(tmp_path / "there", each.key) is not None


def test_a_bad_parameter_and_a_missing_submitit_are_one_line(tmp_path, fake, monkeypatch):
    engine = settings.Engine("submitit", None, 2, {"nonsense": 5})
    with pytest.raises(SettingsError, match=r"engine\.parameters=.*submitit says: unexpected parameter nonsense"):
        next(cluster.train_on_cluster([job(0)], tmp_path, engine, lambda told: None, WHOLE))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"engine='submitit': needs the package submitit \(pip install"):
        next(cluster.train_on_cluster([job(0)], tmp_path, engine, lambda told: None, WHOLE))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed (an extra)")
def test_submitit_s_local_executor_trains_a_sweep(command, tmp_path):
    sweep = ("-m", "task=bandit/random", "steps=20", "tracking=none", "seed=0,1", "engine=submitit")
    done = command(*sweep, "engine.cluster=local", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "sweep" / "results.csv")) == 2


def test_without_submitit_the_command_says_what_is_missing(command, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "submitit.py").write_text("raise ImportError\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])}
    sweep = ("-m", "task=bandit/random", "steps=20", "tracking=none", "seed=0,1", "engine=submitit")
    done = command(*sweep, environment=environment)
    assert done.returncode == 2
    assert done.stderr == "error: engine='submitit': needs the package submitit (pip install 'rlkl[submitit]')\n"
