"""The GPU benchmark, with the CPU in the GPU's place: what it compares and writes, and when it stops."""

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.speed import gpu

QUICK = gpu.Sizes(checked=2, runs=2, steps=2, batch=4, transformer_steps=1)


@pytest.mark.slow
def test_a_cpu_agrees_with_itself_and_every_part_is_written(tmp_path, capsys):
    out = tmp_path / "gpu.csv"
    assert gpu.benchmark(jax.devices("cpu")[:1], jax.devices("cpu")[:1], QUICK, out)
    table = pd.read_csv(out)
    assert list(table.part) == [part.name for part in gpu.parts(QUICK)]
    assert (table.relative_error.dropna() == 0.0).all()
    assert (table.ratio.dropna() > 0.0).all()
    assert capsys.readouterr().out.count("relative error 0") == 3


def test_a_difference_fails_and_no_part_starts_after_the_budget(tmp_path, monkeypatch, capsys):
    def off(devices):
        return [[np.array([1.0, 2.0 + 3e-5 * (devices is not cpu)])]]

    cpu, other = jax.devices("cpu")[:1], jax.devices("cpu")[:1]
    monkeypatch.setattr(gpu, "parts", lambda sizes: [gpu.Part("a", off, True)])
    assert not gpu.benchmark(other, cpu, QUICK, tmp_path / "gpu.csv")
    assert pd.read_csv(tmp_path / "gpu.csv").relative_error[0] == pytest.approx(1.5e-5)
    assert gpu.benchmark(other, cpu, QUICK, tmp_path / "none.csv", budget=-1.0)
    assert not (tmp_path / "none.csv").exists()
    assert "left out" in capsys.readouterr().out


def test_an_error_is_relative_and_nan_is_one():
    assert gpu.error([[np.array([1.0, 4.0])]], [[np.array([1.0, 2.0])]]) == 1.0
    assert gpu.error([[np.array([np.nan])]], [[np.array([1.0])]]) == np.inf
