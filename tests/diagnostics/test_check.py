"""`rlkl check`: known faults are told apart and correct losses pass, in JAX and, where it is installed, in PyTorch."""

import importlib.util

import jax.numpy as jnp
import pytest

from rlkl.diagnostics.check import check, expect
from tests.diagnostics import losses

FRAMEWORKS = [
    "jax",
    pytest.param("torch", marks=pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")),
]
QUICK = ("bandit", "equal", "unequal", "extreme", "padded_left")


def build(factory, framework):
    if framework == "jax":
        return factory(losses.ops(jnp))
    import torch

    return factory(losses.ops(torch))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", losses.CORRECT)
def test_a_correct_loss_descends_what_it_should(name, framework):
    expected, factory = losses.CORRECT[name]
    loss = build(factory, framework)
    expect.assert_descends(loss, expected, coefficient=None if name == "a penalty alone" else 1.0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", losses.FAULTY)
def test_a_fault_is_named(name, framework):
    flag, worlds, factory = losses.FAULTY[name]
    report = check.check_loss(build(factory, framework), worlds=(*QUICK, "padded_right"))
    for world, says in worlds.items():
        row = report.row(world)
        assert says in (row.kind, row.divergence) or says in row.descends, row
    faults = {name for name in report.notes if name in (*expect.FAULTS, "scaled_by_std")}
    assert (flag in report.notes) if flag else not faults
    assert report.framework == framework
